"""What happens in one training step, one file per method."""
