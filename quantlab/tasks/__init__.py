"""Tasks: data, normalization, labels, and evaluation."""
