"""A batch of one image under BatchNorm: refused before any work, with a working remedy; accepted if the network can
train on it.
"""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from quantlab.errors import RequestError
from quantlab.methods import single_image

SMALL = ("task=digits", "model=resnet20", "model.depth=8", "model.width=4", "device=cpu", "trainer.max_steps=1")


@pytest.mark.parametrize(
    "words, key",
    [
        (("method=qat", "method.batch_size=1"), "method.batch_size"),
        (("method=low_bit", "method.batch_size=1"), "method.batch_size"),
        (("method=pretrain", "model.pretrain.batch_size=1"), "model.pretrain.batch_size"),
        (("method=qat", "model.pretrain.batch_size=1"), "model.pretrain.batch_size"),  # its start is trained first
    ],
)
def test_a_step_of_one_image_is_refused_before_any_work(words, key, quantlab, tmp_path):
    code, _, err = quantlab(*words, *SMALL, f"output_dir={tmp_path / 'run'}")
    assert code == 2 and f"{key}: a step has 1 of the 1294 training images" in err and f"; type {key}=2" in err, err
    assert len(err.strip().splitlines()) == 1 and not (tmp_path / "run" / "config.yaml").exists()


def test_a_last_step_of_one_image_is_refused_where_it_would_be_reached(quantlab, tmp_path):
    # 1,294 images: three batches and one image
    words = ("method=qat", *SMALL[:-1], "method.batch_size=431", "trainer.drop_last=false")
    code, _, err = quantlab(*words, f"output_dir={tmp_path / 'run'}")
    assert (
        code == 2
        and "method.batch_size: the last step of an epoch has 1 of the 1294" in err
        and err.endswith("type trainer.drop_last=true\n")
    )
    assert len(err.strip().splitlines()) == 1 and not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize(
    "last, normalizes, said",
    [
        (
            3,
            True,
            (
                "has 3 of the 100 training images, but model=net normalizes over the batch (torch: more), allowed: at"
                " least 2 images in each of 2"
            ),
        ),
        (
            1,
            False,
            (
                "has 1 of the 100 training images, allowed: at least 1 image in each of 2 processes; type"
                " trainer.drop_last=true"
            ),
        ),
        (3, False, None),
        (4, True, None),
    ],
)
def test_every_process_has_its_images_of_the_last_step(last, normalizes, said, monkeypatch):
    monkeypatch.setattr(single_image, "_refusal_of_one", lambda *_: "more" if normalizes else None)
    training = SimpleNamespace(
        needs_full_precision=False,
        steps=20,
        steps_per_epoch=10,
        dataset=range(100),
        batch_indices=lambda step: list(range(last if step == 9 else 11)),
    )

    def check(**cap):
        trainer = SimpleNamespace(**{"max_steps": None, "epochs": None} | cap)
        config = SimpleNamespace(
            method=SimpleNamespace(trains_network=True), model=SimpleNamespace(name="net"), trainer=trainer
        )
        single_image.refuse_single_images(
            SimpleNamespace(config=config, model=None, accelerator=SimpleNamespace(num_processes=2)), training
        )

    check(max_steps=9)  # the last step of an epoch is never reached
    if said is None:
        check()
        return
    with pytest.raises(RequestError) as caught:
        check()
    assert said in str(caught.value)


def test_a_network_without_batch_normalization_may_see_one_image_at_a_time(quantlab, tmp_path):
    for name in ("cat", "dog"):
        for number in range(2):
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8), 100, np.uint8)).save(tmp_path / "data" / name / f"{number}.png")
    words = (
        "task=image_folder_generation",
        f"data_dir={tmp_path / 'data'}",
        "task.image_size=8",
        "task.channels=1",
        "model.pretrain.steps=1",
    )
    code, _, err = quantlab(
        "method=pretrain",
        "model=ddim",
        "model.unet.block_out_channels=[8,16]",
        "model.unet.norm_num_groups=4",
        *words,
        "model.pretrain.batch_size=1",
        "device=cpu",
        f"output_dir={tmp_path / 'run'}",
    )
    assert code == 0, err
