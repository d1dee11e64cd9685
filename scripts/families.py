"""Table of network families: one small network of each family in timm and torchvision, quantized in training;
results/timm_families.{md,csv}.

    OMP_NUM_THREADS=1 python scripts/families.py            # ten minutes on one core; families in the CSV are skipped
    OMP_NUM_THREADS=1 python scripts/families.py --only timm:beit timm:nfnet

The CSV stores each family's smallest network; `--choose` determines them again, which builds all of timm once.
`quantlab.families.examine` is run on each network. Families that take longer than `--limit` seconds, or fail, are
reported in their row.
"""

import argparse
import csv
import datetime
import platform
import signal
import sys
import time
from pathlib import Path

import timm
import torch
import torchvision

from quantlab.families import SMALLER, examine, families, fitting, smallest

COLUMNS = (
    "library",
    "family",
    "model",
    "options",
    "image_size",
    "layers",
    "quantized",
    "weights_percent",
    "multiplications_percent",
    "refused",
    "unused",
    "qat",
    "low_bit",
    "integer_check",
    "seconds",
)
HEADINGS = (
    "family",
    "smallest model",
    "image",
    "layers",
    "quantized",
    "% of weights",
    "% of multiplications",
    "not quantized",
    "QAT W4A4",
    "low-bit W4A4G4",
    "integer check",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], metavar="LIBRARY:FAMILY", help="these families, again")
    parser.add_argument("--choose", action="store_true", help="determine the smallest networks again")
    parser.add_argument("--limit", type=int, default=600, help="seconds for one family")
    parser.add_argument(
        "--output", type=Path, default=Path("results/timm_families"), help="path of the table, without extension"
    )
    options = parser.parse_args()
    file = options.output.with_suffix(".csv")
    known = {}
    if file.exists():
        with open(file, newline="") as lines:
            known = {(row["library"], row["family"]): row for row in csv.DictReader(lines)}
    signal.signal(signal.SIGALRM, _too_slow)
    for library in ("timm", "torchvision"):
        for family, names in families(library).items():
            row = known.get((library, family), {})
            asked = f"{library}:{family}" in options.only
            if row.get("seconds") and not (asked or options.choose) or options.only and not asked:
                continue
            model = row["model"] if row and not options.choose else smallest(library, names)
            known[library, family] = _row(library, family, model, options.limit)
            print(
                " ".join(
                    f"{known[library, family][name]}"
                    for name in ("library", "family", "model", "qat", "low_bit", "integer_check", "seconds")
                ),
                file=sys.stderr,
                flush=True,
            )
            write(options.output, known)
    write(options.output, known)
    return 0


def _too_slow(*_) -> None:
    raise TimeoutError("slower than the limit")


def _row(library: str, family: str, model: str, limit: int) -> dict:
    row = dict.fromkeys(COLUMNS, "")
    smaller = SMALLER.get((library, family), {})
    row |= {
        "library": library,
        "family": family,
        "model": model,
        "options": " ".join(f"{key}={value}" for key, value in smaller.items()),
    }
    began = time.perf_counter()
    signal.alarm(limit)
    try:
        network, row["image_size"] = fitting(library, model, **smaller)
        facts = examine(network, row["image_size"])
        row |= {
            "layers": facts.layers,
            "quantized": facts.quantized,
            "weights_percent": f"{100 * facts.weight_share:.1f}",
            "multiplications_percent": f"{100 * facts.multiplication_share:.1f}",
            "refused": "; ".join(f"{name} ({reason})" for name, reason in facts.refused.items()),
            "unused": " ".join(facts.unused),
            "qat": facts.qat,
            "low_bit": facts.low_bit,
            "integer_check": facts.integer_check,
        }
    except Exception as error:  # reported in the table
        row["qat"] = row["qat"] or f"{type(error).__name__}: {error}".splitlines()[0][:200]
    finally:
        signal.alarm(0)
    return row | {"seconds": f"{time.perf_counter() - began:.1f}"}


def write(output: Path, known: dict[tuple[str, str], dict]) -> None:
    """OUTPUT.csv with all columns and OUTPUT.md for reading."""
    rows = [known[key] for key in sorted(known)]
    with open(output.with_suffix(".csv"), "w", newline="") as lines:
        writer = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    done = [row for row in rows if row["seconds"]]
    passed = [row for row in done if row["qat"] == row["low_bit"] == row["integer_check"] == "ok"]
    text = [
        "# Families of timm and torchvision, quantized in training",
        "",
        (
            f"`python scripts/families.py`, {datetime.date.today()}: timm {timm.__version__}, torchvision"
            f" {torchvision.__version__}, torch {torch.__version__}, {torch.get_num_threads()} thread(s),"
            f" {platform.machine()}. {len(passed)} of {len(done)} families pass all three."
        ),
        "",
        (
            "The network with the fewest parameters of each family (some made shallower, see the CSV), with random"
            " weights, on the smallest images that it accepts. First and last layer in full precision. One step of QAT"
            " (`fixed_point`, W4A4), one of low-bit training (`learned_clipping`, W4A4G4) and the integer check of"
            " every quantized layer. Weights: of all parameters with several dimensions. Multiplications: of a forward"
            " pass, the products of attention among them."
        ),
        "",
        f"| {' | '.join(HEADINGS)} |",
        "|" + "---|" * len(HEADINGS),
    ]
    for row in done:
        not_quantized = [f"{row['refused'].count('; ') + 1} refused"] if row["refused"] else []
        not_quantized += [f"{len(row['unused'].split())} never called"] if row["unused"] else []
        columns = ("model", "image_size", "layers", "quantized", "weights_percent", "multiplications_percent")
        cells = (
            f"{row['library']} {row['family']}",
            *(row[name] for name in columns),
            ", ".join(not_quantized),
            row["qat"],
            row["low_bit"],
            row["integer_check"],
        )
        text.append("| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |")
    output.with_suffix(".md").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    sys.exit(main())
