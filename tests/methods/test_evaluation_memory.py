"""Images are never all in memory: eight times as many take as much."""

import json
import subprocess
import sys

import pytest

DRAWN = """
import json, resource, tempfile
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace as Space
import torch
from quantlab.diffusion.samplers import build_sampler
from quantlab.methods.sample_measures import draw_samples
from quantlab.run.processes import ALONE

alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
section = Space(name="ddpm", steps=3, eta=1.0, spacing="uniform", clip_sample=False)
model = Space(sampler=build_sampler(alphas, section), shape=(3, 64, 64), prepare=lambda *_: None,
              images=lambda x, *_: x, condition=lambda count, seed: {}, decoding=nullcontext)
evaluation = Space(seed=0, batch_size=50)
measures = Space(facts={}, batch_size=50, of_images=lambda images, texts: {"features": images.mean((2, 3))})

def peak(count):
    with tempfile.TemporaryDirectory() as folder:
        context = Space(model=model, cache=None, device=torch.device("cpu"), task=Space(evaluation=evaluation),
                        processes=ALONE, progress=lambda items, what: items, directory=Space(evaluation=Path(folder)))
        files = draw_samples(context, measures, lambda given: lambda x, t, i: 0.1 * x, {}, count, keeps_pixels=True)
        assert files.whole("features").shape == (count, 3)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

print(json.dumps([peak(count) for count in (250, 2000)]))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images():
    done = subprocess.run([sys.executable, "-c", DRAWN], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    few, many = json.loads(done.stdout)
    # 1750 more images are 86 MB, their noise of three steps and start 344 MB more
    assert many - few < 20, (few, many)
