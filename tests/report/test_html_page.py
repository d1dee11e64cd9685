"""One page over many runs: what it holds, what it must not hold, and how a browser shows it."""

import json
import re
import shutil
import subprocess

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


def log(directory, *rows):
    (directory / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


@pytest.fixture
def two_runs(make_run):
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


def test_text_of_a_hostile_run_stays_text(make_run, tmp_path):
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


def test_without_plotly_one_line_names_the_extra(two_runs, tmp_path, monkeypatch, capsys):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "plotly" else find(name))
    assert main([str(tmp_path), "--html", str(tmp_path / "a.html")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "pip install -e '.[report]'" in err
    assert not (tmp_path / "a.html").exists()


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def shown(file, profile):
    """The page's DOM after its scripts ran, from a browser without a window."""
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    words = [BROWSER, *flags.split(), "--disable-quic", "--disable-component-update", f"--user-data-dir={profile}"]
    done = subprocess.run(
        [*words, "--virtual-time-budget=8000", "--dump-dom", file.as_uri()], capture_output=True, text=True, timeout=120
    )
    return re.sub(r"<script.*?</script>", "", done.stdout, flags=re.DOTALL)


@pytest.mark.slow
def test_five_hundred_runs_with_pictures_and_long_logs_fit_in_twenty_megabytes(make_run, tmp_path):
    import random
    import time

    import numpy as np

    random.seed(0)
    pixels = np.random.default_rng(0).integers(0, 255, (160, 400, 3), dtype=np.uint8)  # as large when compressed
    rows = [{"step": step, **{f"quantity_{key}": 1 / (step + key) for key in range(8)}} for step in range(1, 301)]
    for number in range(500):
        settings = {"group_size": number // 5}
        run = make_run(f"runs/{number}", seed=number % 5, metrics={"fid": random.random()}, settings=settings)
        log(run, *rows)
        (run / "samples").mkdir()
        pixels[0, 0] = number % 256
        Image.fromarray(pixels).save(run / "samples" / "comparison.png")
    started = time.process_time()
    file = page_of(tmp_path)
    assert time.process_time() - started < 15 and file.stat().st_size < 20e6
    assert all(run["pictures"][0]["image"] for run in data_of(file)["runs"])


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium")
def test_a_browser_shows_the_table_and_draws_the_curves(two_runs, tmp_path):
    dom = shown(page_of(tmp_path), tmp_path / "profile")
    assert dom.count('<tr class="run"') == 2 and ">2 of 2 completed runs<" in dom
    assert dom.count('class="scatterlayer') >= 1 and dom.count('class="trace scatter') == 2


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium")
def test_a_browser_runs_nothing_of_a_hostile_run(make_run, tmp_path):
    run = make_run("hostile", method=ATTACK, metrics={"fid": 1.0}, settings={"x": ATTACK})
    log(run, {"step": 1, ATTACK: 1.0}, {"step": 2, ATTACK: 1.0})
    dom = shown(page_of(tmp_path), tmp_path / "profile")
    assert "<title>quantlab: 1 runs</title>" in dom and 'class="trace scatter' in dom
