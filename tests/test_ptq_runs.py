"""AccuQuant's baselines, and other settings of AccuQuant, as whole runs on digits."""

import json

import numpy as np
import pytest
import torch
from run_files import results, rows
from tiny import PLAIN, TINY_ACCUQUANT, TINY_PTQ

from quantlab.run.state import load_state


def test_a_shorter_run_shortens_both_parts_alike(quantlab, tmp_path):
    assert quantlab(*TINY_ACCUQUANT, *PLAIN, "trainer.max_steps=6", f"output_dir={tmp_path / 'run'}")[0] == 0
    assert results(tmp_path / "run")["cost"]["network_evaluations"] == 3 * 2 + 11 * 4


@pytest.mark.parametrize("reconstruction", ["none", "step", "block"])
def test_baselines(reconstruction, quantlab, tmp_path):
    directory = tmp_path / reconstruction
    code, out, err = quantlab(
        "method=ptq",
        *TINY_PTQ,
        *(PLAIN if reconstruction != "none" else ()),
        f"method.reconstruction={reconstruction}",
        "method.network_evaluations=180",
        f"output_dir={directory}",
    )
    assert code == 0, err
    found = results(directory)
    # 18 blocks, 6 steps, one batch of 4: 6 * 19 = 114 passes collect, the other 66 are 22 iterations of each block
    spent = {"none": 0, "step": 180, "block": 180}[reconstruction]
    assert found["cost"]["network_evaluations"] == spent
    assert ("ranges_only" in found["baseline"]) == (reconstruction != "none")


def test_block_reconstruction_lowers_what_it_minimises(quantlab, tmp_path):
    # 3-bit activations on min-max ranges leave much to gain; a loss of 1 is what those ranges give
    code, _, _ = quantlab(
        "method=ptq",
        *TINY_PTQ,
        "method.reconstruction=block",
        "method.network_evaluations=174",
        "trainer.checkpoint_every=1000",
        "method.learn.rounding=false",
        "method.learning_rate.activation_scales=0.1",
        "quantizer.activation.bits=3",
        "quantizer.activation.scale_search=min_max",
        *(f"quantizer.{end}={{weight_bits: 4, activation_bits: 3}}" for end in ("first_layer", "last_layer")),
        f"output_dir={tmp_path / 'b'}",
    )
    assert code == 0
    rows = [json.loads(line) for line in (tmp_path / "b/metrics.jsonl").read_text().splitlines()]
    # 114 passes collect, 60 are 20 iterations per unit
    units = [rows[start : start + 20] for start in range(0, len(rows), 20)]
    ends = [sum(row["loss"] for row in unit[-5:]) / 5 for unit in units]
    assert len(units) == 18 and sum(ends) / len(ends) < 0.9


def test_block_reconstruction_that_is_cut_short_still_reaches_every_unit(quantlab, tmp_path):
    code, _, err = quantlab(
        "method=ptq",
        *TINY_PTQ,
        *PLAIN,
        "method.reconstruction=block",
        "method.network_evaluations=174",
        "trainer.max_steps=20",
        f"output_dir={tmp_path / 'b'}",
    )
    assert code == 0, err
    # all 18 units were collected for
    assert results(tmp_path / "b")["cost"]["network_evaluations"] == round(114 + 20 * 3 / 18)


def test_groups_learn_their_own_scales_one_after_the_other(quantlab, tmp_path):
    alone = ("method.learn.rounding=false", "method.group_order=sequential", "method.initialization.iterations=0")
    words = (*TINY_ACCUQUANT, *alone, *PLAIN, "trainer.checkpoint_every=6", f"output_dir={tmp_path / 'run'}")
    code, _, err = quantlab(*words)
    assert code == 0, err
    rates = [row["learning_rate"] for row in rows(tmp_path / "run")]
    assert len(rates) == 12 and rates[:6] == rates[6:] and rates[5] < rates[0]
    half, end = (
        load_state(tmp_path / "run" / "checkpoints" / f"step-{step:08d}")[0]["method"]["network"] for step in (6, 12)
    )
    changed = {name for name, tensor in end.items() if not torch.equal(tensor, half[name])}
    assert changed and all(name.endswith("log_scale.1") for name in changed)


@pytest.mark.parametrize(
    "words",
    [
        ("method.gradient=exact", "model.sampler.eta=0.5"),
        ("method.gradient=bptt", "method.group_order=sequential", "method.loss=l1"),
        ("model.sampler.steps=7", "method.group_size=3", "quantizer.activation.scales=shared"),
        (
            "model.sampler.steps=60",
            "model.sampler.spacing=quadratic",
            "method.group_size=2",
            "method.iterations=3",
            "method.calibration.trajectories=4",
            "task.evaluation.samples=8",
            "task.evaluation.step_error_samples=4",
        ),
        (
            "quantizer.weight.bits=32",
            "quantizer.activation.bits=6",
            "quantizer.activation.symmetric=true",
            "quantizer.activation.scale_search=lp",
        ),
        ("quantizer.weight.granularity=tensor", "quantizer.attention=false"),
    ],
    ids=["exact-eta", "bptt-sequential-l1", "odd-group-shared", "quadratic-no-ops", "activations-only", "per-tensor"],
)
def test_other_settings_run_whole(words, quantlab, tmp_path):
    code, _, err = quantlab(
        *TINY_ACCUQUANT,
        *PLAIN,
        "method.initialization.iterations=2",
        "method.iterations=4",
        *words,
        f"output_dir={tmp_path / 'run'}",
    )
    assert code == 0, err
    assert all(np.isfinite(value) for value in results(tmp_path / "run")["metrics"].values())
