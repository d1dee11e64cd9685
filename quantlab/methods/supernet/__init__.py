"""method=supernet: dynamic supernet training for architecture search, then ranking and search.

"Subnet-Aware Dynamic Supernet Training for Neural Architecture Search", Jeon et al., CVPR 2025 (arXiv 2503.10740):

- complexity-aware learning rate (CaLR): lr = lr0 (1 - t/T)^gamma(a), gamma falling with the active subnet's complexity,
  so that large subnets, which converge slowly, keep a high rate for longer;
- momentum separation (MS): one momentum buffer per cluster of subnets over shared weights; a cluster is the subnets
  with the same operation at one decision.

Both work with SPOS, FairNAS and few-shot NAS. FairNAS takes one optimizer step for several subnets, so there CaLR
weights their losses at a constant learning rate (the released code).

`training` ends with a trained supernet; `evaluation` ranks subnets by the accuracy they have with its weights, and
searches for the best one.
"""

from quantlab.methods.supernet.training import Supernet

__all__ = ["Supernet"]
