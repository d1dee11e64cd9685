"""Methods: what happens in one training step."""
