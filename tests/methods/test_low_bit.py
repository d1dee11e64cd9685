"""method=low_bit, whole runs on digits: what a run leaves, the same bits after a stop, two processes, other tasks."""

import numpy as np
import pytest
from forks import shared_run
from kills import interrupted_at
from PIL import Image
from run_files import clip_ratios, results, rows
from tiny import TINY_CLASSIFIER, TINY_LOW_BIT

from quantlab.methods.low_bit import LowBit
from quantlab.run.state import load_model


@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache):
    from quantlab.cli.main import main

    directory = tmp_path_factory.mktemp("low_bit") / "run"
    assert main([*TINY_LOW_BIT, f"output_dir={directory}", f"cache_dir={cache}"]) == 0
    return directory


def test_what_a_run_leaves(whole):
    found = results(whole)
    assert found["bits"] == {"weight": 4, "activation": 4, "gradient": 4} and found["baseline"] == {}
    assert set(found["metrics"]) == {"top1", "top5", "loss"} and found["cost"]["steps"] == 20
    checked = found["diagnostics"]["integer_check"]
    assert checked["layers"] == 6 and checked["products"] == 18 and 0 < checked["largest_difference"] < 1e-4
    report = (whole / "report.md").read_text()
    assert "W4A4G4" in report and "18 products of a training step, of 6 layers" in report
    for name in ("gradients", "gradient_histograms", "training"):
        assert f"figures/{name}.png" in report
        assert np.asarray(Image.open(whole / "figures" / f"{name}.png").convert("L")).std() > 5
    first, last = clip_ratios(whole)[0], clip_ratios(whole)[-1]
    assert len(first) == 6 and first != last
    # every step moves gamma by beta or not at all
    moves = np.abs(np.diff(np.array(clip_ratios(whole)), axis=0))
    assert np.all((moves < 1e-6) | (np.abs(moves - 1e-3) < 1e-6))
    row = rows(whole)[0]
    assert (
        row["gradient_clipped_share_target"] == pytest.approx(0.01 / 15)
        and row["large_gradient_error"] > row["gradient_error"] > 0
    )


def test_nothing_quantized_is_full_precision_by_its_own_method(quantlab, tmp_path):
    """So what quantization costs is measured on the same images in the same batches, from the same weights."""
    recipe = (
        "optimizer=sgd",
        "learning_rate=0.1",
        "weight_decay=1e-4",
        "warmup_steps=0",
        "ema_decay=0",
        "batch_size=128",
    )
    exempt = "quantizer.policy=[{modules: '.*', weight_bits: 32, activation_bits: 32}]"
    low_bit = ("method=low_bit", exempt, "quantizer.gradient.bits=32", "method.decay=cosine", "method.decay_every=step")
    for name, words in (("low_bit", low_bit), ("pretrain", ("method=pretrain", "task=digits", "model=resnet20"))):
        code, _, err = quantlab(
            *words,
            *(word for word in TINY_CLASSIFIER if word.split(".")[0] != "method" or name == "low_bit"),
            *(f"model.pretrain.{word}" for word in recipe),
            f"output_dir={tmp_path / name}",
        )
        assert code == 0, err
    one, other = (results(tmp_path / name)["metrics"] for name in ("low_bit", "pretrain"))
    assert one == other
    assert rows(tmp_path / "pretrain")[-1]["validation_top1"] == rows(tmp_path / "low_bit")[-1]["validation_top1"]


def test_the_clip_ratios_travel_with_the_model(whole):
    tensors, facts = load_model(whole / "checkpoints" / "model")
    kept = [value.item() for name, value in tensors.items() if name.endswith("interval.clip_ratio")]
    assert len(kept) == 6 and facts["bits"] == "W4A4G4"
    np.testing.assert_allclose(sorted(kept), sorted(clip_ratios(whole)[-1]), atol=2e-3)


