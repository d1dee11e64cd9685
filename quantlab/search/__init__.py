"""Neural architecture search: spaces, accuracies of subnets, and search strategies. Only modules that run subnets
import torch.
"""
