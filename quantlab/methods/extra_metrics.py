"""The metrics that `task.evaluation.metrics` names: sfid, inception_score, precision, recall, lpips, clip_score."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quantlab.methods.base import RunContext, seeded
from quantlab.methods.evaluation_networks import NEEDED_BY, network
from quantlab.metrics.fid import FrechetDistance, Known
from quantlab.metrics.inception import NEIGHBOURS, REFERENCES, SPLIT, inception_score, precision_recall
from quantlab.run.batch_files import BatchFiles

OUTPUTS = {"sfid": "spatial", "inception_score": "logits", "precision": "pool", "recall": "pool"}  # of Inception


class ExtraMetrics:
    """Those whose networks are there. features: FID's feature network, which may be one of them."""

    def __init__(self, context: RunContext, features: nn.Module | None):
        evaluation, self.device = context.task.evaluation, context.device
        self.batch_size = evaluation.batch_size
        given = {evaluation.features: features}
        self.networks: dict[str, Any] = {}
        for name in dict.fromkeys(NEEDED_BY[metric] for metric in evaluation.metrics):
            built = given[name] if name in given else network(name, evaluation)
            if built is not None:
                self.networks[name] = built.to(context.device).eval()
        self.names = [one for one in NEEDED_BY if one in evaluation.metrics and NEEDED_BY[one] in self.networks]
        self.outputs = {OUTPUTS[name] for name in self.names if name in OUTPUTS}
        # FID's features and these come from one pass
        self.gives_features = evaluation.features == "inception" and "inception" in self.networks
        self.compares_with_task = context.task.has_images and bool({"sfid", "precision", "recall"} & {*self.names})
        self.notes: list[str] = []
        self.pool = "features" if self.gives_features else "pool"  # its name in files
        self.facts = [*self.names, evaluation.lpips_network, evaluation.clip]
        self.protocol = self._protocol(evaluation)

    def _protocol(self, evaluation: Any) -> dict[str, Any]:
        words = {
            "sfid": "on 7 channels of Inception's mixed_6/conv (ADM's evaluator)",
            "inception_score": f"mean over splits of {SPLIT} samples in order (ADM's evaluator)",
            "precision": f"{NEIGHBOURS} neighbours in Inception's features, {REFERENCES} reference images at most",
            "lpips": evaluation.lpips_network,
            "clip_score": f"100 cos, {evaluation.clip.rstrip('/').rpartition('/')[2]}",
        }
        return {name: words["precision" if name == "recall" else name] for name in self.names}

    @torch.inference_mode()
    def of_images(self, images: Tensor, texts: Sequence[str] | None) -> dict[str, Tensor]:
        """What the metrics of sets are made of, one row an image, float on the CPU."""
        found = {}
        if "inception" in self.networks:
            outputs = self.networks["inception"].outputs(images.to(self.device))
            wanted = self.outputs | ({"pool"} if self.gives_features else set())
            found = {self.pool if name == "pool" else name: outputs[name].cpu() for name in sorted(wanted)}
        if "clip_score" in self.names and texts is not None:
            found["clip_score"] = self.networks["clip"].scores(images.to(self.device), list(texts))
        return found

    def of_pairs(self, images: Tensor, exact: Tensor) -> dict[str, Tensor]:
        """`lpips` of each image and the full-precision one of the same noise, float64 [N] on the CPU."""
        if "lpips" not in self.names:
            return {}
        return {"lpips": self.networks["lpips"](images.to(self.device), exact.to(self.device))}

    def compare_with(self, files: BatchFiles) -> None:
        """Take the task's images, as measured, for what sfid, precision and recall compare with."""
        if "sfid" in self.names:
            width = next(files.read("spatial")).shape[1]
            self.spatial = FrechetDistance(Known(width), self.batch_size).reference(files.read("spatial"))
        if "pool" in self.outputs:
            pool = files.whole(self.pool)
            if len(pool) <= NEIGHBOURS:
                self.names = [name for name in self.names if OUTPUTS.get(name) != "pool"]
                self.notes.append(f"precision, recall: not measured: the task has only {len(pool)} images")
            chosen = np.sort(seeded(0).permutation(len(pool))[:REFERENCES])
            self.references = pool[torch.from_numpy(chosen)]

    def metrics(self, files: BatchFiles) -> dict[str, float]:
        """Those of the set of images that `files` are of."""
        found: dict[str, float] = {}
        for name in self.names:
            if name == "sfid":
                found[name] = self.spatial.measure(files.read("spatial"))
            elif name == "inception_score":
                found[name] = inception_score(files.whole("logits"))
            elif name in ("precision", "recall") and name not in found:
                found |= self._precision_recall(files)
            elif name == "clip_score":
                found[name] = max(0.0, files.whole("clip_score").mean().item())
        return {name: found[name] for name in self.names if name in found}

    def _precision_recall(self, files: BatchFiles) -> dict[str, float]:
        on_device = self.device if self.device.type == "cuda" else torch.device("cpu")
        return precision_recall(files.whole(self.pool).to(on_device), self.references.to(on_device))
