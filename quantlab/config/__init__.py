"""The typed configuration: what may be asked for, said once, and checked before any work. Never imports torch.

A file of `methods`, `models`, `quantizers`, `tasks` says which keys a section has, what they may hold, and which
combinations make sense; `sections` finds it (and so, through `_target_`, what may be instantiated at all). `validation`
turns a plain mapping into a `RunConfig` or into every problem at once, `plain` goes back to plain data, hashes it, and
builds the object that a section describes.
"""

import quantlab.config.resolvers  # noqa: F401  (registers them)
from quantlab.config.finished_run import with_finished_run
from quantlab.config.plain import config_hash, implementation, instantiate, to_plain
from quantlab.config.validation import RunConfig, find_problems, judged, load_config, option_section, validate

__all__ = [
    "RunConfig",
    "config_hash",
    "find_problems",
    "implementation",
    "instantiate",
    "judged",
    "load_config",
    "option_section",
    "to_plain",
    "validate",
    "with_finished_run",
]
