"""method=supernet: dynamic supernet training for architecture search, then ranking and search.

"Subnet-Aware Dynamic Supernet Training for Neural Architecture Search", Jeon et al., CVPR 2025 (arXiv 2503.10740):

- complexity-aware learning rate (CaLR): lr = lr0 (1 - t/T)^gamma(a), gamma falling with the active subnet's complexity,
  so that large subnets, which converge slowly, keep their rate for longer;
- momentum separation (MS): one momentum buffer per cluster of subnets over shared weights; the cluster is the operation
  at one decision.

Both for SPOS, FairNAS and few-shot NAS. FairNAS takes one optimizer step for several subnets, so there CaLR weights
their losses at a constant learning rate (the released code).

`training` ends with a trained supernet; `evaluation` ranks subnets by the accuracy they have with its weights, and
searches the best one.
"""

from quantlab.methods.supernet.training import Supernet

__all__ = ["Supernet"]
