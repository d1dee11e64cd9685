"""`scripts/gpu_check.py` without a GPU: the line that says so, and the same code on tiny networks."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import gpu_check  # noqa: E402

REPORT = """<testsuites><testsuite>
<testcase name="test_a[cuda]" time="1.26"/>
<testcase name="test_b[cuda]" time="2"><failure message="assert 1 == 2&#10;more">...</failure></testcase>
<testcase name="test_c[cuda]" time="0"><skipped message="no transformers"/></testcase>
</testsuite></testsuites>"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line(capsys, tmp_path):
    assert gpu_check.main(["--output", str(tmp_path / "gpu")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no CUDA device" in line and "--device cpu --profile tiny" in line and not list(tmp_path.iterdir())


@pytest.mark.parametrize("networks", [("sd14",), pytest.param(("sd14", "sdxl"), marks=pytest.mark.slow)])
def test_the_cost_of_tiny_networks(networks, capsys, tmp_path, monkeypatch):
    known = gpu_check.iteration.NETWORKS
    monkeypatch.setattr(gpu_check.iteration, "NETWORKS", {name: known[name] for name in networks})
    words = ["--device", "cpu", "--profile", "tiny", "--only", "cost", "--output", str(tmp_path / "gpu")]
    assert gpu_check.main(words) == 0
    rows = json.loads((tmp_path / "gpu.json").read_text())["cost"]
    found = {(row["network"], row["learn"], row["compute"], row["M"]) for row in rows}
    both = [(learn, compute) for learn in ("scales", "scales and rounding") for compute in ("float32", "bfloat16")]
    wanted = {(name, *pair, group) for name in networks for pair in both for group in (1, 2)}
    assert found == wanted | {(name, "block", "float32", "") for name in networks}
    assert all(row["peak GiB"] > 0 and row["seconds"] > 0 for row in rows)
    page = (tmp_path / "gpu.md").read_text()
    assert "| sd14 | block | float32 |" in page and page in capsys.readouterr().out


def test_what_the_tests_came_to(tmp_path):
    (tmp_path / "tests.xml").write_text(REPORT)
    rows = gpu_check.outcomes(tmp_path / "tests.xml")
    assert [(row["check"], row["outcome"], row["seconds"]) for row in rows] == [
        ("test_a[cuda]", "passed", 1.3),
        ("test_b[cuda]", "failed", 2.0),
        ("test_c[cuda]", "skipped", 0.0),
    ]
    page = gpu_check.page([], "a GPU", 1300, rows, [])
    assert "1 of 3 passed" in page and "| test_b[cuda] | failed | 2.0 | assert 1 == 2 |" in page
    assert "21.7 minutes, more than the 20 that it should take" in page
