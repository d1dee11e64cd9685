"""README.md and docs/ as data: their blocks of code, the files of their own that they show, their commands."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"`((?:quantlab|conf)/[\w/.]+\.(?:py|yaml))`")
TEXT = "\n".join(document.read_text("utf-8") for document in DOCUMENTS)
SPANS = [" ".join(span.split()) for span in re.findall(r"`([^`\n]+(?:\n[^`\n]+)?)`", FENCED.sub("", TEXT))]


class Block(NamedTuple):
    """Code of a page. file: the last one named in the paragraph above, which is the file that the code is."""

    page: str
    language: str
    code: str
    file: str | None


def blocks() -> list[Block]:
    found = []
    for document in DOCUMENTS:
        text = document.read_text("utf-8")
        for block in FENCED.finditer(text):
            above = text[: block.start()].rstrip().rpartition("\n\n")[2]
            named = FILE.findall(above) if block[1] in ("python", "yaml") else []
            found.append(Block(document.name, block[1], block[2], named[-1] if named else None))
    return found


BLOCKS = blocks()
PROGRAMS = [block.code for block in BLOCKS if block.language == "python" and block.file is None]
OWN_FILES = [block for block in BLOCKS if block.file is not None]
# a command may go on in the next line
LINES = [line for block in BLOCKS if not block.language for line in block.code.replace("\\\n", " ").splitlines()]
NOT_COMPOSED = ("--help", "resume=", "--config-dir", "--cfg", "NAME", "KEY=")  # no config of a run of ours


def commands() -> list[str]:
    """Every `quantlab ...` that would start a run or a sweep."""
    parts = [part.strip() for line in [*LINES, *SPANS] for part in line.split(" && ")]
    found = dict.fromkeys(
        shlex.join(shlex.split(part, comments=True)) for part in parts if part.startswith("quantlab ")
    )
    return [command for command in found if not any(word in command for word in NOT_COMPOSED)]
