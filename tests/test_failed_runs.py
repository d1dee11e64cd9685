"""Runs that fail, by a NaN or an error, and requests that are refused: one line, and nothing half-written."""

import json
import shutil

import pytest
from run_files import results, status
from tiny import TINY, TINY_ACCUQUANT


def test_nan_stops_the_run_with_one_line(quantlab, tmp_path):
    directory = tmp_path / "run"
    code, _, err = quantlab(
        "method=pretrain",
        *TINY,
        "model.pretrain.learning_rate=1e30",
        "model.pretrain.gradient_clip=null",
        "model.pretrain.warmup_steps=1",
        "trainer.log_every=2",
        f"output_dir={directory}",
    )
    errors = [line for line in err.splitlines() if "error" in line]
    assert code == 1 and len(errors) == 1 and "NaN" in errors[0]
    assert status(directory)["state"] == "failed" and not (directory / "results.json").exists()


DIVERGES = ("model.pretrain.optimizer=sgd", "model.pretrain.gradient_clip=null", "model.pretrain.learning_rate=1e30")


CLASSIFIER = ("task=digits", "model=resnet20", "model.depth=8", "model.width=4", "device=cpu")


@pytest.mark.parametrize(
    "words, says",
    [
        (("method=pretrain", *DIVERGES), "loss of the validation is NaN or infinite after step 1"),
        (("method=qat", *DIVERGES), "loss of the validation is NaN or infinite after step 1"),  # of its start
        (("method=low_bit", "method.learning_rate.sgd=1e38"), "after step 1"),
    ],
)
def test_divergence_in_the_last_update_fails_and_is_not_cached(words, says, quantlab, tmp_path):
    directory, cache = tmp_path / "run", tmp_path / "cache"
    for _ in range(2):  # what a first run left does not change what a second says
        code, _, err = quantlab(
            *words, *CLASSIFIER, "trainer.max_steps=1", f"output_dir={directory}", f"cache_dir={cache}"
        )
        errors = [line for line in err.splitlines() if line.startswith("quantlab: error")]
        assert code == 1 and len(errors) == 1 and says in errors[0], err
        assert status(directory)["state"] == "failed" and not (directory / "results.json").exists()
        assert not list(cache.rglob("*.safetensors"))
        shutil.rmtree(directory)


def test_numbers_that_end_as_nan_are_a_failed_run(quantlab, tmp_path, monkeypatch):
    from quantlab.methods.quantized_training import QuantizedTraining

    monkeypatch.setattr(QuantizedTraining, "_test_metrics", lambda self: {"top1": 11.4, "loss": float("nan")})
    code, _, err = quantlab("method=low_bit", *CLASSIFIER, "trainer.max_steps=1", f"output_dir={tmp_path / 'run'}")
    assert code == 1 and "the run ends with loss NaN or infinite, after 1 steps" in err
    assert status(tmp_path / "run")["state"] == "failed" and not (tmp_path / "run/results.json").exists()


def test_a_cached_training_whose_checkpoints_are_all_damaged_is_made_anew(quantlab, tmp_path):
    words = ("method=qat", *CLASSIFIER, "model.pretrain.steps=4", "trainer.max_steps=4", f"cache_dir={tmp_path / 'c'}")
    assert quantlab(*words, f"output_dir={tmp_path / 'one'}")[0] == 0
    (made,) = tmp_path.glob("c/full_precision/*/tensors.json")
    made.unlink()  # as if it had been killed before its end
    for file in made.parent.glob("run/checkpoints/step-*.safetensors"):
        file.write_bytes(file.read_bytes()[:-1])
    code, _, err = quantlab(*words, f"output_dir={tmp_path / 'two'}")
    assert code == 0 and "it is trained from the start" in err
    assert results(tmp_path / "one")["metrics"] == results(tmp_path / "two")["metrics"]


def test_an_unforeseen_error_leaves_its_traceback_in_the_log_alone(quantlab, tmp_path, monkeypatch):
    from quantlab import runner

    monkeypatch.setattr(runner, "init_trackers", lambda *_: 1 / 0)
    directory = tmp_path / "run"
    code, _, err = quantlab("method=pretrain", *TINY, f"output_dir={directory}")
    assert code == 1 and "ZeroDivisionError: division by zero" in err and "Traceback" not in err
    assert "Traceback" in (log := (directory / "run.log").read_text()) and log.endswith(
        "ZeroDivisionError: division by zero\n\n"
    )


@pytest.mark.parametrize(
    "words, says",
    [
        (("device=cuda",), "device"),
        (("task=mnist_generation", "data_dir=no_such_place"), "no_such_place"),
        (("model=ddpm_cifar10", "model.path=no_such_model", "task=digits_generation"), "no_such_model"),
        (("model.weights=no_such_file.safetensors",), "no_such_file.safetensors"),
        (("task.image_size=9",), "image_size"),
    ],
)
def test_requests_that_are_found_wrong_before_any_work(words, says, quantlab, tmp_path, monkeypatch):
    if words == ("device=cuda",):
        torch = pytest.importorskip("torch")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, _, err = quantlab(*TINY_ACCUQUANT[:1], *words, f"output_dir={tmp_path / 'run'}")
    errors = [line for line in err.splitlines() if line.startswith("quantlab: error")]
    assert code == 2 and len(errors) == 1 and says in errors[0], err
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("method=qat", "task=digits", "model=resnet20", "model.weights={}"),
        ("method=qat", "task=digits", "model=resnet20", "method.start={}"),
        ("method=supernet", "method.ranking.truth={}"),
        ("method=accuquant", "task.feature_network.weights={}"),
        ("method=accuquant", "model=ddpm_cifar10", "model.path={}"),
    ],
    ids=["weights", "start", "truth", "features", "path"],
)
def test_a_missing_file_is_found_before_data_is_read(words, quantlab, tmp_path, monkeypatch):
    from quantlab.tasks import datasets

    monkeypatch.setattr(datasets, "load_digits", lambda: pytest.fail("data was read"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, _, err = quantlab(*(word.format(tmp_path / "missing") for word in words), f"output_dir={tmp_path / 'run'}")
    assert code == 2 and str(tmp_path / "missing") in err, err
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_sweep_goes_on_after_a_failing_job_and_skips_what_is_done(quantlab, tmp_path):
    words = (
        "-m",
        "method=pretrain",
        *TINY,
        "model.pretrain.steps=3",
        "model.pretrain.warmup_steps=1",
        "trainer.log_every=1",
        "model.pretrain.gradient_clip=null",
        "model.pretrain.learning_rate=1e30,1e-3",
        f"output_dir={tmp_path / 'sweep'}",
    )
    code, out, err = quantlab(*words)
    assert code == 1
    states = {
        path.parent.name: json.loads(path.read_text())["state"] for path in (tmp_path / "sweep").glob("*/status.json")
    }
    assert sorted(states.values()) == ["completed", "failed"]
    assert "failed" in out and "completed" in out
    (done,) = [name for name, state in states.items() if state == "completed"]
    before = (tmp_path / "sweep" / done / "results.json").stat().st_mtime_ns
    code, out, err = quantlab(*words)
    assert code == 1 and (tmp_path / "sweep" / done / "results.json").stat().st_mtime_ns == before
