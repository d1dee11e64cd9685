"""Metrics on features of Inception, by torch-fidelity's port of the original network, with the original's resizing, as
in published numbers: beside FID the Inception score (Salimans et al. 2016), sFID (Nash et al. 2021), and precision and
recall (Kynkaanniemi et al. 2019), each as the evaluator of ADM (Dhariwal and Nichol 2021) has it.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from quantlab.errors import RequestError
from quantlab.metrics.weights import NO_WEIGHTS
from quantlab.optional import require

SPATIAL_CHANNELS = 7  # of `mixed_6/conv`, 17 x 17 pixels each
SPLIT = 5000  # images of one Inception score, whose mean is reported
NEIGHBOURS = 3
REFERENCES = 10_000  # images of the task that precision and recall compare with, at most
AT_ONCE = 1000  # rows of distances in memory


def weights_url() -> str:
    """Raises RequestError where torch-fidelity is not installed."""
    require("torch-fidelity", "metrics", "a metric on Inception's features")
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    return URL_INCEPTION_V3


class Inception(nn.Module):
    """images float `[N, 1 or 3, H, W]` in [-1, 1] to its features; file: its weights, of which only tensors are read.

    Raises RequestError where the file holds something else.
    """

    num_features = 2048

    def __init__(self, file: Path):
        super().__init__()
        from torchmetrics.image.fid import NoTrainInceptionV3

        try:
            network = NoTrainInceptionV3("inception-v3-compat", [str(self.num_features)], str(file), antialias=False)
        except NO_WEIGHTS as error:
            raise RequestError(
                f"{file} is damaged, or not the weights of Inception ({type(error).__name__}); remove it, and"
                " task.evaluation.download=true fetches it again"
            ) from error
        self.network, self._spatial = network, torch.empty(0)
        # ADM's mixed_6 is the fourth of five blocks of 17 x 17 pixels, conv its first branch
        network.Mixed_6d.branch1x1.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple, output: Tensor) -> None:
        self._spatial = output[:, :SPATIAL_CHANNELS]

    def features(self, images: Tensor) -> Tensor:
        """The pooled ones, `[N, 2048]`."""
        return self.outputs(images)["pool"]

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """`pool` `[N, 2048]`; `spatial` `[N, 2023]`, of sFID; `logits` `[N, 1008]` without bias, of the score."""
        pool = self.network(to_inception(images))
        return {"pool": pool, "spatial": self._spatial.flatten(1), "logits": pool @ self.network.fc.weight.T}


def to_inception(images: Tensor) -> Tensor:
    """float `[N, 1 or 3, H, W]` in [-1, 1] to Inception's input: uint8 RGB `[N, 3, H, W]`."""
    levels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return levels.expand(-1, 3, -1, -1)


def inception_score(logits: Tensor) -> float:
    """exp(E KL(p(y|x) || p(y))), the mean over splits of 5,000 images in their order; logits: `[N, classes]`."""
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

    return isc_features_to_metric(logits, max(1, round(len(logits) / SPLIT)), shuffle=False)[KEY_METRIC_ISC_MEAN]


def precision_recall(samples: Tensor, references: Tensor) -> dict[str, float]:
    """`precision`: the share of samples within the reach of a reference, its distance to its third neighbour;
    `recall`: the share of references within that of a sample. Features `[N, D]`, `[M, D]` of more than three images
    each.
    """
    from torch_fidelity.metric_prc import prc_features_to_metric

    options = {"prc_neighborhood": NEIGHBOURS, "prc_batch_size": AT_ONCE, "save_cpu_ram": True, "verbose": False}
    found = prc_features_to_metric(samples, references, **options)
    return {name: found[name] for name in ("precision", "recall")}
