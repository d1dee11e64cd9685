"""method=qat, whole runs on digits: what a run leaves, what it starts from, the same bits after a stop, two
processes.
"""

import shutil

import pytest
from forks import shared_run
from kills import interrupted_at
from run_files import results, rows, trained_state
from tiny import TINY_QAT

from quantlab.methods.qat import QAT
from quantlab.run.state import load_model, save_model


@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache):
    from quantlab.cli.main import main

    directory = tmp_path_factory.mktemp("qat") / "run"
    assert main([*TINY_QAT, f"output_dir={directory}", f"cache_dir={cache}"]) == 0
    return directory


def test_what_a_run_leaves(whole):
    found = results(whole)
    assert found["bits"] == {"weight": 2, "activation": 2, "gradient": 32}
    assert set(found["metrics"]) == {"top1", "top5", "loss"} == set(found["baseline"]["full_precision"])
    assert found["protocol"]["test_images"] == 359 and found["cost"]["steps"] == 20
    report = (whole / "report.md").read_text()
    for name in ("transitions", "latent_weights", "training"):
        assert f"figures/{name}.png" in report and (whole / "figures" / f"{name}.png").is_file()
    first = rows(whole)[0]
    assert first["target_transition_rate"] == pytest.approx(5e-3 * 2**0.5) and first["talr"] == pytest.approx(0.01)
    assert len(first["layers/talr"]) == 6 and "conv1" not in first["layers/talr"] and "fc" not in first["layers/talr"]
    assert [row["step"] for row in rows(whole) if "validation_top1" in row] == [5, 10, 15, 20]


def test_every_layer_has_the_target_of_its_own_bits(whole, quantlab, tmp_path):
    words = (*TINY_QAT, "quantizer.first_layer={weight_bits: 8, activation_bits: 8}")
    assert quantlab(*words, "trainer.max_steps=4", f"output_dir={tmp_path / 'own'}")[0] == 0
    first, last = rows(tmp_path / "own")[0], rows(tmp_path / "own")[-2]
    targets = first["layers/target_transition_rate"]
    assert targets.pop("conv1") == pytest.approx(5e-3 * 8**0.5) and set(targets.values()) == {5e-3 * 2**0.5}
    assert first["target_transition_rate"] == pytest.approx(5e-3 * (8**0.5 + 6 * 2**0.5) / 7)
    assert first["layers/running_transition_rate"]["conv1"] == pytest.approx(5e-3 * 8**0.5)  # K^0 = R^0
    assert last["layers/target_transition_rate"]["conv1"] == pytest.approx(
        2 * last["layers/target_transition_rate"]["layer1.0.conv1"]
    )
    assert "layers/target_transition_rate" not in rows(whole)[0]

    assert (
        quantlab(*words, "method.target_bits=section", "trainer.max_steps=2", f"output_dir={tmp_path / 'one'}")[0] == 0
    )
    first = rows(tmp_path / "one")[0]
    assert first["target_transition_rate"] == 5e-3 * 2**0.5 and "layers/target_transition_rate" not in first
    assert first["layers/running_transition_rate"]["conv1"] == pytest.approx(5e-3 * 2**0.5)


def test_layers_of_several_targets_repeat_the_bits_after_a_stop(quantlab, tmp_path, monkeypatch):
    words = (
        *TINY_QAT,
        "quantizer.policy=[{modules: layer1, weight_bits: 4, activation_bits: 4}]",
        "method.batch_norm_batches=2",
        "trainer.max_steps=6",
    )
    assert quantlab(*words, f"output_dir={tmp_path / 'whole'}")[0] == 0
    interrupted_at(4, QAT, monkeypatch)
    assert quantlab(*words, f"output_dir={tmp_path / 'cut'}")[0] == 130
    assert quantlab(f"resume={tmp_path / 'cut'}")[0] == 0
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    assert results(tmp_path / "cut")["metrics"] == results(tmp_path / "whole")["metrics"]


