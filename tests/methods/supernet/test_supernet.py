"""method=supernet, whole runs on digits: its files, identical bits after a stop, two processes, invalid requests."""

import csv

import numpy as np
import pytest
import torch
from forks import shared_run
from PIL import Image
from run_files import results, rows
from scipy.stats import kendalltau

from quantlab.run.state import load_model
from quantlab.search.nas_bench_201 import NasBench201

TINY = (
    "method=supernet",
    "model.width=2",
    "method.epochs=1",
    "method.batch_size=128",
    "method.ranking.stand_alone.subnets=4",
    "method.ranking.stand_alone.steps=10",
    "method.ranking.batch_size=64",
    "method.search.population=6",
    "method.search.generations=2",
    "method.search.crossover=2",
    "method.search.mutation=2",
    "device=cpu",
    "trainer.log_every=1",
    "trainer.checkpoint_every=4",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache):
    from quantlab.cli.main import main

    directory = tmp_path_factory.mktemp("supernet") / "run"
    assert main([*TINY, f"output_dir={directory}", f"cache_dir={cache}"]) == 0
    return directory


def test_files_of_a_run(whole):
    found = results(whole)
    assert found["cost"]["steps"] == 10 and -1 <= found["metrics"]["kendall_tau"] <= 1
    assert set(found["baseline"]["complexity_alone"]) >= {"kendall_tau", "spearman"}
    assert found["protocol"]["ranked_subnets"] == 4 and found["protocol"]["truth"] == "stand_alone_training"
    assert found["protocol"]["ranking_images"] == 128  # whole batches of the 144 validation images
    report = (whole / "report.md").read_text()
    for name in ("ranking", "fairness", "noise", "found_subnet"):
        assert f"figures/{name}.png" in report
        assert np.asarray(Image.open(whole / "figures" / f"{name}.png").convert("L")).std() > 5
    assert f"model.subnet={found['diagnostics']['found']}" in report
    assert 0 <= found["metrics"]["top1"] <= 100 and (whole / "ranking.csv").is_file()
    logged = [row for row in rows(whole) if "complexity" in row]
    assert len(logged) == 10 and logged[0]["learning_rate"] == 0.025 and "momentum_cosine" not in logged[0]
    assert any("momentum_cosine" in row for row in logged)
    validated = [row for row in rows(whole) if "validation_loss_low" in row]
    assert len(validated) == 3 and {"validation_loss_middle", "validation_loss_high"} <= validated[0].keys()
    assert not list(whole.glob("*unfinished*"))


def test_the_rate_follows_the_complexity_of_the_subnet(whole):
    from quantlab.optim.calr import decay_exponent, decay_factor

    space = NasBench201(width=2, cells=1, image_size=8, channels=1)
    for step, row in enumerate(row for row in rows(whole) if "complexity" in row):
        exponent = decay_exponent(row["complexity"], *space.complexity_range("parameters"), 4.0)
        assert row["learning_rate"] == pytest.approx(0.025 * decay_factor(step, 10, exponent))


def test_few_shot_keeps_a_supernet_per_operation(quantlab, tmp_path):
    assert quantlab(*TINY, "method.sampler=fsnas", f"output_dir={tmp_path / 'run'}")[0] == 0
    tensors, facts = load_model(tmp_path / "run" / "checkpoints" / "model")
    assert results(tmp_path / "run")["cost"]["steps"] == 50 and facts["sampler"] == "fsnas"
    stems = [tensors[f"supernet{part}.stem.0.weight"] for part in range(5)]
    assert not any(torch.equal(stems[0], other) for other in stems[1:])
    assert {name.partition(".")[0] for name in tensors} == {f"supernet{part}" for part in range(5)}


@pytest.mark.parametrize("steps", [5, 16])
def test_few_shot_trains_every_supernet_however_long_the_run(steps, quantlab, tmp_path):
    assert (
        quantlab(*TINY, "method.sampler=fsnas", f"trainer.max_steps={steps}", f"output_dir={tmp_path / 'run'}")[0] == 0
    )
    rates = [row["learning_rate"] for row in rows(tmp_path / "run") if "complexity" in row]
    assert len(rates) == steps and rates.count(0.025) == 5  # each starts with the full learning rate


def test_a_run_continues_with_its_own_sampler_and_space(quantlab, tmp_path, monkeypatch):
    from quantlab.methods.supernet import Supernet

    def stop(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Supernet, "after_update", stop)
        assert quantlab(*TINY, f"output_dir={tmp_path / 'run'}")[0] == 130
    for other in ("method.sampler=fairnas", "model=mobilenet_supernet_small"):
        code, _, err = quantlab(f"resume={tmp_path / 'run'}", other)
        assert code == 2 and f"drop {other}" in err
    code, _, err = quantlab(*TINY, "method.sampler=fairnas", f"output_dir={tmp_path / 'run'}")
    assert code == 2 and "resume=" in err


