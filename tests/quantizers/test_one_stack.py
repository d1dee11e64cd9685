"""What there is one of: a layer, a class of each name; and what a quantizer does not know."""

import importlib
import inspect
import pkgutil
from collections import Counter

from torch import nn

import quantlab.quantizers
from quantlab.quantizers.policy import Policy

MODULES = [
    importlib.import_module(f"quantlab.quantizers.{module.name}")
    for module in pkgutil.iter_modules(quantlab.quantizers.__path__)
]
CLASSES = [
    found
    for module in MODULES
    for _, found in inspect.getmembers(module, inspect.isclass)
    if found.__module__ == module.__name__
]


def test_no_two_classes_share_a_name():
    assert {name: count for name, count in Counter(found.__name__ for found in CLASSES).items() if count > 1} == {}


def test_of_all_classes_only_policies_take_a_section():
    takes = {found for found in CLASSES if "section" in inspect.signature(found.__init__).parameters}
    policies = {found for found in CLASSES if issubclass(found, Policy)}
    assert takes == policies and len(policies) > 7


def test_there_is_one_layer():
    layers = [found for found in CLASSES if issubclass(found, nn.Module) and hasattr(found, "makes_product")]
    assert [found.__name__ for found in layers] == ["QuantizedLayer"]
