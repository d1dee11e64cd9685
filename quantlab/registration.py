"""Makes diffusers know `quant_method: quantlab`, so that `from_pretrained` loads what was quantized here.

diffusers has no entry points for quantizers, but two mappings in one module. `import quantlab` imports neither
diffusers nor torch, so we add to them at once where that module was imported, and otherwise as soon as it is.
"""

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any


class AfterImport:
    """A finder, for `sys.meta_path`, of one module, which calls `then` with it as soon as it has run."""

    def __init__(self, name: str, then: Callable[[Any], None]):
        self.name, self.then = name, then

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == self.name else None
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                execute(module)
                self.then(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def when_imported(name: str, then: Callable[[Any], None]) -> None:
    """Call `then` with the module of that name: now, or when it is imported."""
    if name in sys.modules:
        then(sys.modules[name])
    else:
        sys.meta_path.insert(0, AfterImport(name, then))


def register_quantizer(auto: Any) -> None:
    """Add quantlab to the mappings of diffusers.quantizers.auto."""
    from quantlab.models.diffusers_quantizer import NAME, QuantlabConfig, QuantlabQuantizer

    auto.AUTO_QUANTIZER_MAPPING[NAME] = QuantlabQuantizer
    auto.AUTO_QUANTIZATION_CONFIG_MAPPING[NAME] = QuantlabConfig