def tiny(words):
    """TINY with `words` after it, without what another model does not have."""
    other_model = any(word.startswith("model=") for word in words)
    return [word for word in TINY if not (other_model and word.startswith("model."))] + list(words)


@pytest.mark.parametrize(
    "words",
    [
        ("method.sampler=fairnas", "method.gradient_clip=null"),
        ("method.sampler=fairnas", "method.calr=false", "method.decay=constant"),
        ("method.calr=false", "method.decay=uniform"),
        ("method.calr=false", "method.momentum_separation=false"),
        ("method.inactive_parameters=frozen", "method.complexity=flops"),
        ("method.ranking.batch_norm=recalibrated",),
        ("method.search.strategy=random", "method.search.complexity_limit=5000"),
        ("model=mobilenet_supernet_small", "model.stem=4"),
        (
            "method.ranking.batches=random",
            "method.search.complexity=flops",
            "method.search.complexity_limit=100000",
            "trainer.drop_last=false",
        ),
    ],
)
def test_every_variant_runs(words, quantlab, tmp_path):
    code, _, err = quantlab(*tiny(words), "trainer.max_steps=3", f"output_dir={tmp_path / 'run'}")
    assert code == 0, err
    assert (tmp_path / "run" / "figures" / "found_subnet.png").is_file()


def test_few_shot_over_the_mobilenet_space_by_bins_of_flops_without_a_ranking(quantlab, tmp_path):
    code, out, err = quantlab(
        *tiny(["model=mobilenet_supernet_small", "model.initialization=he_fan_out"]),
        "method.sampler=fsnas",
        "method.flops_bins=[300e3,400e3]",
        "method.ranking.stand_alone.subnets=0",
        "trainer.max_steps=12",
        "method.search.complexity=flops",
        "method.search.complexity_limit=400e3",
        f"output_dir={tmp_path / 'run'}",
    )
    assert code == 0, err
    found = results(tmp_path / "run")
    assert (
        set(found["metrics"]) == {"top1"}
        and found["protocol"]["ranked_subnets"] == 0
        and "truth" not in found["protocol"]
    )
    assert (
        not (tmp_path / "run" / "ranking.csv").exists() and not (tmp_path / "run" / "figures" / "ranking.png").exists()
    )
    assert found["diagnostics"]["found_flops"] <= 400e3 and "complexity_alone" not in found.get("baseline", {})
    tensors, _ = load_model(tmp_path / "run" / "checkpoints" / "model")
    assert {name.partition(".")[0] for name in tensors} == {f"supernet{part}" for part in range(6)}
    for part in range(6):  # the second to sixth are initialized like the first: He fan-out, and hardly trained
        assert tensors[f"supernet{part}.layers.3.7x7_e6.body.0.weight"].std() == pytest.approx((2 / 96) ** 0.5, rel=0.1)


def test_the_control_has_the_mean_rate_of_calr_at_every_step(quantlab, tmp_path):
    assert quantlab(*TINY, "method.calr=false", "method.decay=uniform", f"output_dir={tmp_path / 'run'}")[0] == 0
    from quantlab.optim.calr import decay_exponent

    space = NasBench201(width=2, cells=1, image_size=8, channels=1)
    exponents = np.array(
        [
            decay_exponent(space.complexity(space.subnet(index)), *space.complexity_range(), 4.0)
            for index in range(space.size)
        ]
    )
    rates = [row["learning_rate"] for row in rows(tmp_path / "run") if "complexity" in row]
    wanted = [0.025 * ((1 - step / 10) ** exponents).mean() for step in range(10)]
    assert rates == pytest.approx(wanted, rel=0.03)  # the mean is of 4,096 drawn subnets


def test_two_processes_share_their_gradients(whole, cache, tmp_path):
    """`whole` has cached the networks that are trained alone, by one process."""
    directory = tmp_path / "run"
    code, said = shared_run([*TINY, f"output_dir={directory}", f"cache_dir={cache}"], tmp_path)
    assert code == 0, said[-3000:]
    assert np.isfinite(results(directory)["metrics"]["kendall_tau"])
    assert [row["learning_rate"] for row in rows(directory) if "complexity" in row][0] == 0.025


