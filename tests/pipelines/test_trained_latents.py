"""`scripts/train_latent_diffusion.py`: a pipeline of the task's images, which the command takes."""

import sys
from argparse import Namespace
from pathlib import Path

import pytest
from run_files import results
from tiny import PLAIN, TINY_PIPELINE

from quantlab.errors import RequestError

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import train_latent_diffusion as script  # noqa: E402

FEW = Namespace(task="digits_generation", image_size=8, data_dir=None, autoencoder_steps=2, steps=2)


def test_what_it_trains_is_quantized_as_latents_of_the_task_s_images(quantlab, tmp_path):
    script.make(tmp_path / "made", FEW)
    words = ("method=ptq", "method.reconstruction=none", *TINY_PIPELINE, *PLAIN, "method.group_size=2", "device=cpu")
    few = ("task=digits_generation", "task.feature_network.pretrain.steps=4", "task.feature_network.width=8")
    code, _, err = quantlab(*words, *few, f"model.path={tmp_path / 'made'}", f"output_dir={tmp_path / 'run'}")
    assert code == 0, err
    assert {"fid", "fid_to_fp32", "mse_to_fp32"} <= set(results(tmp_path / "run")["metrics"])
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("tmp")] == []
    with pytest.raises(RequestError, match="allowed: a new directory in one that is there"):
        script.make(tmp_path / "made", FEW)
