"""The files that a run wrote."""

import json


def results(directory):
    return json.loads((directory / "results.json").read_text())


def rows(directory):
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
