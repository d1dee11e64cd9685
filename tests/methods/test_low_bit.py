"""method=low_bit, whole runs on digits: what a run leaves, the same bits after a stop, two processes, requests that
make no sense.
"""

import sys

import numpy as np
import pytest
import yaml
from PIL import Image
from run_files import results, rows, trained_state

from quantlab.run.state import load_model

TINY = (
    "model.depth=8",
    "model.width=4",
    "model.pretrain.steps=20",
    "method.epochs=2",
    "method.batch_size=128",
    "device=cpu",
    "trainer.log_every=1",
    "trainer.checkpoint_every=5",
)
TINY_LOW_BIT = ("method=low_bit", *TINY, "method.integer_check=true", "quantizer.gradient.alpha=0.01")


def clip_ratios(directory):
    return [list(row["layers/gradient_clip_ratio"].values()) for row in rows(directory) if "gradient_clip_ratio" in row]


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
            *(word for word in TINY if word.split(".")[0] != "method" or name == "low_bit"),
            *(f"model.pretrain.{word}" for word in recipe),
            f"output_dir={tmp_path / name}",
        )
        assert code == 0, err
    one, other = (results(tmp_path / name)["metrics"] for name in ("low_bit", "pretrain"))
    assert one == other
    assert rows(tmp_path / "pretrain")[-1]["validation_top1"] == rows(tmp_path / "low_bit")[-1]["validation_top1"]


def test_rates_follow_the_start_unless_they_are_typed(quantlab):
    def rates(*words):
        from quantlab.config import validate

        _, out, _ = quantlab("method=low_bit", *words, "--cfg", "job", "--resolve")
        found = validate(yaml.safe_load(out) | {"output_dir": "x"}).method.learning_rate
        return found.sgd, found.adam, found.adamw

    assert rates() == (0.1, 1e-3, 3e-4)
    assert rates("method.initialization=full_precision") == (0.01, 1e-4, 3e-5)
    assert rates("method.learning_rate.sgd=0.05", "method.initialization=full_precision") == (0.05, 1e-4, 3e-5)


def test_given_weights_are_no_start_from_scratch(quantlab, tmp_path):
    for words in (("model.weights=some.safetensors",), ("model=resnet18", "model.pretrained=true")):
        code, _, err = quantlab("method=low_bit", *words, f"output_dir={tmp_path / 'run'}")
        assert (
            code == 2
            and err.count("type method.initialization=full_precision") == 1
            and not (tmp_path / "run").exists()
        )


def test_the_clip_ratios_travel_with_the_model(whole):
    tensors, facts = load_model(whole / "checkpoints" / "model")
    kept = [value.item() for name, value in tensors.items() if name.endswith("interval.clip_ratio")]
    assert len(kept) == 6 and facts["bits"] == "W4A4G4"
    np.testing.assert_allclose(sorted(kept), sorted(clip_ratios(whole)[-1]), atol=2e-3)


def test_clipping_values_have_an_optimizer_of_their_own(quantlab, tmp_path):
    words = (
        *TINY_LOW_BIT,
        "method.learning_rate.sgd=1e-20",
        "method.weight_decay=0",
        "method.decay=constant",
        "trainer.max_steps=3",
        "trainer.checkpoint_every=1",
    )
    for name, rate in (("still", "1e-20"), ("moving", "1e-3")):
        assert quantlab(*words, f"method.scale_learning_rate={rate}", f"output_dir={tmp_path / name}")[0] == 0
    still, moving = (trained_state(tmp_path / name) for name in ("still", "moving"))
    for name in (
        "layer1.0.conv1.weight_quantizer.clipping_value",
        "layer1.0.conv1.activation_quantizer.clipping_value",
    ):
        assert 5e-4 < (still[name] - moving[name]).abs() < 4e-3  # three steps of Adam
    assert still["layer1.0.conv1.weight"].equal(moving["layer1.0.conv1.weight"])


def interrupt_after(steps, monkeypatch):
    from quantlab.methods.low_bit import LowBit

    original, calls = LowBit.after_update, []

    def stop(self):
        calls.append(1)
        if len(calls) == steps:
            monkeypatch.setattr(LowBit, "after_update", original)
            raise KeyboardInterrupt
        original(self)

    monkeypatch.setattr(LowBit, "after_update", stop)


