"""metrics.jsonl: one line per logged step, appended; a resumed run repeats no line."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantlab.errors import CorruptFileError
from quantlab.run.parsing import parse_json
from quantlab.run.plain_json import to_json


class MetricsFile:
    """The lines of one run. Whoever goes on with a run asks `mend` first."""

    def __init__(self, path: Path):
        self.path = path
        self._logged: set[tuple[int, frozenset[str]]] = set()

    def append(self, step: int, values: Mapping[str, Any]) -> None:
        """Append one line, `step` first; NaN and infinities become words (`plain_json`).

        A line for the same step with the same names is written once: a resumed run repeats the same bits.
        """
        key = (step, frozenset(values))
        if key in self._logged:
            return
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(to_json({"step": step, **values}) + "\n")
        self._logged.add(key)

    def mend(self) -> None:
        """Cut off the line that a kill tore, and learn which lines stand."""
        if not self.path.is_file():
            return
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(self.path, len(whole))
        for line in whole.splitlines():
            try:
                names = parse_json(line)
                self._logged.add((names.pop("step"), frozenset(names)))
            except (ValueError, KeyError, AttributeError, TypeError):
                # Bytes that rotted in the middle of the file: what stands around them is still worth keeping.
                continue

    def read(self) -> list[dict[str, Any]]:
        """The rows, in order; [] where there is no file. A torn last line (the run was killed) is left out.

        Raises: CorruptFileError for any other line that is no JSON object.
        """
        if not self.path.is_file():
            return []
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        rows = []
        for number, line in enumerate(lines, start=1):
            try:
                row = parse_json(line)
            except ValueError:
                row = None
            if isinstance(row, dict):
                rows.append(row)
            elif number < len(lines):
                raise CorruptFileError(f"{self.path}: line {number} is no JSON object")
        return rows
