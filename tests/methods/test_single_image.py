"""A batch of one image under BatchNorm: refused before any work, with a remedy that helps; taken where the network can train on it."""

import numpy as np
import pytest
from PIL import Image

SMALL = ("task=digits", "model=resnet20", "model.depth=8", "model.width=4", "device=cpu", "trainer.max_steps=1")


@pytest.mark.parametrize("words, key", [
    (("method=qat", "method.batch_size=1"), "method.batch_size"),
    (("method=low_bit", "method.batch_size=1"), "method.batch_size"),
    (("method=pretrain", "model.pretrain.batch_size=1"), "model.pretrain.batch_size"),
    (("method=qat", "model.pretrain.batch_size=1"), "model.pretrain.batch_size"),       # its start is trained first
])
def test_a_step_of_one_image_is_refused_before_any_work(words, key, quantlab, tmp_path):
    code, _, err = quantlab(*words, *SMALL, f"output_dir={tmp_path / 'run'}")
    assert code == 2 and f"{key}: a step has 1 of the 1294 training images" in err and f"; type {key}=2" in err, err
    assert len(err.strip().splitlines()) == 1 and not (tmp_path / "run" / "config.yaml").exists()


def test_a_network_without_batch_normalization_may_see_one_image_at_a_time(quantlab, tmp_path):
    for name in ("cat", "dog"):
        for number in range(2):
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8), 100, np.uint8)).save(tmp_path / "data" / name / f"{number}.png")
    words = ("task=image_folder_generation", f"data_dir={tmp_path / 'data'}", "task.image_size=8", "task.channels=1", "model.pretrain.steps=1")
    code, _, err = quantlab("method=pretrain", "model=ddim", "model.unet.block_out_channels=[8,16]", "model.unet.norm_num_groups=4", *words,
                            "model.pretrain.batch_size=1", "device=cpu", f"output_dir={tmp_path / 'run'}")
    assert code == 0, err
