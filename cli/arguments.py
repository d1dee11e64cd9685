"""The command-line arguments: Hydra's options and ours in any order, mixed with overrides."""

import argparse
from collections.abc import Sequence

from quantlab.errors import RequestError, did_you_mean


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise RequestError(f"{message.removeprefix('argument ')}; type quantlab --help for all options")


def read_arguments(words: Sequence[str]) -> argparse.Namespace:
    """The options by name (`multirun`, `config_dir`, ...) and the list `overrides`.

    Raises `RequestError` for all unknown options at once, and for an option without its value.
    """
    parser = _parser()
    found, unknown = parser.parse_known_intermixed_args(list(words))
    found.overrides += [word for word in unknown if not word.startswith("-")]
    if unknown := [word for word in unknown if word.startswith("-")]:
        known = [option for action in parser._actions for option in action.option_strings]
        raise RequestError(
            *(
                f"{word}: no such option{did_you_mean(word.split('=')[0], known) or ';'} Type quantlab --help for all"
                for word in unknown
            )
        )
    if found.cfg is None and (found.resolve or found.package is not None):
        raise RequestError("--resolve, --package: only work together with --cfg; type --cfg job too")
    if found.dry_run and (found.cfg is not None or found.info is not None):
        raise RequestError("--dry-run: shows the jobs of a sweep, --cfg and --info a config; type one of them")
    if found.config_path is not None:
        raise RequestError("--config-path: would replace quantlab's own YAML; type --config-dir DIR, which adds yours")
    return found


def flags(arguments: argparse.Namespace) -> list[str]:
    """The options that select config folders, as typed."""
    named = {"--config-dir": arguments.config_dir, "--config-name": arguments.config_name}
    return [word for option, value in named.items() if value not in (None, "config") for word in (option, value)]


def question(arguments: argparse.Namespace) -> list[str]:
    """The options that query Hydra instead of starting a run; empty if there are none."""
    asked = [
        option for option in ("--hydra-help", "--shell-completion") if getattr(arguments, option[2:].replace("-", "_"))
    ]
    if arguments.cfg is not None:
        asked += ["--cfg", arguments.cfg] + ["--resolve"] * arguments.resolve
        asked += ["--package", arguments.package] if arguments.package is not None else []
    return asked + ([f"--info={arguments.info}"] if arguments.info is not None else [])


def _parser() -> _Parser:
    """Hydra's own parser (hydra._internal.utils.get_args_parser), which would print its usage and exit at a mistake."""
    parser = _Parser(prog="quantlab", add_help=False, allow_abbrev=False)
    parser.add_argument("overrides", nargs="*")
    for option in (
        ["--help", "-h"],
        ["--version"],
        ["--multirun", "-m"],
        ["--yes", "-y"],
        ["--dry-run"],
        ["--resolve"],
        ["--hydra-help"],
        ["--shell-completion", "-sc"],
    ):
        parser.add_argument(*option, action="store_true")
    for option in (["--config-dir", "-cd"], ["--config-name", "-cn"], ["--config-path", "-cp"], ["--package", "-p"]):
        parser.add_argument(*option)
    parser.add_argument("--cfg", "-c", choices=["job", "hydra", "all"])
    parser.add_argument(
        "--info",
        "-i",
        nargs="?",
        const="all",
        choices=["all", "config", "defaults", "defaults-tree", "plugins", "searchpath"],
    )
    return parser
