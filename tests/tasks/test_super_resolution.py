"""Super-resolution tasks: parts that share nothing, whole images measured right, folders that do not do, whole runs
with their picture.
"""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from quantlab.config.tasks.super_resolution import PhotoFolders as PhotoFoldersSection
from quantlab.config.tasks.super_resolution import SamplePhotos as SamplePhotosSection
from quantlab.errors import RequestError
from quantlab.tasks.image_pairs import Bicubic
from quantlab.tasks.super_resolution import PhotoFolders, SamplePhotos, most_detailed_square

COMMON = {
    "scale": 2,
    "patch_size": 16,
    "augmentation": {"flips": True, "rotations": True},
    "evaluation": {"batch_size": 2, "border": 2},
}
CPU = torch.device("cpu")


def photos(**values):
    return SamplePhotos(
        SamplePhotosSection.model_validate(
            COMMON | {"_target_": "quantlab.tasks.super_resolution.SamplePhotos", "name": "super_resolution"} | values
        )
    )


def folders(root, **values):
    return PhotoFolders(
        PhotoFoldersSection.model_validate(
            COMMON
            | {
                "_target_": "quantlab.tasks.super_resolution.PhotoFolders",
                "name": "div2k",
                "data_dir": str(root),
                "train_folder": "train",
                "test_folder": "val",
                "validation_images": 2,
                "split_seed": 0,
            }
            | values
        )
    )


def tree(root, sizes=((40, 36), (36, 44))):
    """train with five images and val with two, of random pixels, of `sizes` (width, height) in turn."""
    generator = np.random.default_rng(0)
    for folder, count in (("train", 5), ("val", 2)):
        (root / folder).mkdir(parents=True)
        for index in range(count):
            width, height = sizes[index % len(sizes)]
            Image.fromarray(generator.integers(0, 256, (height, width, 3)).astype(np.uint8)).save(
                root / folder / f"{index}.png"
            )
    return root


