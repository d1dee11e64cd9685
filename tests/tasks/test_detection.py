"""Detection: scenes whose boxes are exact, parts that share no digit, mirroring, and precision worked out by hand."""

import copy
import functools

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from torch import nn

from quantlab.config import find_problems
from quantlab.config.tasks.detection import DigitScenes as Section
from quantlab.errors import RequestError
from quantlab.tasks.datasets import load_digits
from quantlab.tasks.detection import collate, flip
from quantlab.tasks.detection_scenes import DigitScenes, Scenes, compose_scene, ink

CPU = torch.device("cpu")


def digit_scenes(**values):
    return DigitScenes(
        Section.model_validate(
            {
                "_target_": "quantlab.tasks.detection_scenes.DigitScenes",
                "name": "detection",
                "image_size": 48,
                "digits_per_scene": [1, 4],
                "scenes": {"train": 12, "validation": 3, "test": 5},
                "scales": [1, 2],
                "background": 0.0,
                "noise": 0.0,
                "test_fraction": 0.2,
                "validation_fraction": 0.1,
                "split_seed": 0,
                "augmentation": {"horizontal_flip": False},
                "normalization": {"mean": [0.5], "std": [0.25]},
                "evaluation": {"batch_size": 2, "drawn_images": 2, "drawn_score": 0.5},
            }
            | values
        )
    )


def test_boxes_enclose_exactly_the_ink():
    part = digit_scenes(digits_per_scene=[3, 4]).dataset()
    for item in part.__getitems__(range(len(part))):
        covered = torch.zeros(48, 48, dtype=torch.int64)
        for x1, y1, x2, y2 in item["boxes"].int().tolist():
            inside = item["image"][0, y1:y2, x1:x2]
            assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
            covered[y1:y2, x1:x2] += 1
        assert covered.max() == 1  # no two overlap
        assert not item["image"][0][covered == 0].any()
        assert item["boxes"].min() >= 0 and item["boxes"].max() <= 48 and len(item["labels"]) == len(item["boxes"]) >= 1


def test_a_scene_of_one_digit_is_that_digit_enlarged():
    digits, labels = load_digits()
    image, boxes, drawn = compose_scene(
        np.random.default_rng(3), digits[40:41, 0], labels[40:41], 64, [1, 1], [3], 0.0, 0.0
    )
    x1, y1, x2, y2 = boxes[0].astype(int)
    shown = image[0, y1:y2, x1:x2]
    assert (shown[::3, ::3] == ink(digits[40, 0])).all() and (shown[2::3, 1::3] == ink(digits[40, 0])).all()
    assert drawn.tolist() == [labels[40]] and image.dtype == np.uint8 and boxes.dtype == np.float32
    # a digit's grey is its opacity: over a canvas of 100, level g shows as 100 + g / 255 * 155
    over, _, _ = compose_scene(np.random.default_rng(3), digits[40:41, 0], labels[40:41], 64, [1, 1], [3], 100.0, 0.0)
    assert (over == np.rint(100 + image / 255 * 155)).all()


def test_parts_share_no_digit_and_scenes_follow_the_seed():
    task = digit_scenes()
    task.check()
    chosen = {name: set(indices.tolist()) for name, indices in task._digits.items()}
    assert sum(map(len, chosen.values())) == len(set.union(*chosen.values())) == 1797
    assert (len(chosen["test"]), len(chosen["validation"])) == (359, 180)
    assert task.protocol() == {
        "train_images": 12,
        "validation_images": 3,
        "test_images": 5,
        "split_seed": 0,
        "test_boxes": sum(map(len, task.part("test").labels)),
    }
    again, other = digit_scenes(), digit_scenes(split_seed=1)
    for name in chosen:
        assert task.part(name).digest() == again.part(name).digest() != other.part(name).digest()
    assert (
        task.fingerprint()
        == again.fingerprint()
        != digit_scenes(normalization={"mean": [0.4], "std": [0.25]}).fingerprint()
    )


