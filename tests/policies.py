"""Policies of quantizers as a run has them: of a validated section, that of the YAML but for what a test changes."""

from torch import nn

from quantlab.config import instantiate, option_section
from quantlab.config.catalog import merged
from quantlab.quantizers.calibration import calibrate_weights
from quantlab.quantizers.insert import insert
from quantlab.quantizers.policy import Policy


def section(name, weight=4, activation=None, gradient=None, first=None, last=None, rules=(), own=None, **more):
    """Of quantizer=NAME; `first` and `last`: bits of weight and activation, those of all layers if not given; `rules`:
    (pattern, bits of weight, bits of activation); `own`, nested as in YAML, and `more`: other keys.
    """
    bits = (weight, weight if activation is None else activation)

    def of_layer(weight_bits, activation_bits):
        return {"weight_bits": weight_bits, "activation_bits": activation_bits}

    changes = {
        "weight": {"bits": bits[0]},
        "activation": {"bits": bits[1]},
        "gradient": gradient or {},
        "first_layer": of_layer(*(first or bits)),
        "last_layer": of_layer(*(last or bits)),
        "policy": [{"modules": pattern, **of_layer(*pair)} for pattern, *pair in rules],
    }
    return option_section("quantizer", name, merged(merged(changes, own or {}), more))


def policy(name, *bits, learn_weight_scale=True, **changes) -> Policy:
    """Of the `section` of those arguments."""
    own = section(name, *bits, **changes)
    return instantiate(own, **({"learn_weight_scale": learn_weight_scale} if own.kind == "training" else {}))


def quantize(network: nn.Module, policy: Policy) -> None:
    """Layers replaced, scales of weights chosen."""
    insert(network, policy)
    calibrate_weights(network)
