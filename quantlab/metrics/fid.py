"""The Frechet distance between two sets of images, in a chosen feature space (Heusel et al. 2017, Eq. 6).

With Inception's features it is the FID that papers report. With a small classifier of the task's own labels it
evaluates 8x8 digits in a second. Never compare values of different feature networks or sample counts.
"""

import functools
import logging
from collections.abc import Iterable

import torch
from torch import Tensor, nn

log = logging.getLogger("quantlab")

FEW_SAMPLES = 2000

# Never synchronized: the measuring process has all images, and other processes may not be measuring at all.
OPTIONS = {"reset_real_features": False, "sync_on_compute": False}


class FrechetDistance:
    """Distances of many sets to one reference set, whose features are computed once.

        distance = FrechetDistance(task_classifier)
        distance.reference(task.reference())
        fid = distance.measure(samples)

    `feature_network` has `features(images) -> [N, num_features]` for float images `[N, C, H, W]` in [-1, 1], and the
    int `num_features`, as `TaskClassifier` and `metrics.inception.Inception` have. Means and covariances are
    accumulated in float64 by torchmetrics, on the CPU. The network is moved to `device` and put in evaluation mode.
    """

    def __init__(self, feature_network: nn.Module, batch_size: int = 256, device: torch.device | str = "cpu") -> None:
        from torchmetrics.image.fid import FrechetInceptionDistance

        self._metric = FrechetInceptionDistance(_Double(Features(feature_network, device)), **OPTIONS)
        self.batch_size = batch_size

    def reference(self, images: Tensor | Iterable[Tensor]) -> "FrechetDistance":
        """Set the reference: float `[N, C, H, W]` in [-1, 1], whole or in batches. Replaces any earlier one."""
        self._metric.reset_real_features = True
        self._metric.reset()
        self._metric.reset_real_features = False
        self._update(images, real=True)
        return self

    def measure(self, images: Tensor | Iterable[Tensor]) -> float:
        """The distance of `images`, float `[N, C, H, W]` in [-1, 1], to the reference; NaN if an image is not finite.

        Raises:
            RuntimeError: no reference was given, or either set has fewer than two images.
        """
        self._metric.reset()
        self._update(images, real=False)
        _warn_of_bias(int(min(self._metric.real_features_num_samples, self._metric.fake_features_num_samples)))
        moments = (self._metric.fake_features_cov_sum, self._metric.real_features_cov_sum)
        if not all(moment.isfinite().all() for moment in moments):
            return float("nan")  # the eigenvalue solver raises on non-finite values
        return max(0.0, self._metric.compute().item())  # rounding can make the distance of equal sets negative

    @torch.inference_mode()
    def _update(self, images: Tensor | Iterable[Tensor], real: bool) -> None:
        for batch in [images] if isinstance(images, Tensor) else images:
            for part in batch.split(self.batch_size):
                self._metric.update(part, real=real)


class Features(nn.Module):
    """`feature_network`, as `FrechetDistance` takes it, in evaluation mode on `device`: images on any device in, their
    features out, float32 `[N, num_features]` on the CPU.
    """

    def __init__(self, feature_network: nn.Module, device: torch.device | str = "cpu"):
        super().__init__()
        self.network, self.device = feature_network.to(device).eval(), device
        self.num_features = feature_network.num_features

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        return self.network.features(images.to(self.device, torch.float32)).cpu()


class Known(nn.Module):
    """The feature network of features that are known: given in the place of images, float32 `[N, num_features]`."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def features(self, images: Tensor) -> Tensor:
        return images


class _Double(nn.Module):
    """As torchmetrics calls it, which keeps the dtype: float64 on the CPU (MPS has none)."""

    def __init__(self, features: Features):
        super().__init__()
        self.features, self.num_features = features, features.num_features

    def forward(self, images: Tensor) -> Tensor:
        return self.features(images).double()


@functools.cache
def _warn_of_bias(samples: int) -> None:
    if samples < FEW_SAMPLES:
        log.warning("FID of %d samples is biased upward; compare equal counts only", samples)
