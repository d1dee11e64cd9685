"""Whether a page for the browser can be written, asked before any work."""

from pathlib import Path

from quantlab.errors import RequestError
from quantlab.optional import require


def require_html(file: Path) -> None:
    """Raises RequestError where plotly, which draws the curves, is not installed, or `file` cannot be a file."""
    require("plotly", "report", "--html")
    if file.is_dir():
        raise RequestError(f"--html: got {file}, a folder; type --html {file / 'runs.html'}")
