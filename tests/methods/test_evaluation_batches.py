"""A run that is stopped while it evaluates or samples goes on at the next batch, and ends with the same bits."""

import numpy as np
import pytest
from run_files import results
from tiny import TINY_PTQ

from quantlab.diffusion.trajectories import WalkEnds
from quantlab.methods import generation_evaluator

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
