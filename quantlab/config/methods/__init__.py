"""What each method is asked for: one file a method, found by its place."""
