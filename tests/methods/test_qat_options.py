"""method=qat with every quantizer, every optimizer and both cures of oscillation."""

import pytest
from kills import interrupted_at
from run_files import results, rows
from tiny import TINY_QAT

from quantlab.config.catalog import options
from quantlab.methods.qat import QAT
from quantlab.run.state import load_model


@pytest.mark.parametrize("schedule", ["transition_rate", "learning_rate"])
@pytest.mark.parametrize(
    "quantizer", [name for name, option in options("quantizer").items() if name not in ("none", "uniform_affine")]
)
def test_every_quantizer_trains(quantizer, schedule, quantlab, tmp_path):
    directory = tmp_path / "run"
    code, _, err = quantlab(
        *TINY_QAT,
        f"quantizer={quantizer}",
        f"method.schedule={schedule}",
        f"output_dir={directory}",
        # signs flip at once
        "trainer.max_steps=6",
        "trainer.checkpoint_every=3",
        "method.learning_rate.sgd=0.1",
    )
    assert code == 0, err
    logged = [row for row in rows(directory) if "effective_step_size" in row]
    assert logged[0]["running_transition_rate"] > 0 and logged[0]["effective_step_size"] > 0
    tensors, _ = load_model(directory / "checkpoints" / "model")
    assert any("activation_quantizer" in name for name in tensors)
    assert results(directory)["metrics"]["top1"] > 0


@pytest.mark.parametrize(
    "optimizer, schedule, bits",
    [
        *(
            (optimizer, schedule, bits)
            for optimizer in ("sgd", "adam", "adamw")
            for schedule in ("transition_rate", "learning_rate")
            for bits in (1, 3)
        ),
        *((optimizer, "transition_rate", 3) for optimizer in ("nadam", "adamax", "rmsprop", "adagrad")),
        ("rmsprop", "learning_rate", 3),
    ],
)
def test_every_optimizer_trains(optimizer, schedule, bits, quantlab, tmp_path):
    directory = tmp_path / "run"
    code, _, err = quantlab(
        *TINY_QAT,
        f"method.optimizer={optimizer}",
        f"method.schedule={schedule}",
        f"output_dir={directory}",
        f"quantizer.weight.bits={bits}",
        f"quantizer.activation.bits={bits}",
        "trainer.max_steps=4",
        "method.learning_rate.sgd=0.1",
        "method.nesterov=true",
    )
    assert code == 0, err
    assert rows(directory)[0]["effective_step_size"] > 0


def test_dampening_pulls_and_freezing_stops(quantlab, tmp_path):
    plain = ("method.schedule=learning_rate", "method.m_o=0.1")
    cures = {
        "none": (),
        "dampening": (
            "method.dampening.weight=100",
            "method.dampening.start=0.5",
            "method.dampening.aggregation=kernel_mean",
        ),
        "freezing": (
            "method.freezing.threshold_start=0.05",
            "method.freezing.threshold_end=0.01",
            "method.freezing.start=0.5",
        ),
    }
    found = {}
    for name, words in cures.items():
        code, _, err = quantlab(
            *TINY_QAT, *plain, f"method.oscillation={name}", *words, f"output_dir={tmp_path / name}"
        )
        assert code == 0, err
        found[name] = [row for row in rows(tmp_path / name) if "oscillating_share" in row]
    before = [row for row in found["none"] if row["step"] <= 10]
    for name in ("dampening", "freezing"):
        assert [row["loss"] for row in found[name] if row["step"] <= 10] == [row["loss"] for row in before]
    last = {name: logged[-1] for name, logged in found.items()}
    assert last["dampening"]["distance_to_transition_point"] > last["none"]["distance_to_transition_point"]
    frozen = [row["frozen_share"] for row in found["freezing"]]
    assert frozen[9] == 0 < frozen[-1] and frozen == sorted(frozen)
    assert "frozen_share" not in last["none"]


def test_freezing_repeats_the_bits_after_a_stop(quantlab, tmp_path, monkeypatch):
    words = (
        *TINY_QAT,
        "method.oscillation=freezing",
        "method.m_o=0.1",
        "method.freezing.threshold_start=0.05",
        "method.freezing.start=0",
    )
    assert quantlab(*words, f"output_dir={tmp_path / 'whole'}")[0] == 0
    interrupted_at(13, QAT, monkeypatch)
    assert quantlab(*words, f"output_dir={tmp_path / 'cut'}")[0] == 130
    assert quantlab(f"resume={tmp_path / 'cut'}")[0] == 0
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    assert rows(tmp_path / "cut")[-2]["frozen_share"] > 0