def test_mirroring_twice_changes_nothing_and_the_box_follows_its_pixels():
    image = torch.zeros(1, 5, 9, dtype=torch.uint8)
    image[0, 1:3, 2:6] = 7
    boxes = torch.tensor([[2.0, 1, 6, 3], [0, 0, 9, 5]])
    mirrored, moved = flip(image, boxes)
    assert (
        moved.tolist() == [[3, 1, 7, 3], [0, 0, 9, 5]]
        and (mirrored[0, 1:3, 3:7] == 7).all()
        and mirrored.sum() == image.sum()
    )
    twice, back = flip(mirrored, moved)
    assert torch.equal(twice, image) and torch.equal(back, boxes)
    assert flip(image, boxes[:0])[1].shape == (0, 4)


def test_prepared_batches_are_normalized_and_mirrored_by_the_seed():
    task = digit_scenes(augmentation={"horizontal_flip": True})
    batch = task.collate(task.dataset().__getitems__(range(12)))
    plain = task.prepare(batch, train=False)
    torch.testing.assert_close(plain["image"][4], (batch["image"][4] / 255 - 0.5) / 0.25)
    torch.manual_seed(1)
    drawn = task.prepare(batch, train=True)
    turned = [not torch.equal(one, other) for one, other in zip(drawn["boxes"], batch["boxes"])]
    assert 0 < sum(turned) < 12
    for index, was in enumerate(turned):
        image, boxes = (
            flip(plain["image"][index], plain["boxes"][index])
            if was
            else (plain["image"][index], plain["boxes"][index])
        )
        assert torch.equal(drawn["image"][index], image) and torch.equal(drawn["boxes"][index], boxes)
    torch.manual_seed(1)
    assert all(map(torch.equal, task.prepare(batch, train=True)["image"], drawn["image"]))


class Says(nn.Module):
    """A detector that finds, image after image, the boxes and labels it was given, with score 0.9."""

    def __init__(self, boxes, labels):
        super().__init__()
        self.found = [
            {"boxes": one, "labels": label, "scores": torch.full((len(one),), 0.9)} for one, label in zip(boxes, labels)
        ]
        self.losses = iter([1.0, 4.0, 7.0])

    def detect(self, images):
        now, self.found = self.found[: len(images)], self.found[len(images) :]
        return now

    def training_loss(self, batch):
        return torch.tensor(next(self.losses))


def with_boxes(boxes, labels):
    """A task whose parts are three images with these boxes."""
    task = digit_scenes()
    images = torch.zeros(3, 1, 48, 48, dtype=torch.uint8)
    part = Scenes(images, [torch.tensor(one).float() for one in boxes], [torch.tensor(one) for one in labels])
    task.__dict__["_parts"] = {"train": part, "validation": part, "test": part}
    return task, part


THREE = [[[0, 0, 10, 10], [20, 20, 30, 30]], [[5, 5, 15, 15]], [[30, 1, 40, 11]]]


@pytest.mark.parametrize(
    "shift, expected",
    [
        (0, {"map": 100, "map50": 100, "map75": 100}),
        # IoU 80 / 120 = 0.667: above 0.50, 0.55, 0.60 and 0.65 of ten thresholds
        (2, {"map": 40, "map50": 100, "map75": 0}),
        (4, {"map": 0, "map50": 0, "map75": 0}),  # 60 / 140 = 0.43
    ],
)
def test_precision_of_shifted_boxes(shift, expected):
    task, part = with_boxes(THREE, [[0, 0], [0], [0]])
    found = [boxes + torch.tensor([shift, 0, shift, 0]) for boxes in part.boxes]
    assert task.evaluate(Says(found, part.labels), "test", CPU) == pytest.approx(expected)


def test_precision_is_a_mean_over_classes_and_the_loss_one_over_images():
    task, part = with_boxes(THREE, [[0, 0], [1], [1]])
    # Of class 1 nothing is found, and one of the two of class 0: precision 1 up to recall 0.5, which are 51 of COCO's
    # 101 recalls
    found = [part.boxes[0][:1], part.boxes[1][:0], part.boxes[2][:0]]
    values = task.evaluate(Says(found, [part.labels[0][:1], part.labels[1][:0], part.labels[2][:0]]), "validation", CPU)
    assert values == pytest.approx(
        {"map": 50 * 51 / 101, "map50": 50 * 51 / 101, "map75": 50 * 51 / 101, "loss": (2 * 1 + 1 * 4) / 3}
    )


