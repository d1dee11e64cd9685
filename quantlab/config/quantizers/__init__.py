"""What each quantizer is asked for: one file a quantizer, found by its place."""
