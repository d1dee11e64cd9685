"""Whether a page for the browser can be written, asked before any work."""

import importlib.util
from pathlib import Path

from quantlab.errors import RequestError


def require_html(file: Path) -> None:
    """Raises RequestError where plotly, which draws the curves, is not installed, or `file` cannot be a file."""
    if importlib.util.find_spec("plotly") is None:
        raise RequestError("--html needs plotly; type pip install -e '.[report]'")
    if file.is_dir():
        raise RequestError(f"--html: got {file}, a folder; type --html {file / 'runs.html'}")
