"""Packages that only some requests need, each brought by an extra of pyproject.toml."""

import importlib.util

from quantlab.errors import RequestError


def problem_of(package: str, extra: str, what: str) -> str | None:
    """What to type where `package`, which `what` needs, is not installed; None where it is."""
    if importlib.util.find_spec(package.replace("-", "_")) is not None:
        return None
    return f"{what} needs {package}, which is not installed; type pip install -e '.[{extra}]' in quantlab's clone"


def require(package: str, extra: str, what: str) -> None:
    """Raises RequestError where `package`, which `what` needs, is not installed: asked before any work."""
    if problem := problem_of(package, extra, what):
        raise RequestError(problem)
