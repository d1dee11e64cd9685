"""A trained supernet: the accuracies of subnets with its weights."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from torch import Tensor, nn

from quantlab.methods.base import RunContext
from quantlab.methods.supernet.images import Batches, scoring_batches
from quantlab.search.evaluation import accuracies, recalibrated_accuracies
from quantlab.search.samplers import Sampler
from quantlab.search.spaces import Subnet


class TrainedSupernet:
    """weights: of each supernet that `sampler` trains; `model` holds one of them at a time. section: the method's
    `ranking`, which gives the images and BatchNorm statistics for scoring.
    """

    def __init__(
        self, model: nn.Module, sampler: Sampler, weights: list[dict[str, Tensor]], section, context: RunContext
    ):
        self.model, self.sampler, self.weights = model, sampler, weights
        self.section, self.context = section, context

    def images(self, part: str, count: int | None = None) -> Batches:
        return scoring_batches(self.context, part, self.section.batch_size, self.section.batches, count)

    @cached_property
    def validation_images(self) -> Batches:
        return self.images("validation", self.section.images)

    @cached_property
    def calibration_images(self) -> Batches:
        return self.images("train", self.section.calibration_images)

    def accuracies(self, subnets: Sequence[Subnet], what: str, images: Batches) -> list[float]:
        """Top-1 (percent) of each subnet on `images`. what: the label of the progress bar, and of the files from
        which an interrupted evaluation resumes.
        """
        scores = np.zeros(len(subnets))
        for part, weights in enumerate(self.weights):
            places = [place for place, subnet in enumerate(subnets) if self.sampler.part_of(subnet) == part]
            if not places:
                continue
            if len(self.weights) > 1:
                self.model.load_state_dict(weights)
            scores[places] = self._accuracies_in_part(
                [subnets[place] for place in places], f"{what}_{part}", what, images
            )
        return scores.tolist()

    def _accuracies_in_part(self, subnets: list[Subnet], name: str, what: str, images: Batches) -> list[float]:
        progress = self.context.progress
        if self.section.batch_norm == "recalibrated":
            return recalibrated_accuracies(self.model, subnets, images, self.calibration_images, progress, what)
        is_main = self.context.accelerator.is_main_process
        partial = self.context.directory.path / f"{name}-unfinished" if is_main else None
        return accuracies(self.model, subnets, images, progress, partial, what)

    def state_dict(self) -> dict[str, Tensor]:
        """All weights, with the prefix `supernetN.` for supernet n."""
        return {
            f"supernet{part}.{name}": tensor
            for part, state in enumerate(self.weights)
            for name, tensor in state.items()
        }
