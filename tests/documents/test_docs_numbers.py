"""`scripts/docs_numbers.py`: numbers in pages are those of results/, and none is there before it was measured."""

import json
import re
import sys

import pytest
from documents import ROOT

from quantlab.errors import RequestError

sys.path.insert(0, str(ROOT / "scripts"))
import docs_numbers  # noqa: E402
import docs_overview  # noqa: E402

TABLE = """# A title

## top1 (%) ↑

|  | W1A1 | W2A2 |
|---|---:|---:|
| SGD | 51.7 ± 0.6 |  |
| SGDT | **52.2 ± 0.3** | 68.4 ± 0.3 (n=2) |

## How it was made

Mean ± standard deviation over seeds 0, 1.
"""
COMPARISONS = [
    {"row": "sgdt", "other": "sgd", "metric": "top1", "column": "W1A1", "difference": {"mean": 0.5}, "holm": 0.01},
    {"row": "sgdt", "other": "sgd", "metric": "top1", "column": "W2A2", "difference": {"mean": -0.4}, "holm": 0.3},
]


@pytest.fixture
def filled(tmp_path):
    """filled(mark, measured): what a page has behind it."""

    def fill(mark, measured=True):
        if measured:
            (tmp_path / "qat_optimizers-small.md").write_text(TABLE)
            (tmp_path / "qat_optimizers-small.json").write_text(json.dumps({"comparisons": COMPARISONS}))
        page = tmp_path / "page.md"
        page.write_text(f"Before <!-- {mark} -->51.2<!-- end --> after")
        ((_, text),) = docs_numbers.rewritten([page], tmp_path)
        page.write_text(text)
        assert list(docs_numbers.rewritten([page], tmp_path)) == []  # once is enough
        return re.fullmatch(r"Before <!-- .*? -->(.*)<!-- end --> after", text, re.DOTALL)[1]

    return fill


def test_the_pages_are_up_to_date():
    stale = [str(path) for path, _ in docs_numbers.rewritten(docs_numbers.PAGES, ROOT / "results")]
    assert not stale, f"{stale}: run python scripts/docs_numbers.py"
    assert docs_overview.is_current(ROOT / "results"), "results/overview.png: run python scripts/docs_numbers.py"


def test_cells_tables_and_comparisons_are_copied(filled):
    assert filled("cell: qat_optimizers-small / top1 / SGDT / W1A1") == "52.2 ± 0.3"
    assert filled("cell: qat_optimizers-small / top1 / SGDT / W2A2") == "68.4 ± 0.3 (n=2)"
    table = filled("table: qat_optimizers-small / top1")
    assert "| SGDT | **52.2 ± 0.3** | 68.4 ± 0.3 (n=2) |\n\nMean ± standard deviation over seeds 0, 1." in table
    assert "(qat_optimizers-small.md)" in table and "# " not in table
    said = filled("compared: qat_optimizers-small / SGDT").strip()
    said, _, outside = said.partition("; ")
    assert said == "- SGDT against SGD, top1: better in the mean in W1A1, worse in the mean in W2A2"
    assert re.fullmatch(r"\[outside chance\]\(.*docs/tables.md\): W1A1", outside)


def test_what_was_not_measured_is_said_so(filled):
    cell = "cell: qat_optimizers-small / top1 / SGD / W2A2"
    assert filled(cell) == filled(cell, measured=False) == "not measured yet"
    assert "reproduce.py qat_optimizers --profile small --data-dir DIR" in filled("table: qat_optimizers-small / loss")
    assert filled("compared: qat_optimizers-small / AdamT").strip() == ""
    assert filled("figure: qat_targets-small").strip() == ""


@pytest.mark.parametrize(
    "mark, problem",
    [
        ("cell: qat_optimizers-small / top1 / SGDD / W2A2", "'SGDD', allowed: full precision, SGD, SGDT, Adam, AdamT"),
        ("cell: qat_optimizers-small / top1 / SGD / W3A3", "'W3A3', allowed: W1A1, W2A2"),
        ("cell: qat_optimizers-small / psnr / SGD / W2A2", "'psnr', allowed: top1, top5, loss"),
        ("table: qat_optimizers-tiny / top1", "'tiny', allowed: small, smoke"),
        ("table: no_such_file / top1", "results/no_such_file.md has no such table"),
        ("figure: no_such_file", "no such picture"),
        ("compared: qat_optimizers-small / SGD", "'SGD', allowed: SGDT, AdamT"),
        ("number: qat_optimizers-small", "got number"),
    ],
)
def test_a_mark_of_what_cannot_exist_is_refused(filled, mark, problem):
    with pytest.raises(RequestError, match=re.escape(problem)):
        filled(mark)


def test_the_picture_is_of_its_numbers_and_says_which(tmp_path):
    assert docs_overview.is_current(tmp_path)  # nothing measured, no picture
    runs = [
        {"row": row, "column": "W2A2", "seed": seed, "top1": 68.0 + seed} for row in ("sgdt", "sgd") for seed in (0, 1)
    ]
    table = tmp_path / "qat_optimizers-small.json"
    table.write_text(json.dumps({"runs": runs[:2]}))
    assert docs_overview.is_current(tmp_path)  # a method alone is no comparison
    table.write_text(json.dumps({"runs": runs}))
    assert not docs_overview.is_current(tmp_path)
    docs_overview.draw(tmp_path)
    assert docs_overview.is_current(tmp_path)
    assert docs_overview.numbers(tmp_path) == {docs_overview.PANELS[1].title: {"SGDT": [68, 69], "SGD": [68, 69]}}
    runs[0]["top1"] = 70.0
    table.write_text(json.dumps({"runs": runs}))
    assert not docs_overview.is_current(tmp_path)
    table.unlink()
    docs_overview.draw(tmp_path)
    assert list(tmp_path.iterdir()) == []
