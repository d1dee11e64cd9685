"""report.md: one run on one page. And the table that a run prints when it ends."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from quantlab.config.sections import section_in
from quantlab.config.tasks.base import TRAINING_CURVES
from quantlab.report.commands import as_value, shell_command, training_command
from quantlab.report.layers import full_precision_section, quantized_words
from quantlab.report.metrics import METRICS, column_order, format_bits, format_number, heading, is_number
from quantlab.report.protocol import protocol_words
from quantlab.report.runs import flatten, read_run, short_path
from quantlab.report.table import method_label
from quantlab.run.directory import RunDirectory

FIRST_ROWS = ("bicubic", "full_precision")  # of the baselines in a table: what nothing was quantized for


def write_page(run_directory: Path, results: dict[str, Any] | None = None) -> Path:
    """Write report.md of the run in `run_directory` from the files that lie there, and return its path.

    `results`: those of a run that is just ending; results.json, which says that it completed, is written after this
    page.

    Raises:
        CorruptFileError: results.json is damaged.
    """
    directory = RunDirectory(run_directory)
    run = read_run(directory.path)
    if results is not None:
        run |= {"results": results, "state": "completed"}
    kept = full_precision_section(directory.read_layers() or {})
    sections = [
        _title(run),
        _numbers(run, directory),
        kept,
        _pictures(directory, run["config"]),
        _commands(run, directory),
        _provenance(run),
    ]
    directory.write_report("\n\n".join(section for section in sections if section) + "\n")
    return directory.report_path


def final_table(results: dict[str, Any], label: str | None = None) -> str:
    """The table printed at the end of a run, as aligned plain text. `label` renames the method."""
    header, *lines = _result_rows(results, label or results["method"])
    widths = [max(len(row[column]) for row in (header, *lines)) for column in range(len(header))]
    text = ["  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
            for row in (header, *lines)]  # fmt: skip
    rule = "-" * len(text[0])
    what = (
        f"{_quantized(results) or format_bits(results['bits'])}, {results['model']} on {results['task']}, seed"
        f" {results.get('seed', '–')}"
    )
    notes = [
        note
        for note in (*(results.get("notes") or []), protocol_words(results.get("protocol") or {}), _cost_words(results))
        if note
    ]
    return "\n".join([what, rule, text[0], rule, *text[1:], rule, *notes])


def _title(run: dict[str, Any]) -> str:
    flat = dict(flatten(run["config"]))
    results = run["results"] or {
        **{part: flat.get(f"{part}.name", "?") for part in ("method", "task", "model")},
        "seed": flat.get("seed"),
        "bits": {part: flat.get(f"quantizer.{part}.bits", 32) for part in ("weight", "activation", "gradient")},
    }
    label, bits = method_label(results["method"], run["config"]), format_bits(results["bits"])
    facts = {
        "method": f"`{label}`", "task": f"`{results['task']}`", "model": f"`{results['model']}`",
        "bits": bits + _bits_words(results["bits"]), "seed": results.get("seed"), "state": run["state"],
    }  # fmt: skip
    lines = [f"# {label} {bits}: {results['model']} on {results['task']}", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    if run["error"]:
        lines.append(f"- error: {run['error']}")
    return "\n".join(lines)


def _bits_words(bits: dict[str, int]) -> str:
    quantized = [f"{name}s {width} bits" for name, width in bits.items() if width != 32]
    return f" ({', '.join(quantized)})" if quantized else " (nothing quantized)"


def _quantized(results: dict[str, Any]) -> str:
    """`W4A4: 98.2 % of weights, 97.5 % of multiplications`; empty where nothing says how much is quantized."""
    words = quantized_words(results.get("quantized"))
    return f"{format_bits(results['bits'])}: {words}" if words else ""


def _numbers(run: dict[str, Any], directory: RunDirectory) -> str:
    results = run["results"]
    if results is None:
        return "## Results\n\nNone: the run has not completed."
    header, *rows = _result_rows(results, method_label(results["method"], run["config"]))
    header[0] = _quantized(results)
    rows[-1] = [f"**{cell}**" if cell != "–" else cell for cell in rows[-1]]
    lines = ["## Results", "", _line(header), "|---|" + "---:|" * (len(header) - 1), *map(_line, rows)]
    shown = column_order({name for _, metrics in _measured(results, "") for name in metrics})
    meanings = [f"- `{name}`: {METRICS[name].meaning}" for name in shown if name in METRICS]
    lines += ["", *meanings] if meanings else []
    for note in results.get("notes") or []:
        lines += ["", f"Note: {note}."]
    protocol = protocol_words(results.get("protocol") or {})
    if protocol:
        lines += ["", f"Measured with: {protocol}. Values measured otherwise do not compare."]
    checked = (results.get("diagnostics") or {}).get("integer_check")
    if checked:
        lines += [
            "",
            f"Integer check: {checked['products']} products of a training step, of {checked['layers']} layers, made"
            " again with integers, differ from the simulated ones by at most"
            f" {format_number(checked['largest_difference'])} of the largest value; their sums reach"
            f" {checked['largest_accumulator']}." + _not_checked_words(checked),
        ]
    method = section_in("method", run["config"])
    for name, what in method.files.items() if method is not None else ():
        if (directory.path / name).is_file():
            lines += ["", f"{what}: [{name}]({name})."]
    cost = _cost_words(results)
    return "\n".join(lines + (["", f"Cost: {cost}."] if cost else []))


def _not_checked_words(checked: dict[str, Any]) -> str:
    left = checked.get("not_checked") or {}
    return f" Not checked: {', '.join(f'{name} ({reason})' for name, reason in left.items())}." if left else ""


def _measured(results: dict[str, Any], label: str) -> list[tuple[str, dict[str, Any]]]:
    """Label and numeric metrics of each row: the baselines that there are, then the run itself."""
    baseline = {name: value for name, value in (results.get("baseline") or {}).items() if isinstance(value, dict)}
    order = [name for name in FIRST_ROWS if name in baseline] + [name for name in baseline if name not in FIRST_ROWS]
    rows = [(name.replace("_", " "), baseline[name]) for name in order]
    if best := results.get("best"):
        rows.append((f"best validated (step {best['step']})", best["metrics"]))
    rows.append((label, results["metrics"]))
    return [(name, {key: value for key, value in metrics.items() if is_number(value)}) for name, metrics in rows]


def _result_rows(results: dict[str, Any], label: str) -> list[list[str]]:
    """Cells of the table of one run, the header first. A metric that a row was not measured in is a dash."""
    rows = _measured(results, label)
    names = column_order({name for _, metrics in rows for name in metrics})
    header = ["", *(heading(name) for name in names)]
    return [header] + [[row, *(format_number(metrics.get(name)) for name in names)] for row, metrics in rows]


def _cost_words(results: dict[str, Any]) -> str:
    cost = results.get("cost") or {}
    words = []
    if is_number(cost.get("seconds")):
        words.append(f"{format_number(cost['seconds'])} s")
    if is_number(cost.get("steps")):
        words.append(f"{cost['steps']} optimizer steps")
    if is_number(cost.get("peak_memory_bytes")):
        words.append(f"peak memory {cost['peak_memory_bytes'] / 2**20:.0f} MiB")
    others = {name: value for name, value in cost.items() if name not in ("seconds", "steps", "peak_memory_bytes")}
    words += [f"{format_number(value)} {name.replace('_', ' ')}" for name, value in others.items() if is_number(value)]
    return ", ".join(words)


def captions(config: dict[str, Any]) -> dict[str, str]:
    """What the pictures of a run show, by file name, in the order of the page; others follow, named by their file."""
    found: dict[str, str] = {}
    for group in ("method", "task"):
        section = section_in(group, config)
        found |= section.captions if section is not None else {}
    return {**found, "training": found.get("training", TRAINING_CURVES)}


def captioned_pictures(directory: RunDirectory, config: dict[str, Any]) -> dict[Path, str]:
    """The pictures of a run with their captions, in the order of its page."""
    known, found = captions(config), directory.pictures()
    order = list(known)
    found.sort(key=lambda file: order.index(file.stem) if file.stem in order else len(order))
    return {file: known.get(file.stem, file.stem.replace("_", " ").capitalize() + ".") for file in found}


def _pictures(directory: RunDirectory, config: dict[str, Any]) -> str:
    blocks = [
        f"![{file.stem}]({quote(file.relative_to(directory.path).as_posix())})\n\n{caption}"
        for file, caption in captioned_pictures(directory, config).items()
    ]
    return "\n\n".join(["## Pictures", *blocks]) if blocks else ""


def commands(run: dict[str, Any], directory: RunDirectory) -> list[tuple[str, str]]:
    """What one may want to do with a run next, in words, and the command."""
    # The directory is taken now, so that a repetition must go to another one.
    typed = [word for word in directory.read_typed() if not word.startswith(("output_dir=", "resume="))]
    found_commands = [("Repeat it:", shell_command(["quantlab", *typed]))]
    method, results = section_in("method", run["config"]), run["results"]
    found = (results.get("diagnostics") or {}).get("found") if results else None
    if results is None:
        word = f"resume={short_path(run['directory'])}"
        found_commands.append(("Go on with it:", shell_command(["quantlab", word])))
    elif method is not None and method.sampled_from:
        word = "method.run=" + as_value(short_path(run["directory"]))
        found_commands.append(("Sample from it:", shell_command(["quantlab", "method=sample", word])))
    elif method is not None and method.finds_subnet and found and {"task", "model"} <= run["config"].keys():
        found_commands.append(("Train the subnet found, alone:", training_command(run["config"], found)))
    return found_commands


def _commands(run: dict[str, Any], directory: RunDirectory) -> str:
    blocks = [f"{what}\n\n```\n{command}\n```" for what, command in commands(run, directory)]
    return "\n\n".join(["## Commands", *blocks])


def _provenance(run: dict[str, Any]) -> str:
    facts = (run["results"] or {}).get("provenance") or {}
    return "Made by: " + ", ".join(f"{name} {value}" for name, value in facts.items()) if facts else ""


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
