"""One page over many runs: what it holds, and what it must not hold (`test_browser.py`: how a browser shows it)."""

import json
import re

import pytest
from PIL import Image

pytest.importorskip("plotly", reason="plotly, of the extra `report`, is not installed")

from quantlab.cli.report import main

ATTACK = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"


def page_of(folder, *words):
    file = folder / "page" / "runs.html"
    assert main([str(folder), "--html", str(file), *words]) == 0
    return file


def data_of(file):
    return json.loads(re.search(r'id="data">(.*?)</script>', file.read_text(), re.DOTALL)[1])


@pytest.fixture
def two_runs(make_run, log):
    runs = [
        make_run(f"size{size}", metrics={"fid": 1.0 / size}, settings={"group_size": size}, typed=["method=accuquant"])
        for size in (1, 2)
    ]
    for run in runs:
        log(run, {"step": 1, "loss": 2.0}, {"step": 2, "loss": float("nan")}, {"step": 3, "loss": 1.0})
        (run / "samples").mkdir()
        Image.new("RGB", (40, 30), "red").save(run / "samples" / "comparison.png")
    return runs


def test_the_page_has_tables_curves_pictures_commands_and_configs(two_runs, tmp_path):
    data = data_of(page_of(tmp_path))
    (table,) = data["tables"]
    assert [column["title"] for column in table["columns"]][:4] == ["method", "group_size", "seed", "fid ↓"]
    assert [row["sort"][3] for row in table["rows"]] == [1.0, 0.5]
    one, other = data["runs"]
    assert (one["label"], other["label"]) == ("accuquant (group size 1)", "accuquant (group size 2)")
    assert one["commands"][0] == ["Repeat it:", "quantlab method=accuquant"]
    assert one["steps"] == [[1, 2, 3]] and one["curves"] == {"loss": [0, [2.0, None, 1.0]]}
    key = data["keys"].index("method.group_size")
    assert [data["values"][run["config"][key]] for run in data["runs"]] == ["1", "2"]
    (picture,) = one["pictures"]
    assert picture["image"].startswith("data:image/png;base64,")
    assert (tmp_path / "page" / picture["link"]).resolve() == two_runs[0] / "samples" / "comparison.png"


def test_nothing_but_the_page_is_written_or_loaded(two_runs, tmp_path):
    file = page_of(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path not in two_runs] == ["page"]
    text = file.read_text()
    assert "default-src 'none'" in text and "unsafe-inline'; img" in text and "<script src" not in text


def test_text_of_a_hostile_run_stays_text(make_run, log, tmp_path):
    run = make_run("hostile", method=ATTACK, metrics={"fid": 1.0, ATTACK: 2.0}, typed=[ATTACK], settings={"x": ATTACK})
    results = json.loads((run / "results.json").read_text()) | {"notes": [ATTACK], "task": ATTACK, "seed": [ATTACK]}
    (run / "results.json").write_text(json.dumps(results))
    log(run, {"step": 1, ATTACK: 1.0})
    make_run("failed", state="failed", error=ATTACK)
    text = page_of(tmp_path).read_text()
    own = text[: text.index('<script type="text/plain" id="plotly">')]
    assert "taken" in own and own.count("<script") == 1 and "<img" not in own


def test_pictures_that_are_none_or_links_are_not_embedded(two_runs, tmp_path):
    (tmp_path / "secret.png").write_bytes((two_runs[1] / "samples" / "comparison.png").read_bytes())
    picture = two_runs[0] / "samples" / "comparison.png"
    picture.unlink()
    picture.symlink_to(tmp_path / "secret.png")
    (two_runs[1] / "samples" / "comparison.png").write_text("<svg onload='alert(1)'/>")
    images = [one["image"] for run in data_of(page_of(tmp_path))["runs"] for one in run["pictures"]]
    assert images == [None, None]


def test_a_large_picture_is_scaled_down_and_long_curves_are_thinned_to_their_spikes(two_runs, tmp_path):
    import numpy as np

    from quantlab.report import html_page

    noise = np.random.default_rng(0).integers(0, 255, (1500, 2500, 3), dtype=np.uint8)
    Image.fromarray(noise).save(two_runs[0] / "samples" / "comparison.png")
    image = data_of(page_of(tmp_path))["runs"][0]["pictures"][0]["image"]
    assert image.startswith("data:image/webp;base64,") and len(image) < 1_500_000
    values = [1.0] * 5000
    values[1234] = 9.0
    thin = html_page._thinned(list(range(5000)), values, 100)
    assert len(thin["x"]) <= 110 and thin["y"][thin["x"].index(1234)] == 9.0


@pytest.mark.slow
def test_five_hundred_runs_with_pictures_and_long_logs_fit_in_twenty_megabytes(many_runs, tmp_path):
    import time

    many_runs(500)
    started = time.process_time()
    file = page_of(tmp_path)
    assert time.process_time() - started < 15 and file.stat().st_size < 20e6
    assert all(run["pictures"][0]["image"] for run in data_of(file)["runs"])
