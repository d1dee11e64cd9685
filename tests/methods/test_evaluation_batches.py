"""A run that is stopped while it evaluates or samples goes on at the next batch, and ends with the same bits."""

import numpy as np
import pytest
import torch
from run_files import results
from tiny import TINY_PTQ

from quantlab.diffusion.trajectories import WalkEnds
from quantlab.methods import evaluation_networks, generation_evaluator
from quantlab.metrics.fid import FrechetDistance, Known
from quantlab.metrics.inception import inception_score, precision_recall
from quantlab.tasks.base import normalize
from quantlab.tasks.datasets import load_digits

RANGES = (
    "method=ptq",
    *TINY_PTQ,
    "method.reconstruction=none",
    "quantizer.weight.scale_search=min_max",
    "quantizer.activation.scale_search=min_max",
    "task.evaluation.batch_size=5",  # of 24 samples
)


class Stopped:
    """Stands for a function; the call after `calls` of them is stopped as by Ctrl-C."""

    def __init__(self, function, calls=None):
        self.function, self.left, self.calls = function, calls, 0

    def __call__(self, *args, **options):
        if self.calls == self.left:
            raise KeyboardInterrupt
        self.calls += 1
        return self.function(*args, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache):
    from quantlab.cli.main import main

    directory = tmp_path_factory.mktemp("whole") / "run"
    assert main([*RANGES, f"output_dir={directory}", f"cache_dir={cache}"]) == 0
    return directory


def test_evaluation_goes_on_at_the_batch_where_it_was(whole, quantlab, tmp_path, monkeypatch):
    run, compare = tmp_path / "run", generation_evaluator.compare_walks
    monkeypatch.setattr(generation_evaluator, "compare_walks", Stopped(compare, 3))
    assert quantlab("method=evaluate", f"method.run={whole}", f"output_dir={run}")[0] == 130
    assert len([*run.glob("evaluation/quantized-*.json")]) == 3
    rest = Stopped(compare)
    monkeypatch.setattr(generation_evaluator, "compare_walks", rest)
    code, _, err = quantlab(f"resume={run}")
    assert code == 0 and rest.calls == 2, err
    found, expected = results(run), results(whole)
    assert found["metrics"] == expected["metrics"] and found["protocol"] == expected["protocol"]
    assert found["baseline"]["full_precision"] == expected["baseline"]["full_precision"]
    assert not (run / "evaluation").exists()


class OfPixels(torch.nn.Module):
    """Stands for Inception: outputs that are pixels."""

    num_features = 64

    def outputs(self, images):
        flat = images.clamp(-1, 1).flatten(1)  # as Inception does
        return {"pool": flat, "spatial": flat[:, ::9], "logits": 3 * flat[:, :5]}

    def features(self, images):
        return self.outputs(images)["pool"]


def test_metrics_by_name_and_what_lacks_its_weights(whole, quantlab, tmp_path, monkeypatch):
    torch.manual_seed(0)
    names = ["sfid", "inception_score", "precision", "recall"]
    asked = (
        "method=sample",
        f"method.run={whole}",
        "method.samples=23",
        f"task.evaluation.metrics=[{','.join(names)}]",
    )
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nothing"))
    pytest.importorskip("torch_fidelity")
    code, _, err = quantlab(*asked, "task.evaluation.features=inception", f"output_dir={tmp_path / 'absent'}")
    place = f"weights absent at {tmp_path}/nothing/hub/checkpoints/weights-inception-2015-12-05-6726825d.pth"
    note = f"fid, fid_to_fp32, {', '.join(names)}: not measured: {place}"
    assert code == 0 and f"warning: {note}; task.evaluation.download=true fetches them" in " ".join(err.split()), err
    found = results(tmp_path / "absent")
    assert found["notes"] == [note] and set(found["metrics"]) == {"spectrum_ratio"}
    assert not {"fid_features", "reference_images", *names} & found["protocol"].keys()
    assert f"Note: {note}." in (tmp_path / "absent/report.md").read_text()

    kind = evaluation_networks.Kind(lambda evaluation: None, lambda evaluation, path: OfPixels())
    monkeypatch.setitem(evaluation_networks.KINDS, "inception", kind)
    code, _, err = quantlab(*asked, "task.evaluation.features=inception", f"output_dir={tmp_path / 'measured'}")
    assert code == 0, err
    found, drawn = results(tmp_path / "measured"), np.load(tmp_path / "measured/samples/samples.npy")
    images = torch.from_numpy(drawn).permute(0, 3, 1, 2) / 127.5 - 1  # as far as 8 bits tell
    digits = normalize(torch.from_numpy(load_digits()[0]))
    network, metrics = OfPixels(), found["metrics"]
    spatial = FrechetDistance(Known(8)).reference(network.outputs(digits)["spatial"])
    assert metrics["sfid"] == pytest.approx(spatial.measure(network.outputs(images)["spatial"]), rel=0.02)
    assert metrics["fid"] == pytest.approx(FrechetDistance(network).reference(digits).measure(images), rel=0.02)
    assert metrics["inception_score"] == pytest.approx(inception_score(network.outputs(images)["logits"]), rel=0.02)
    near = precision_recall(network.features(images), network.features(digits))
    assert {name: metrics[name] for name in near} == pytest.approx(near, abs=0.05)
    assert set(names) <= found["protocol"].keys() and "notes" not in found


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("[lpips]",), "whose network alex takes images from 31 pixels on, but model=ddim makes 8; drop lpips"),
        (("[clip_score]",), "got clip_score, but model=ddim draws without prompts"),
        (("[sfd]",), "did you mean 'sfid'"),
        (("[sfid]", "task=pipeline_generation"), "has no images to compare with, allowed: inception_score"),
        (("[recall]", "task.evaluation.samples=3", "task.evaluation.step_error_samples=2"), "looks at 3 neighbours"),
    ],
)
def test_metrics_that_cannot_be_measured_are_refused(words, said, quantlab, tmp_path):
    code, _, err = quantlab(
        "method=ptq", f"task.evaluation.metrics={words[0]}", *words[1:], f"output_dir={tmp_path / 'run'}"
    )
    assert code == 2 and said in err and not (tmp_path / "run").exists(), err


def test_sampling_too_and_its_images_are_not_all_in_memory(whole, quantlab, tmp_path, monkeypatch):
    words = ("method=sample", f"method.run={whole}", "method.samples=23")
    assert quantlab(*words, f"output_dir={tmp_path / 'once'}")[0] == 0
    draw = WalkEnds.__getitem__
    monkeypatch.setattr(WalkEnds, "__getitem__", lambda ends, rows: stopped(ends, rows))
    stopped = Stopped(draw, 2)
    assert quantlab(*words, f"output_dir={tmp_path / 'twice'}")[0] == 130
    stopped = Stopped(draw)
    code, _, err = quantlab(f"resume={tmp_path / 'twice'}")
    assert code == 0 and stopped.calls == 3, err
    files = [tmp_path / name / "samples/samples.npy" for name in ("once", "twice")]
    assert files[0].read_bytes() == files[1].read_bytes() and np.load(files[0]).shape == (23, 8, 8, 1)
    assert results(tmp_path / "once")["metrics"] == results(tmp_path / "twice")["metrics"]
