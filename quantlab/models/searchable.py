"""The space of a searchable model, without the model: each says it beside its builder, as `space_of(section)`."""

from importlib import import_module

from quantlab.config import implementation
from quantlab.search.spaces import SearchSpace


def space_of(section) -> SearchSpace:
    """The space whose encodings `model.subnet` takes. The sizes of the task are not known, and do not matter to it."""
    return import_module(implementation(section).__module__).space_of(section)