def test_a_run_that_was_stopped_repeats_the_bits(whole, quantlab, tmp_path, monkeypatch):
    interrupted_at(13, LowBit, monkeypatch)
    directory = tmp_path / "run"
    assert quantlab(*TINY_LOW_BIT, f"output_dir={directory}")[0] == 130
    assert quantlab(f"resume={directory}")[0] == 0
    assert results(directory)["metrics"] == results(whole)["metrics"]
    assert (directory / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_two_processes_keep_one_clip_ratio(cache, tmp_path):
    directory = tmp_path / "run"
    words = (*TINY_LOW_BIT, "trainer.max_steps=6", f"output_dir={directory}", f"cache_dir={cache}")
    code, said = shared_run(words, tmp_path)
    assert code == 0, said[-3000:]
    ratios = np.array(clip_ratios(directory))
    assert len(ratios) == 6 and np.abs(np.diff(ratios, axis=0)).max() > 0


def test_scheduled_transitions_and_quantized_gradients_in_one_config(quantlab, tmp_path):
    directory = tmp_path / "run"
    code, _, err = quantlab(
        "method=qat", *TINY_CLASSIFIER, "quantizer.gradient.bits=4", "trainer.max_steps=4", f"output_dir={directory}"
    )
    assert code == 0, err
    row = rows(directory)[0]
    assert (
        row["talr"] > 0
        and row["gradient_error"] > 0
        and len(row["layers/gradient_error"]) == len(row["layers/talr"]) == 6
    )
    assert results(directory)["bits"] == {"weight": 2, "activation": 2, "gradient": 4}


@pytest.mark.parametrize(
    "words",
    [
        ("task=super_resolution", "model=edsr_small"),
        ("task=detection", "model=faster_rcnn_small", "task.scenes={train: 24, validation: 2, test: 4}"),
        ("task=detection", "model=retinanet_small", "task.scenes={train: 24, validation: 2, test: 4}"),
    ],
)
def test_other_tasks_train_with_integers_too(words, quantlab, tmp_path):
    directory = tmp_path / "run"
    code, _, err = quantlab(
        "method=low_bit",
        *words,
        "method.integer_check=true",
        "method.batch_size=8",
        "trainer.max_steps=2",
        "device=cpu",
        "trainer.log_every=1",
        f"output_dir={directory}",
    )
    assert code == 0, err
    assert results(directory)["diagnostics"]["integer_check"]["layers"] >= 10
    assert all(row["gradient_error"] > 0 for row in rows(directory) if "gradient_error" in row)


def test_full_precision_may_be_the_start(quantlab, tmp_path):
    directory = tmp_path / "run"
    code, _, err = quantlab(
        "method=low_bit",
        *TINY_CLASSIFIER,
        "method.initialization=full_precision",
        "trainer.max_steps=2",
        f"output_dir={directory}",
    )
    assert code == 0, err
    assert set(results(directory)["baseline"]) == {"full_precision"}


def test_nobody_reads_a_held_clip_ratio_for_a_learned_one(quantlab, whole, tmp_path, capsys):
    """Where a batch has too few gradients, log, final table, results, report and the table over runs say what the
    row is.
    """
    from quantlab.cli.report import main

    directory = tmp_path / "runs" / "held"
    code, out, err = quantlab(
        "method=low_bit",
        *TINY_CLASSIFIER,
        "quantizer.gradient.bits=8",
        "trainer.max_steps=2",
        f"output_dir={directory}",
    )
    note = "gamma stays at 1 (min_max) in all 6 layers: fewer than 255000 gradients in a batch"
    assert code == 0 and err.count(note) == 1 and out.count(note) == 1
    found = results(directory)
    held = found["diagnostics"]["held_clip_ratios"]
    assert found["notes"] == [note] and len(held.pop("held")) == 6
    assert held == {"layers": 6, "fewest_elements": 255000, "gamma": 1.0}
    assert f"Note: {note}." in (directory / "report.md").read_text()
    assert main([str(directory)]) == 0
    assert note in capsys.readouterr().out
    assert "notes" not in results(whole)


@pytest.mark.slow
def test_a_compiled_network_trains_as_the_plain_one(whole, quantlab, tmp_path):
    code, _, err = quantlab(
        *TINY_LOW_BIT, "trainer.compile=true", "trainer.log_every=5", f"output_dir={tmp_path / 'run'}"
    )
    assert code == 0, err
    # Other random numbers round the gradients, and nothing but rounding differs
    losses = {
        name: [row["loss"] for row in rows(directory) if "gradient_error" in row and row["step"] % 5 == 0]
        for name, directory in (("compiled", tmp_path / "run"), ("plain", whole))
    }
    assert len(losses["compiled"]) == 4 and losses["compiled"] == pytest.approx(losses["plain"], rel=0.15)
    assert np.abs(np.diff(np.array(clip_ratios(tmp_path / "run")), axis=0)).max() > 0
