"""What each task is asked for: one file a family of tasks, found by its place. `kind` is what a method needs."""
