"""Post-training quantization by torchrun: two processes divide batches, walks and images, and do what one does."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from run_files import results
from tiny import TINY_ACCUQUANT, TINY_PTQ

from quantlab.diffusion.rollout import seeded_normal
from quantlab.diffusion.samplers import build_sampler
from quantlab.diffusion.trajectories import compute_walks
from quantlab.errors import RequestError
from quantlab.methods.ptq.method import DiffusionPTQ
from quantlab.run.processes import ALONE, Processes

TWO = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29623")
NOISE = "model.sampler.eta=0.5"


def losses(directory):
    return [json.loads(line)["loss"] for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [(*TINY_ACCUQUANT, NOISE), ("method=ptq", *TINY_PTQ, NOISE, "method.network_evaluations=130")],
    ids=["accuquant", "block"],
)
def test_two_processes_do_what_one_does(words, quantlab, process, cache, tmp_path):
    two, one = tmp_path / "two", tmp_path / "one"
    # What must be there before: weights, and the feature network
    code, _, err = quantlab("method=ptq", *TINY_PTQ, "method.reconstruction=none", f"output_dir={tmp_path / 'made'}")
    assert code == 0, err
    own = "task.evaluation.batch_size=5"  # of 24 images, which two cannot divide evenly
    running = process(*words, own, f"output_dir={two}", launcher=(*TWO, "-m", "quantlab.cli"))
    _, err = running.communicate(timeout=300)
    assert running.returncode == 0, err[-3000:]
    code, _, err = quantlab(*words, own, f"output_dir={one}")
    assert code == 0, err
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    for name, value in results(one)["metrics"].items():
        assert results(two)["metrics"][name] == pytest.approx(value, rel=1e-3), name
    assert results(two)["cost"]["network_evaluations"] == results(one)["cost"]["network_evaluations"]


class Together(Processes):
    """One of two processes that run one after the other; sums are left to the test."""

    def wait(self):
        pass

    def sum(self, tensor):
        return tensor


def test_shares_make_the_whole(tmp_path):
    alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    section = SimpleNamespace(name="ddpm", steps=4, eta=0.0, spacing="uniform", clip_sample=False)
    sampler, shape, kept = build_sampler(alphas, section), (7, 1, 2, 2), [7, 5, 7, 5, 7]

    def conditional(factor):
        return lambda condition: lambda x, t, i: factor * x

    both = [Together(rank, 2) for rank in range(2)]
    for folder, processes in (("whole", [ALONE]), ("shared", both)):
        (tmp_path / folder).mkdir()
        for one in processes:
            compute_walks(tmp_path / folder, conditional(0.1), sampler, {}, shape, 3, kept, batch_size=2, processes=one)
    files = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "shared").iterdir()) and len(files) == 9
    for name in files:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "shared" / name).read_bytes()

    assert ALONE.share(range(5)) == range(5) and list(both[1].share(range(5))) == [1, 3]
    assert torch.equal(ALONE.sum(seeded_normal((2,), 0)), seeded_normal((2,), 0)) and ALONE.of_first(lambda: 3) == 3


@pytest.mark.parametrize(
    ("batch_size", "at_hand", "said"),
    [
        (16, True, "got 16, allowed: multiples of the 3 processes; type method.batch_size=18"),
        (18, False, "not there; or run this command without torchrun"),
    ],
)
def test_what_several_processes_cannot_divide_is_refused(batch_size, at_hand, said):
    def provide():
        if not at_hand:
            raise RequestError("not there")

    context = SimpleNamespace(processes=Processes(0, 3), provide_full_precision=provide, feature_network=lambda: None)
    with pytest.raises(RequestError, match=said):
        DiffusionPTQ(SimpleNamespace(batch_size=batch_size), context)
