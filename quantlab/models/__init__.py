"""Full-precision models."""