def test_an_ignored_box_counts_for_nothing():
    task, part = with_boxes(THREE, [[0, 0], [0], [0]])
    part.ignored[0][1] = True
    left_out = [part.boxes[0][:1], *part.boxes[1:]]
    labels = [part.labels[0][:1], *part.labels[1:]]
    for boxes, named in ((left_out, labels), (part.boxes, part.labels)):
        assert task.evaluate(Says(boxes, named), "test", CPU)["map"] == pytest.approx(100)


def test_a_part_without_boxes_is_refused():
    task, _ = with_boxes([np.zeros((0, 4))] * 3, [np.zeros(0, np.int64)] * 3)
    with pytest.raises(RequestError, match="the 3 images of the train part have no box at all"):
        task.check()


def test_a_batch_is_lists():
    items = [
        {"image": torch.zeros(1, 4, 6), "boxes": torch.zeros(2, 4)},
        {"image": torch.zeros(1, 5, 5), "boxes": torch.zeros(0, 4)},
    ]
    batch = collate(items)
    assert [tuple(image.shape) for image in batch["image"]] == [(1, 4, 6), (1, 5, 5)] and [
        len(one) for one in batch["boxes"]
    ] == [2, 0]


@pytest.fixture(scope="module")
def shipped():
    with initialize_config_module("quantlab.conf", version_base="1.3"):
        composed = compose("config", ["method=pretrain", "task=detection", "model=retinanet_small"])
    return OmegaConf.to_container(composed, resolve=True)


@pytest.mark.parametrize(
    "key, value, says",
    [
        ("task.scales", [2, 9], "task.scales: got 9, allowed: 1 to 8 (task.image_size / 8, a digit's pixels)"),
        ("task.digits_per_scene", [5, 2], "type task.digits_per_scene=[2,5]"),
        ("task.test_fraction", 0.85, "together up to 0.9 of the digits"),
        ("task.normalization.std", [0.2, 0.2], "allowed: one per channel"),
        ("task.scenes.trian", 5, "did you mean 'train'? Type task.scenes.train=VALUE"),
        (
            "model.anchor_sizes",
            [[16], [24], [32]],
            "got 3 lists, allowed: one per level of the pyramid, 2 of levels and 0 of extra",
        ),
        (
            "model.anchor_sizes",
            [[16], [24, 32]],
            "as many sizes at every level, whose head they share; type model.anchor_sizes=[[16],[24]]",
        ),
        ("model.pyramid.levels", [3, 2], "type model.pyramid.levels=[2,3]"),
        ("model.min_size", 128, "model.min_size: got 128, allowed: 1 to 64 (model.max_size)"),
        ("model.pyramid.channels", 60, "type model.pyramid.channels=64"),
        ("model.backbone.library", "tim", "did you mean 'timm'"),
    ],
)
def test_settings_that_make_no_sense(key, value, says, shipped):
    mapping = copy.deepcopy(shipped)
    *parents, last = key.split(".")
    functools.reduce(dict.__getitem__, parents, mapping)[last] = value
    (problem,) = find_problems(mapping)
    assert says in problem


@pytest.mark.parametrize(
    "words, says",
    [
        (("model=resnet20",), "but model=resnet20 is a classifier"),
        (("model=faster_rcnn_small", "model.backbone.architecture=resnet10"), "model.backbone.architecture: timm"),
    ],
)
def test_requests_that_make_no_sense(words, says, quantlab, tmp_path):
    code, _, err = quantlab("method=pretrain", "task=detection", *words, f"output_dir={tmp_path / 'run'}")
    assert code == 2 and says in err and "Traceback" not in err, err
    assert not (tmp_path / "run" / "config.yaml").exists()
