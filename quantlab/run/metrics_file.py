"""metrics.jsonl: one line per logged step, appended; a resumed run repeats no line."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantlab.run.atomic_files import atomic_write
from quantlab.run.parsing import parse_json
from quantlab.run.plain_json import to_json

logger = logging.getLogger("quantlab")


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

    def mend(self) -> list[int]:
        """Take out the line that a kill tore and those whose bytes rotted, and learn which stand; the numbers of the
        rotten ones, which are kept in `metrics.jsonl.damaged`.
        """
        if not self.path.is_file():
            return []
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        rows = [(line, _row(line)) for line in whole.splitlines(keepends=True)]
        rotten = [number for number, (_, row) in enumerate(rows, start=1) if row is None]
        if rotten:
            with open(self.path.with_name(f"{self.path.name}.damaged"), "ab") as file:
                file.writelines(rows[number - 1][0] for number in rotten)
            atomic_write(self.path, b"".join(line for line, row in rows if row is not None))
        elif len(whole) < len(data):
            os.truncate(self.path, len(whole))
        self._logged = {(row["step"], frozenset(row.keys() - {"step"})) for _, row in rows if row is not None}
        return rotten

    def read(self) -> list[dict[str, Any]]:
        """The rows, by step; [] where there is no file. What is no row is left out: the last line, which a kill tore,
        in silence, and any other with a warning.
        """
        if not self.path.is_file():
            return []
        rows = [_row(line) for line in self.path.read_bytes().splitlines()]
        rotten = [number for number, row in enumerate(rows, start=1) if row is None and number < len(rows)]
        if rotten:
            logger.warning("%s: %s left out, no JSON object with a step", self.path, lines(rotten))
        # A resumed run appends again what was taken out.
        return sorted((row for row in rows if row is not None), key=lambda row: row["step"])


def lines(numbers: list[int]) -> str:
    """`line 3`, `lines 3, 7`."""
    shown = ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
    return f"line{'s' if len(numbers) > 1 else ''} {shown}"


def _row(line: bytes) -> dict[str, Any] | None:
    """What a line holds, if it is what `append` writes."""
    try:
        row = parse_json(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and type(row.get("step")) is int else None