def test_batch_norm_statistics_of_the_last_weights(whole, quantlab, tmp_path):
    code, out, err = quantlab(*TINY_QAT, "method.batch_norm_batches=3", f"output_dir={tmp_path / 'run'}")
    assert code == 0, err
    found = results(tmp_path / "run")
    assert found["baseline"]["running_statistics"] == results(whole)["metrics"] != found["metrics"]
    assert found["protocol"]["batch_norm_batches"] == 3 and "running statistics" in out
    plain, new = (load_model(directory / "checkpoints" / "model")[0] for directory in (whole, tmp_path / "run"))
    changed = {name for name in plain if not plain[name].equal(new[name])}
    assert changed == {name for name in plain if name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    code, out, err = quantlab(
        "method=evaluate", f"method.run={tmp_path / 'run'}", "device=cpu", f"output_dir={tmp_path / 'again'}"
    )
    assert code == 0 and results(tmp_path / "again")["metrics"] == found["metrics"], err


def test_a_checkpoint_of_other_bits_is_no_start(whole, quantlab, tmp_path):
    code, _, err = quantlab(
        *TINY_QAT,
        "quantizer.weight.bits=4",
        f"model.weights={whole / 'checkpoints' / 'model.safetensors'}",
        f"output_dir={tmp_path / 'run'}",
    )
    assert code == 2 and "holds a model quantized to W2A2, allowed: weights in full precision" in err
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_run_may_start_from_another(whole, quantlab, tmp_path):
    reactnet = (*TINY_QAT, "quantizer=reactnet", "method.schedule=learning_rate", "trainer.max_steps=6")
    assert quantlab(*reactnet, "quantizer.weight.bits=32", f"output_dir={tmp_path / 'first'}")[0] == 0
    code, _, err = quantlab(
        *reactnet,
        f"method.start={tmp_path / 'first'}",
        "trainer.max_steps=1",
        f"output_dir={tmp_path / 'second'}",
        "method.learning_rate.sgd=1e-20",
        "method.scale_learning_rate=1e-20",
    )
    assert code == 0, err
    before, after = (trained_state(tmp_path / name) for name in ("first", "second"))
    for name in ("layer2.0.conv1.weight", "layer2.0.conv1.activation_quantizer.beta", "fc.weight"):
        assert before[name].equal(after[name])
    size = after["layer2.0.conv1.weight_quantizer.size"]
    assert size.allclose(before["layer2.0.conv1.weight"].abs().flatten(1).mean(dim=1))
    assert results(tmp_path / "second")["baseline"] == {"start": results(tmp_path / "first")["metrics"]}

    for words, says in (
        (
            (f"method.start={whole}", "quantizer.activation.bits=4"),
            "holds a qat model of W2A2, allowed here: a qat model of W32A4 or W2A4",
        ),
        ((f"method.start={whole}", "quantizer.weight.bits=4"), "allowed here: a qat model of W32A2 or W4A2"),
        ((f"method.start={whole}", "quantizer=ewgs"), "has quantizer=fixed_point, allowed here: quantizer=ewgs"),
        ((f"method.start={tmp_path}",), "holds no finished run"),
    ):
        code, _, err = quantlab(*TINY_QAT, *words, f"output_dir={tmp_path / 'run'}")
        assert code == 2 and says in err, err
        assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_start_that_is_not_finite_is_refused(whole, quantlab, tmp_path):
    shutil.copytree(whole, tmp_path / "first")
    path = tmp_path / "first" / "checkpoints" / "model"
    tensors, facts = load_model(path)
    tensors["layer2.0.bn1.weight"].view(-1)[3] = float("inf")
    save_model(path, tensors, facts)
    code, _, err = quantlab(*TINY_QAT, f"method.start={tmp_path / 'first'}", f"output_dir={tmp_path / 'run'}")
    assert code == 2 and f"method.start: {path}.safetensors holds NaN or infinity in layer2.0.bn1.weight" in err, err
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_weight_scales_are_frozen_under_transition_rates_and_learned_otherwise(whole, quantlab, tmp_path):
    tensors = trained_state(whole)
    assert quantlab(*TINY_QAT, "method.schedule=learning_rate", f"output_dir={tmp_path / 'plain'}")[0] == 0
    plain = trained_state(tmp_path / "plain")
    name = "layer2.0.conv1.weight_quantizer.scale"
    assert tensors[name] != plain[name]
    last = rows(tmp_path / "plain")[-2]
    assert "talr" not in last and last["running_transition_rate"] > 0


def test_a_run_that_was_stopped_repeats_the_bits(whole, quantlab, tmp_path, monkeypatch):
    directory = tmp_path / "run"
    interrupted_at(13, QAT, monkeypatch)
    assert quantlab(*TINY_QAT, f"output_dir={directory}")[0] == 130
    assert quantlab(f"resume={directory}")[0] == 0
    assert results(directory)["metrics"] == results(whole)["metrics"]
    assert (directory / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_two_processes_count_the_transitions_of_one_model(whole, cache, tmp_path):
    directory = tmp_path / "run"
    code, said = shared_run([*TINY_QAT, f"output_dir={directory}", f"cache_dir={cache}"], tmp_path)
    assert code == 0, said[-3000:]
    assert results(directory)["cost"]["steps"] == 20
    counted = [row["running_transition_rate"] for row in rows(directory) if "talr" in row]
    assert 0 < counted[-1] < 1

    # Weights that are not in the cache are not trained by processes that would wait for each other
    words = (*TINY_QAT, "model.pretrain.steps=21", f"output_dir={tmp_path / 'other'}", f"cache_dir={cache}")
    code, said = shared_run(words, tmp_path)
    assert code == 2 and "type method=pretrain" in said


@pytest.mark.slow
def test_a_compiled_network_trains_as_the_plain_one(whole, quantlab, tmp_path):
    code, _, err = quantlab(*TINY_QAT, "trainer.compile=true", f"output_dir={tmp_path / 'run'}")
    assert code == 0, err
    compiled, plain = (
        [row["loss"] for row in rows(directory) if "talr" in row] for directory in (tmp_path / "run", whole)
    )
    # then rounding sets other weights over their transition points
    assert compiled[:5] == pytest.approx(plain[:5], rel=0.02)


def test_max_steps_makes_a_run_short_in_all_its_parts(quantlab, tmp_path):
    recipe = ("model.pretrain.steps=5000", "model.pretrain.warmup_steps=1000", f"cache_dir={tmp_path / 'cache'}")
    code, _, err = quantlab(*TINY_QAT, *recipe, "trainer.max_steps=4", f"output_dir={tmp_path / 'run'}")
    assert code == 0 and "trainer.max_steps cuts its training from 5000 to 4 steps" in err
    (hidden,) = (tmp_path / "cache" / "full_precision").glob("*/run")
    assert [row["learning_rate"] for row in rows(hidden) if "learning_rate" in row][-1] < 0.2 * 5e-3
    assert results(tmp_path / "run")["cost"]["steps"] == 4


def test_the_best_validated_state_is_kept_and_reported_beside_the_last(whole, quantlab, tmp_path, monkeypatch):
    from quantlab.tasks.classification import ClassificationTask

    evaluate, validated = ClassificationTask.evaluate, iter([(50.0, 2.0), (70.0, 3.0), (70.0, 1.0), (60.0, 0.5)])

    def scripted(self, model, split, device, progress=None):
        found = evaluate(self, model, split, device, progress)
        return found if split == "test" else found | dict(zip(("top1", "loss"), next(validated)))

    monkeypatch.setattr(ClassificationTask, "evaluate", scripted)
    directory = tmp_path / "run"
    code, out, err = quantlab(*TINY_QAT, f"output_dir={directory}")
    assert code == 0, err
    best = results(directory)["best"]
    assert best["step"] == 15 and set(best["metrics"]) == {"top1", "top5", "loss"}
    assert "best validated (step 15)" in out and "best validated (step 15)" in (directory / "report.md").read_text()
    kept, facts = load_model(directory / "checkpoints" / "best")
    last, _ = load_model(directory / "checkpoints" / "model")
    assert facts["weights"] == "step 15" and kept.keys() == last.keys()
    assert not kept["fc.weight"].equal(last["fc.weight"])
