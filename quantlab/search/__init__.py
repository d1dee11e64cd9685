"""Neural architecture search: what subnets there are, how good they are, and which to try. Imports no torch, except where subnets are run."""
