"""The registry of full-precision models."""
