"""Neural architecture search: what subnets there are, how good they are, and which to try. Only what runs subnets
imports torch.
"""