def test_a_run_that_was_stopped_repeats_the_bits(whole, quantlab, tmp_path, monkeypatch):
    interrupt_after(13, monkeypatch)
    directory = tmp_path / "run"
    assert quantlab(*TINY_LOW_BIT, f"output_dir={directory}")[0] == 130
    assert quantlab(f"resume={directory}")[0] == 0
    assert results(directory)["metrics"] == results(whole)["metrics"]
    assert (directory / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_two_processes_keep_one_clip_ratio(process, tmp_path):
    directory = tmp_path / "run"
    launcher = (
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        "29621",
        "-m",
        "quantlab.cli",
    )
    running = process(*TINY_LOW_BIT, "trainer.max_steps=6", f"output_dir={directory}", launcher=launcher)
    _, err = running.communicate(timeout=180)
    assert running.returncode == 0, err[-3000:]
    ratios = np.array(clip_ratios(directory))
    assert len(ratios) == 6 and np.abs(np.diff(ratios, axis=0)).max() > 0


@pytest.mark.parametrize("interval", ["fixed", "min_max", "dsgc", "piecewise"])
def test_every_interval_trains(interval, quantlab, tmp_path):
    directory = tmp_path / "run"
    code, _, err = quantlab(
        "method=low_bit",
        *TINY,
        f"quantizer.gradient.interval={interval}",
        "trainer.max_steps=4",
        "quantizer.gradient.period=2",
        f"output_dir={directory}",
    )
    assert code == 0, err
    logged = [row for row in rows(directory) if "gradient_error" in row]
    assert len(logged) == 4 and "gradient_clipped_share_target" not in logged[0]
    ratios = clip_ratios(directory)
    expected = {"fixed": 0.8, "min_max": 1.0, "piecewise": 1.0}.get(interval)
    assert all(ratio == pytest.approx(expected) for ratio in ratios[-1]) if expected else max(ratios[-1]) < 1
    assert results(directory)["metrics"]["top1"] > 0


def test_scheduled_transitions_and_quantized_gradients_in_one_config(quantlab, tmp_path):
    directory = tmp_path / "run"
    code, _, err = quantlab(
        "method=qat", *TINY, "quantizer.gradient.bits=4", "trainer.max_steps=4", f"output_dir={directory}"
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
        *TINY,
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
        "method=low_bit", *TINY, "quantizer.gradient.bits=8", "trainer.max_steps=2", f"output_dir={directory}"
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


def test_the_rate_of_a_layer_falls_with_the_deviation_of_its_gradient(quantlab, tmp_path, monkeypatch):
    """max(e^(-20 d_c), 0.1) times the rate of everything else, and kept through a stop between two choices."""
    words = (
        "method=low_bit",
        *TINY,
        "quantizer.gradient.interval=dsgc",
        "quantizer.gradient.period=4",
        "method.deviation_scaling=true",
        "quantizer.gradient.bits=3",
        "method.weight_decay=0",
        "method.decay=constant",
        "trainer.checkpoint_every=2",
    )
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert quantlab(*words, "trainer.max_steps=7", f"output_dir={whole}")[0] == 0
    scales = np.array(
        [list(row["layers/learning_rate_scale"].values()) for row in rows(whole) if "learning_rate_scale" in row]
    )
    assert scales.shape == (7, 6) and ((scales >= 0.1) & (scales < 0.95)).all()
    assert (scales[:4] == scales[0]).all() and (scales[4:] == scales[4]).all() and (scales[4] != scales[0]).any()
    interrupt_after(7, monkeypatch)
    assert quantlab(*words, "trainer.max_steps=7", f"output_dir={stopped}")[0] == 130
    assert quantlab(f"resume={stopped}")[0] == 0
    assert results(stopped)["metrics"] == results(whole)["metrics"]


@pytest.mark.parametrize(
    "words, says",
    [
        (("quantizer.gradient.bits=1",), "allowed: 2 to 16"),
        (("quantizer.gradient.alpha=1",), "allowed: a number between 0 and 1"),
        (("quantizer.gradient.interval=large_gradients",), "large_gradient"),
        (("quantizer.gradient.gamma_min=0.9", "quantizer.gradient.gamma_max=0.5"), "allowed: up to gamma_max (0.5)"),
        (("quantizer.gradient.interval=piecewise", "quantizer.gradient.bits=2"), "allowed: 3 to 16"),
        (
            ("quantizer.gradient.bits=10", "trainer.mixed_precision=bf16"),
            "allowed: 2 to 9; type trainer.mixed_precision=no",
        ),
        (("method.deviation_scaling=true",), "interval=large_gradient measures no deviation"),
        (
            ("method.deviation_scaling=true", "quantizer.gradient.bits=32", "quantizer.gradient.interval=dsgc"),
            "bits=32 measures no deviation",
        ),
        (("quantizer.gradient.granularity=row",), "channel"),
        (("method.integer_check=true", "quantizer=ewgs"), "allowed: learned_clipping, fixed_point, lsq"),
        (("method.integer_check=true", "quantizer.gradient.bits=32"), "type method.integer_check=false"),
        (("quantizer=uniform_affine",), "this quantizer quantizes no gradient"),
        (("quantizer.weight.bits=32", "quantizer.activation.bits=32"), "nothing to quantize"),
    ],
)
def test_requests_that_make_no_sense(words, says, quantlab, tmp_path):
    code, _, err = quantlab("method=low_bit", *words, f"output_dir={tmp_path / 'run'}")
    assert code == 2 and says in err, err
    assert not (tmp_path / "run" / "config.yaml").exists()
