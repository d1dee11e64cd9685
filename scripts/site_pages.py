"""A hook of mkdocs: pages and pictures that lie outside docs/ are part of the site, and links to them hold.

README.md is its first page; results/ and the documents at the top of the repository lie beside it. So every page has
one text, whose links work where it lies in the repository as well as in the site.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md", "SECURITY.md": "SECURITY.md"}
LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)\s#]+)")


def on_files(files: Files, config: Any) -> Files:
    """Add what lies outside docs/."""
    measured = [path for path in sorted((ROOT / "results").iterdir()) if path.suffix in (".md", ".png")]
    pages = {f"results/{path.name}": path for path in measured} | {at: ROOT / name for name, at in OUTSIDE.items()}
    for place, path in pages.items():
        files.append(File.generated(config, place, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **others: Any) -> str:
    """Links as they are in the site."""
    written = next((ROOT / name for name, at in OUTSIDE.items() if at == page.file.src_uri), None)
    if written is None:
        home = ROOT if page.file.src_uri.startswith("results/") else ROOT / "docs"
        written = home / page.file.src_uri

    def moved(found: re.Match[str]) -> str:
        target = place((written.parent / found[2]).resolve())
        return found[0] if target is None else found[1] + "../" * page.file.src_uri.count("/") + target

    return LINK.sub(moved, markdown)


def place(path: Path) -> str | None:
    """Where a file of the repository lies in the site; None for what is no part of it."""
    if not path.is_relative_to(ROOT):
        return None
    name = path.relative_to(ROOT).as_posix()
    return OUTSIDE.get(name, name.removeprefix("docs/"))
