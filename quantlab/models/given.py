"""A model as a section of the config gives it: built, and with the weights of the file that the section names."""

import logging

from torch import nn

from quantlab.config import instantiate
from quantlab.errors import RequestError
from quantlab.models.weight_names import match
from quantlab.models.weights import read
from quantlab.seeding import seed_everything

logger = logging.getLogger("quantlab")


def weights_of(model: nn.Module) -> nn.Module:
    """The part of a model that holds its weights: of a denoiser its network."""
    return model.weights() if hasattr(model, "weights") else model


def build_model(section, task):
    """The model that a config's `model` section describes, its initial weights drawn from its recipe's seed."""
    seed_everything(section.initial_seed)
    return instantiate(section, task=task)


def given_model(section, task, key: str = "model"):
    """`build_model`, with the weights of the file that the section names, if it names one. `key`: where the config
    has the section.
    """
    model = build_model(section, task)
    if section.weights is not None:
        load_weights(model, section.weights, f"{key}.weights")
    return model


def load_weights(model, path: str, key: str) -> None:
    """Load a file of weights into `model`, as `weights.read` and `weight_names.match` take it. Raises RequestError in
    one line for anything that is wrong with it; the model is then unchanged.

    With other classes than the file's the last layer is new: then `has_weights` is False, and the recipe trains on from
    the file. What is to be said of it, lines for the run's log, becomes `model.said_of_weights`.
    """
    tensors, facts = read(path, key)
    what = f"{key}: {path}"
    if "bits" in facts or any(name.endswith(".codes") for name in tensors):
        raise RequestError(
            f"{what} holds a model quantized to {facts.get('bits', 'integers')}, allowed: weights in full precision, as"
            " method=pretrain leaves them; they are quantized to the bits of this run's quantizer"
        )
    network = weights_of(model)
    found = match(tensors, network, what)
    network.load_state_dict(found.tensors)
    model.has_weights, model.weights_from = not found.new, f"{key}={path}"
    model.said_of_weights = ["; ".join([f"{what}: loaded", *found.notes])]
    if found.new:
        model.said_of_weights.append(
            f"{key}: {', '.join(found.new)} does not come from the file and is new; where the method starts "
            "from full precision, the recipe of model.pretrain trains on first"
        )


def say_of_weights(model) -> None:
    """Log what `load_weights` had to say: it is asked before there is a run to log to."""
    for line in getattr(model, "said_of_weights", ()):
        logger.info(line)
