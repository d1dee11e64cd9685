"""The Frechet distance between two sets of images, in a chosen feature space (Heusel et al. 2017, Eq. 6).

With Inception's features it is the FID that papers report. With a small classifier of the task's own labels it
evaluates 8x8 digits in a second. Never compare values of different feature networks or sample counts.
"""

import functools
import logging
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from quantlab.errors import RequestError

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
    int `num_features`, as `TaskClassifier` has; or is "inception": the 2048 pooled features of torch-fidelity's port of
    the original network, with the original's resizing, as in published numbers. Means and covariances are
    accumulated in float64 by torchmetrics, on the CPU. The network is moved to `device` and put in evaluation mode.
    """

    def __init__(
        self, feature_network: nn.Module | str, batch_size: int = 256, device: torch.device | str = "cpu"
    ) -> None:
        """Raises RequestError when `feature_network` is "inception" and its package or weights are unavailable."""
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

    def __init__(self, feature_network: nn.Module | str, device: torch.device | str = "cpu"):
        super().__init__()
        network = _Inception() if feature_network == "inception" else feature_network
        self.network, self.device = network.to(device).eval(), device
        self.num_features = network.num_features

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


class _Inception(nn.Module):
    """torch-fidelity's Inception with the TensorFlow 1 resizing that published FIDs were computed with."""

    num_features = 2048

    def __init__(self) -> None:
        super().__init__()
        from torchmetrics.image.fid import NoTrainInceptionV3

        instead = (
            "or type task.evaluation.features=task_classifier, which needs labels, or task.evaluation.features=none for"
            " everything but FID"
        )
        try:
            self.network = NoTrainInceptionV3("inception-v3-compat", [str(self.num_features)], antialias=False)
        except ModuleNotFoundError as error:
            raise RequestError(
                f"features=inception needs torch-fidelity: pip install torch-fidelity; {instead}"
            ) from error
        except (OSError, RuntimeError) as error:
            raise RequestError(
                f"Inception's weights (91 MB, kept under {torch.hub.get_dir()}) could not be downloaded"
                f" ({type(error).__name__}: {error}); connect once, {instead}"
            ) from error

    def features(self, images: Tensor) -> Tensor:
        return self.network(_to_inception(images))


def _to_inception(images: Tensor) -> Tensor:
    """float `[N, 1 or 3, H, W]` in [-1, 1] to Inception's input: uint8 RGB `[N, 3, H, W]`."""
    levels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return levels.expand(-1, 3, -1, -1)


@functools.cache
def _warn_of_bias(samples: int) -> None:
    if samples < FEW_SAMPLES:
        log.warning("FID of %d samples is biased upward; compare equal counts only", samples)
