"""What each model is asked for: one file a model or a family of them, found by its place."""
