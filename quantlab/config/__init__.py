"""The typed configuration: what may be asked for, said once, and checked before any work. Never imports torch.

`sections` says which keys exist and what they may hold (and, through `_target_`, what may be instantiated at all),
`checks` which combinations make sense, `validation` turns a plain mapping into a `RunConfig` or into every problem at
once, `plain` goes back to plain data, hashes it, and builds the object that a section describes.
"""

import quantlab.config.resolvers  # noqa: F401  (registers them)
from quantlab.config.finished_run import with_finished_run
from quantlab.config.plain import config_hash, implementation, instantiate, to_plain
from quantlab.config.validation import RunConfig, find_problems, load_config, section_of, validate

__all__ = [
    "RunConfig",
    "config_hash",
    "find_problems",
    "implementation",
    "instantiate",
    "load_config",
    "section_of",
    "to_plain",
    "validate",
    "with_finished_run",
]