def table(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    "words, said",
    [
        (("method.ranking.truth=missing.npz",), "method.ranking.truth: no such file"),
        (("method.ranking.column=cifar10_test",), "method.ranking.truth is null"),
        (("method.split=6",), "method.split: got 6, allowed in nas_bench_201: 0 to 5"),
        (("method.sampler=fsnas", "method.split=0"), "the decision that sampler=fsnas fixes"),
        (("method.search.complexity_limit=10",), "which excludes every subnet"),
        (("model.subnet=3-3-3-1-2-3",), "takes a supernet, allowed: null"),
        (("trainer.compile=true",), "another subnet at every step"),
        (("model=mobilenet_supernet", "method.search.strategy=exhaustive"), "allowed there: random, evolutionary"),
        (("method.sampler=fsnas", "trainer.max_steps=4"), "got 4 steps, allowed with method.sampler=fsnas: from 5"),
        (("method.gamma_max=0.5",), "method.gamma_max: got 0.5"),
        (
            ("method.flops_bins=[3e5,2e5]",),
            "method.flops_bins: got [300000.0, 200000.0], allowed: at least two ascending numbers, or null",
        ),
        (("method.flops_bins=[1e9,2e9]",), "allowed: bins among these; type method.flops_bins=["),
        (("method.flops_bins=[1e5,2e5]", "method.sampler=fairnas"), "method.flops_bins=null, or method.sampler=spos"),
    ],
)
def test_invalid_requests_are_refused(words, said, quantlab, tmp_path):
    code, _, err = quantlab(*tiny(words), f"output_dir={tmp_path / 'run'}")
    assert code == 2 and said in err and "Traceback" not in err
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_other_columns_are_of_the_same_split():
    from quantlab.search.ranking import other_columns
    from quantlab.search.truth import TruthTable

    names = [f"{data}_{split}" for data in ("cifar10", "cifar100", "imagenet16_120") for split in ("test", "valid")]
    truth = TruthTable(np.arange(2), {name: np.array([10.0, 20.0]) for name in [*names, "other"]})
    assert other_columns(truth, "cifar10_test") == ["cifar100_test", "imagenet16_120_test"]
    assert other_columns(truth, "cifar100_valid") == ["cifar10_valid", "imagenet16_120_valid"]
    assert other_columns(truth, "other") == names


def test_a_truth_table_is_checked_before_any_work(quantlab, tmp_path):
    short = table(tmp_path / "short.npz", cifar10_test=np.full(100, 50.0, dtype=np.float32))
    code, _, err = quantlab(*TINY, f"method.ranking.truth={short}", f"output_dir={tmp_path / 'run'}")
    assert code == 2 and "100 entries, allowed: 15625" in err
    whole = table(
        tmp_path / "whole.npz",
        cifar10_test=np.linspace(10, 90, 15625, dtype=np.float32),
        cifar10_valid=np.full(15625, 50, dtype=np.float32),
        cifar100_test=np.full(15625, 90, dtype=np.float32),
        few_indices=np.arange(0, 15625, 700, dtype=np.int32),
    )
    code, _, err = quantlab(
        *TINY, f"method.ranking.truth={whole}", "method.ranking.subset=fwe_indices", f"output_dir={tmp_path / 'run'}"
    )
    assert code == 2 and "fwe_indices" in err and "few_indices" in err
    assert not (tmp_path / "run" / "config.yaml").exists()
    code, _, err = quantlab(
        *TINY, f"method.ranking.truth={whole}", "method.ranking.subset=few_indices", f"output_dir={tmp_path / 'run'}"
    )
    assert code == 0, err
    found = results(tmp_path / "run")
    assert found["protocol"]["ranked_subnets"] == 23 and found["protocol"]["truth"] == "cifar10_test"
    # top1 is the run's own; the table's accuracy of the found subnet has another name
    space = NasBench201(width=2, cells=1, image_size=8, channels=1)
    number = space.index(space.decode(found["diagnostics"]["found"]))
    assert found["metrics"]["top1_alone"] == pytest.approx(np.linspace(10, 90, 15625)[number], abs=0.01)
    assert found["metrics"]["top1_alone_cifar100_test"] == 90 and "top1_cifar100_test" not in found["metrics"]
    right = found["metrics"]["top1"] / 100 * found["protocol"]["test_images"]
    assert right == pytest.approx(round(right)) and found["protocol"]["test_images"] == 359  # of all test images
    lines = list(csv.DictReader((tmp_path / "run" / "ranking.csv").open()))
    assert list(lines[0]) == [
        "subnet",
        "top1_in_supernet",
        "top1_alone_cifar10_test",
        "top1_alone_cifar100_test",
        "parameters",
    ]
    assert len(lines) == 23 and "[ranking.csv](ranking.csv)" in (tmp_path / "run" / "report.md").read_text()
    scores, truth = ([float(line[name]) for line in lines] for name in ("top1_in_supernet", "top1_alone_cifar10_test"))
    assert kendalltau(scores, truth).statistic == pytest.approx(found["metrics"]["kendall_tau"])
    assert "kendall_tau_cifar100_test" in found["metrics"]
    assert not any("valid" in name for name in found["metrics"])
