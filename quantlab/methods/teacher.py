"""ReActNet's distributional loss: a binary network learns what a network in full precision predicts, not the labels.

"ReActNet: Towards Precise Binary Neural Network with Generalized Activation Functions", Liu et al., ECCV 2020, Sec.
4.3. Over n images X and the classes c, with the teacher's probabilities p_R and the student's p_B,

    L = -1/n sum_X sum_c p_R(c | X) log(p_B(c | X) / p_R(c | X)).

The released code minimizes the cross-entropy with p_R, which is L plus the entropy of p_R and has the same gradients;
so does this: p_R takes the place of the labels. The teacher sees the student's images, augmented as they are, in
evaluation mode. Nothing of it is trained or saved.
"""

import copy
import functools
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from quantlab.config import instantiate, load_config
from quantlab.errors import RequestError, RunError
from quantlab.methods.base import RunContext
from quantlab.models.timm_classifier import build_timm_classifier, fetch_weights
from quantlab.models.weight_names import match
from quantlab.models.weights import locate, read
from quantlab.run.directory import RunDirectory
from quantlab.run.state import tensors_digest

KEY = "method.teacher"


class Teacher:
    """A frozen copy of a classifier: float images `[N, C, H, W]` to logits `[N, classes]`."""

    def __init__(self, network: nn.Module):
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @classmethod
    def of(cls, section: Any, context: RunContext) -> "Teacher | None":
        """The teacher of `method.teacher`; None where there is none, and for `start`, whose weights are not there yet.

        Raises RequestError for an architecture that timm does not know, and weights that cannot be had or are of other
        classes.
        """
        if section.architecture == "start" or section.architecture is None and section.weights is None:
            return None
        if section.architecture is None:
            network = _of_run(section.weights, context.task)
        else:
            network = _of_timm(section, context.task)
        return cls(network.to(context.device))

    @staticmethod
    def check_files(section: Any) -> None:
        """Raises RequestError where the weights of `method.teacher` are not there, or do not say what they are of."""
        if section.weights is None:
            return
        locate(section.weights, f"{KEY}.weights")
        if section.architecture is None and not RunDirectory(section.weights).holds_a_run():
            raise RequestError(
                f"{KEY}.weights: {section.weights} is not the directory of a run, which says what network it "
                f"is of; type {KEY}.architecture=NAME beside it"
            )

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """p_R: float32 `[N, classes]`, each row of sum 1."""
        return self.network(images).float().softmax(dim=1)

    @functools.cached_property
    def fingerprint(self) -> str:
        return tensors_digest(self.network.state_dict())

    def require_same(self, fingerprint: str) -> None:
        """Raises RunError unless this is the teacher that a run began with."""
        if fingerprint != self.fingerprint:
            raise RunError(
                f"{KEY}: its weights are not those that the run began with; put these back where they were, or "
                "start anew"
            )


def _of_timm(section: Any, task: Any) -> nn.Module:
    architecture, key = section.architecture, f"{KEY}.weights"
    network = build_timm_classifier(SimpleNamespace(architecture=architecture, pretrained=False), task, KEY)
    path = section.weights or fetch_weights(architecture, f"{KEY}.architecture", f"{key}=FILE, a .safetensors file")
    return _with_weights(network, path, key if section.weights else f"{KEY}.architecture")


def _of_run(directory: str, task: Any) -> nn.Module:
    model = load_config(directory).model
    if model.kind != "classifier":
        raise RequestError(
            f"{KEY}.weights: {directory} holds a {model.kind}, {model.name}, allowed: a run of a classifier"
        )
    own = {key: False for key in ("pretrained",) if hasattr(model, key)}
    return _with_weights(instantiate(model.model_copy(update=own), task=task), directory, f"{KEY}.weights")


def _with_weights(network: nn.Module, path: str, key: str) -> nn.Module:
    tensors, facts = read(path, key)
    if "bits" in facts:
        raise RequestError(
            f"{key}: {path} holds a model quantized to {facts['bits']}, allowed: weights in full precision, "
            "as method=pretrain leaves them"
        )
    found = match(tensors, network, f"{key}: {path}")
    if found.new:
        raise RequestError(
            f"{key}: {path} has other classes than the task ({found.new[0]} would be new), allowed: a "
            "teacher of the task's classes; train one with method=pretrain, and give its directory"
        )
    network.load_state_dict(found.tensors)
    return network