def test_parts_of_the_photos_share_no_pixel(monkeypatch):
    # The two photos become numbers that say where they are: every pixel is its own column, and 4 x the photo + its row
    # / 128
    from types import SimpleNamespace

    rows, columns = np.mgrid[:427, :640]
    places = [
        np.stack([columns % 256, columns // 256 + 4 * number, rows // 2], axis=2).astype(np.uint8) for number in (0, 1)
    ]
    monkeypatch.setattr(
        "sklearn.datasets.load_sample_images", lambda: SimpleNamespace(filenames=["a.jpg", "b.jpg"], images=places)
    )
    parts = photos().originals()
    seen = {
        name: {place for _, image in images for place in (image[0].int() + 256 * image[1].int()).unique().tolist()}
        for name, images in parts.items()
    }
    assert sum(map(len, seen.values())) == len(set.union(*seen.values())) == 2 * 640
    assert {name: len(images) for name, images in parts.items()} == {"train": 4, "validation": 2, "test": 6}
    assert sum(image[0].numel() for _, image in parts["test"]) == 2 * 96 * 426  # rows once, too


def test_a_network_that_gives_the_original_back_is_perfect_and_a_known_error_is_measured():
    task = photos()
    remembered = {bytes((low.float() / 255).numpy()): high.float() / 255 for low, high in task._parts["test"]}

    class Oracle(nn.Module):
        error = 0.0

        def forward(self, low):
            assert not self.training
            return torch.stack([remembered[bytes(one.contiguous().numpy())] for one in low]) + self.error

    oracle = Oracle().train()
    assert task.evaluate(oracle, "test", CPU) == pytest.approx({"psnr_y": 100.0, "ssim": 1.0, "loss": 0.0})
    oracle.error = 0.2 / 255  # lost in rounding, but not to the loss
    assert task.evaluate(oracle, "test", CPU) == pytest.approx(
        {"psnr_y": 100.0, "ssim": 1.0, "loss": 0.2 / 255}, rel=1e-3
    )
    assert oracle.training
    whole = task.evaluate(Bicubic(2), "test", CPU)
    assert task.baseline(CPU) == {"bicubic": whole} and 25 < whole["psnr_y"] < 30
    alone = photos(evaluation={"batch_size": 1, "border": 2}).evaluate(Bicubic(2), "test", CPU)
    assert alone == pytest.approx(whole, rel=1e-5)
    assert photos(evaluation={"batch_size": 2, "border": 6}).baseline(CPU)["bicubic"]["psnr_y"] != whole["psnr_y"]


def test_batches_are_floats_and_only_training_draws():
    task = photos()
    batch = task.collate(task.dataset().__getitems__([0, 5, 7]))
    first, again = (task.prepare(batch, train=False) for _ in range(2))
    assert (
        first["low"].shape == (3, 3, 16, 16)
        and first["high"].shape == (3, 3, 32, 32)
        and first["low"].dtype == torch.float32
    )
    assert torch.equal(first["high"], again["high"]) and 0.5 < first["high"].max() <= 1
    torch.manual_seed(0)
    assert not torch.equal(task.prepare(batch, train=True)["high"], task.prepare(batch, train=True)["high"])


def test_fingerprint_follows_what_shapes_the_weights(tmp_path):
    prints = {
        photos(**values).fingerprint()
        for values in ({}, {"scale": 3}, {"patch_size": 12}, {"augmentation": {"flips": False, "rotations": True}})
    }
    assert len(prints) == 4 and photos(evaluation={"batch_size": 1, "border": 0}).fingerprint() in prints
    tree(tmp_path)
    first = folders(tmp_path).fingerprint()
    assert folders(tmp_path).fingerprint() == first != folders(tmp_path, split_seed=1).fingerprint()


def test_folders_of_any_sizes(tmp_path):
    task = folders(tree(tmp_path), scale=3, patch_size=6)
    task.check()
    assert {name: task.protocol()[f"{name}_images"] for name in ("train", "validation", "test")} == {
        "train": 3,
        "validation": 2,
        "test": 2,
    }
    assert [tuple(high.shape) for _, high in task._parts["test"]] == [(3, 36, 39), (3, 42, 36)]
    names = [name for part in ("train", "validation") for name, _ in task.originals()[part]]
    assert sorted(names) == [f"{index}.png" for index in range(5)]
    assert task.dataset()[0]["low"].shape == (3, 12, 12)
    assert task.evaluate(Bicubic(3), "test", CPU)["psnr_y"] > 5


def test_folders_that_do_not_do(tmp_path):
    with pytest.raises(
        RequestError, match="there is no folder train, allowed: a folder that holds train and val; give it with"
    ):
        folders(tmp_path / "nowhere").check()
    tree(tmp_path / "small", sizes=((40, 36), (36, 20)))
    with pytest.raises(
        RequestError,
        match=r"images smaller than the patch of 32 \(task.patch_size 16 x task.scale 2\), the first is "
        r"\d.png with 36x20 pixels; type task.patch_size=10",
    ) as caught:
        folders(tmp_path / "small").check()
    assert "\n" not in str(caught.value)
    folders(tmp_path / "small", patch_size=10).check()
    with pytest.raises(
        RequestError,
        match=(
            "1 test images smaller than the 22 that SSIM's window and task.evaluation.border 5 need, the "
            "first is 1.png with 36x20 pixels; type task.evaluation.border=4, or remove them"
        ),
    ):
        folders(tmp_path / "small", patch_size=10, evaluation={"batch_size": 1, "border": 5}).check()
    with pytest.raises(RequestError, match="fewer than the 5 images in"):
        folders(tree(tmp_path / "few"), validation_images=5).check()
    with pytest.raises(RequestError, match="task.test_folder: got train/../train, the folder that is trained on"):
        folders(tmp_path / "few", test_folder="train/../train").check()
    (tmp_path / "few" / "val" / "0.png").unlink()
    with pytest.raises(RequestError, match="holds 1 image; at least 2 are needed"):
        folders(tmp_path / "few").check()
    damaged = tree(tmp_path / "damaged") / "train" / "3.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    with pytest.raises(RequestError, match=r"3.png cannot be read as an image"):
        folders(tmp_path / "damaged").check()


def test_the_square_with_the_most_detail():
    image = torch.full((3, 40, 60), 128, dtype=torch.uint8)
    image[:, 22:28, 41:49] = torch.randint(0, 256, (3, 6, 8), dtype=torch.uint8)
    assert most_detailed_square(image, 16) == (slice(None), slice(16, 32), slice(40, 56))
    assert most_detailed_square(image[:, :16, :16], 16) == (slice(None), slice(0, 16), slice(0, 16))


RUN = (
    "model=edsr_small",
    "model.blocks=1",
    "model.channels=4",
    "model.pretrain.steps=6",
    "model.pretrain.batch_size=4",
    "device=cpu",
    "trainer.log_every=1",
    "trainer.checkpoint_every=3",
)


def test_whole_runs_leave_numbers_beside_bicubic_and_a_picture(quantlab, tmp_path):
    code, out, err = quantlab("method=pretrain", "task=super_resolution", *RUN, f"output_dir={tmp_path / 'full'}")
    assert code == 0, err
    full = json.loads((tmp_path / "full" / "results.json").read_text())
    assert set(full["metrics"]) == {"psnr_y", "ssim", "loss"} == set(full["baseline"]["bicubic"]) and "bicubic" in out
    assert (
        full["protocol"]["scale"] == 2
        and full["protocol"]["border_pixels"] == 2
        and full["protocol"]["test_images"] == 6
    )

    words = (
        "method=qat",
        "task=super_resolution",
        *RUN,
        "quantizer.output_scale=true",
        "method.epochs=1",
        "method.batch_size=21",
    )
    code, _, err = quantlab(*words, f"output_dir={tmp_path / 'qat'}")
    assert code == 0 and "found in the cache" in err, err
    found = json.loads((tmp_path / "qat" / "results.json").read_text())
    assert (
        found["baseline"] == full["baseline"] | {"full_precision": full["metrics"]}
        and found["metrics"] != full["metrics"]
    )
    code, _, err = quantlab(
        "method=evaluate", f"method.run={tmp_path / 'qat'}", "device=cpu", f"output_dir={tmp_path / 'again'}"
    )
    again = json.loads((tmp_path / "again" / "results.json").read_text())
    assert code == 0 and again["metrics"] == found["metrics"] and again["baseline"] == full["baseline"], err
    rows = {"full": 3, "qat": 4, "again": 3}  # bicubic, full precision or W2A2 or both, original
    for name, count in rows.items():
        assert "samples/super_resolution.png" in (tmp_path / name / "report.md").read_text()
        picture = np.asarray(Image.open(tmp_path / name / "samples" / "super_resolution.png"))
        assert picture.shape[0] == count * 198 - 6
        tiles = [picture[198 * row : 198 * row + 192, -192:].astype(int) for row in range(count)]
        assert all(np.abs(one - other).mean() > 1 for index, one in enumerate(tiles) for other in tiles[:index])


def test_a_folder_is_trained_on_with_lsq(quantlab, tmp_path):
    tree(tmp_path / "data")
    words = (
        "method=qat",
        "quantizer=lsq",
        "task=div2k",
        "task.train_folder=train",
        "task.test_folder=val",
        "task.validation_images=1",
        *RUN,
        "task.patch_size=8",
        "model.pretrain.steps=2",
        "method.epochs=2",
        "method.batch_size=4",
        f"data_dir={tmp_path / 'data'}",
    )
    code, _, err = quantlab(*words, f"output_dir={tmp_path / 'run'}")
    assert code == 0, err
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert found["protocol"]["validation_images"] == 1 and found["protocol"]["border_pixels"] == 2
    assert "validation_psnr_y" in (tmp_path / "run" / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    "words, says",
    [
        (("task.scale=5",), "task.scale: got 5, allowed: 2, 3, 4"),
        (("task.patch_sise=8",), "did you mean 'task.patch_size'?"),
        (("task.patch_size=200",), "4 train images smaller than the patch of 400"),
        (("model.residual_scale=0",), "allowed: a number above 0, up to 1"),
        (("model=resnet20",), "but model=resnet20 is a classifier, allowed: cifar10"),
        (
            ("task=digits",),
            "but model=edsr_small is a super_resolver, allowed: div2k, super_resolution; type task=super_resolution",
        ),
        (
            ("method=qat",),
            (
                "follows the layers of model=edsr_small, allowed: true, or another quantizer; type"
                " quantizer.output_scale=true"
            ),
        ),
        (("task=div2k", "data_dir=nowhere"), "there is no folder DIV2K_train_HR"),
    ],
)
def test_requests_that_make_no_sense(words, says, quantlab, tmp_path):
    code, _, err = quantlab(
        "method=pretrain", "task=super_resolution", "model=edsr_small", *words, f"output_dir={tmp_path / 'run'}"
    )
    assert code == 2 and says in err and "Traceback" not in err, err
    assert not (tmp_path / "run" / "config.yaml").exists()
