"""Classification tasks: parts that share nothing, augmentation that moves whole images, accuracy counted right."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from quantlab.config.tasks.classification import Digits as DigitsSection
from quantlab.config.tasks.classification import TorchvisionClassification as TorchvisionSection
from quantlab.errors import RequestError, RunError
from quantlab.tasks.classification import Digits, OfficialTest, random_crop_and_flip


def section(**values):
    return DigitsSection.model_validate(
        {
            "_target_": "quantlab.tasks.classification.Digits",
            "name": "digits",
            "image_size": 8,
            "validation_fraction": 0.1,
            "split_seed": 0,
            "label_smoothing": 0.0,
            "evaluation": {"batch_size": 100},
            "augmentation": {"crop_padding": 1, "horizontal_flip": False},
            "normalization": {"mean": [0.305], "std": [0.376]},
        }
        | values
    )


def test_parts_share_no_image_and_the_split_follows_its_seed():
    task, same, other = Digits(section()), Digits(section()), Digits(section(split_seed=1))
    assert task.protocol() == {"train_images": 1294, "validation_images": 144, "test_images": 359, "split_seed": 0}
    parts = [set(map(bytes, images.flatten(1).numpy())) for images, _ in task._parts.values()]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 1797
    assert torch.equal(task.dataset().images, same.dataset().images)
    assert not torch.equal(task.dataset().images, other.dataset().images)


def test_fingerprint_follows_what_shapes_the_weights():
    prints = {
        Digits(section(**values)).fingerprint()
        for values in (
            {},
            {"split_seed": 1},
            {"augmentation": {"crop_padding": 0, "horizontal_flip": False}},
            {"validation_fraction": 0.2},
            {"label_smoothing": 0.1},
        )
    }
    assert len(prints) == 5 and Digits(section(evaluation={"batch_size": 7})).fingerprint() in prints


def test_normalized_images_have_the_moments_that_the_config_claims():
    task = Digits(section())
    images = task.normalize(task.images())
    assert abs(images.mean()) < 0.01 and abs(images.std() - 1) < 0.01


def test_smoothed_labels_give_the_smoothed_cross_entropy_and_only_in_training():
    plain, task = Digits(section()), Digits(section(label_smoothing=0.1))
    batch, logits = plain.dataset().__getitems__([0, 1, 2, 3]), torch.randn(4, 10)
    assert torch.equal(plain.prepare(batch, train=True)["label"], batch["label"])
    assert torch.equal(task.prepare(batch, train=False)["label"], batch["label"])
    smoothed = task.prepare(batch, train=True)["label"]
    assert (
        smoothed[0].sort().values.tolist() == pytest.approx([0.01] * 9 + [0.91])
        and smoothed[0].argmax() == batch["label"][0]
    )
    expected = nn.functional.cross_entropy(logits, batch["label"], label_smoothing=0.1)
    assert torch.allclose(nn.functional.cross_entropy(logits, smoothed), expected)


@pytest.mark.parametrize(
    "words",
    [
        # qat shares its loss
        ("method=pretrain", "model=resnet20", "model.pretrain.steps=1"),
        ("method=low_bit", "method.batch_size=64"),
        (
            "method=supernet",
            "model.width=2",
            "method.ranking.stand_alone={subnets: 2, steps: 1}",
            "method.ranking.images=64",
            "method.search.population=2",
            "method.search.generations=1",
        ),
    ],
    ids=lambda words: words[0],
)
def test_every_method_that_trains_a_classifier_trains_on_smoothed_labels(words, quantlab, tmp_path, monkeypatch):
    plain = nn.functional.cross_entropy

    def recording(logits, target, **options):
        if torch.is_grad_enabled() and target.is_floating_point():
            raise RunError("trains on smoothed labels")  # what comes after is not asked about here
        return plain(logits, target, **options)

    monkeypatch.setattr(nn.functional, "cross_entropy", recording)
    tiny = () if "supernet" in words[0] else ("model.depth=8", "model.width=2", "model.pretrain.batch_size=64")
    code, _, err = quantlab(
        *words,
        *tiny,
        "task=digits",
        "task.label_smoothing=0.1",
        "trainer.max_steps=1",
        "device=cpu",
        f"output_dir={tmp_path / 'run'}",
    )
    assert code == 1 and "trains on smoothed labels" in err, err


def test_crops_are_shifts_and_flips_are_mirrors():
    torch.manual_seed(0)
    images = torch.arange(1, 1 + 2 * 3 * 4 * 5, dtype=torch.uint8).view(2, 3, 4, 5)
    shifted = random_crop_and_flip(images.repeat(50, 1, 1, 1), padding=1, flip=True)
    padded = nn.functional.pad(images, [1] * 4)
    allowed = {
        bytes((crop.flip(-1) if flip else crop).contiguous().numpy())
        for one in padded
        for i in range(3)
        for j in range(3)
        for flip in (0, 1)
        for crop in [one[:, i : i + 4, j : j + 5]]
    }
    seen = {bytes(image.contiguous().numpy()) for image in shifted}
    assert seen <= allowed and len(seen) > 25
    mirrored = random_crop_and_flip(images.repeat(10, 1, 1, 1), padding=0, flip=True)
    assert {bytes(one.contiguous().numpy()) for one in mirrored} == {
        bytes(one.contiguous().numpy()) for one in (*images, *images.flip(3))
    }
    assert torch.equal(random_crop_and_flip(images, 0, False), images)


def test_accuracy_is_counted_over_all_batches():
    task = Digits(section())

    class Constant(nn.Module):
        def forward(self, x):
            return torch.arange(10.0).expand(len(x), 10)  # always 9, then 8, 7, 6, 5

    labels = task._parts["test"][1]
    found = task.evaluate(Constant().train(), "test", torch.device("cpu"))
    assert found["top1"] == pytest.approx(100 * float((labels == 9).float().mean()), rel=1e-5)
    assert found["top5"] == pytest.approx(100 * float((labels >= 5).float().mean()), rel=1e-5)
    assert found["loss"] == pytest.approx(
        float(nn.functional.cross_entropy(torch.arange(10.0).expand(len(labels), 10), labels)), rel=1e-5
    )


def test_a_fraction_that_leaves_nothing_is_refused():
    with pytest.raises(RequestError, match="validation_fraction"):
        Digits(section(validation_fraction=1e-5)).check()


def test_labels_outside_the_classes_are_refused():
    task = Digits(section())
    task.classes = 9
    with pytest.raises(RequestError, match="label 9, allowed: 0 to 8"):
        task.check()


class Sixty(OfficialTest):
    """Sixty images whose first pixel is their place."""

    channels, classes = 1, 3

    def _load(self):
        return np.arange(60, dtype=np.uint8)[:, None, None, None].repeat(8, 2).repeat(8, 3), np.arange(60) % 3

    _load_test = _load


def sixty(split_file):
    shared = section().model_dump(by_alias=True) | {
        "_target_": "quantlab.tasks.classification.Mnist",
        "data_dir": "nowhere",
        "download": False,
    }
    return Sixty(TorchvisionSection.model_validate(shared | {"split_file": split_file and str(split_file)}))


def write_split(path, train, valid):
    path.write_text(
        json.dumps(
            {"train": ["int", [str(number) for number in train]], "valid": ["int", [str(number) for number in valid]]}
        )
    )
    return path


def test_a_split_file_says_which_image_is_whose(tmp_path):
    file = write_split(tmp_path / "cifar-split.txt", range(1, 60, 2), range(0, 60, 2))  # as NAS-Bench-201 writes it
    task, random = sixty(file), sixty(None)
    places = {name: [int(image[0, 0, 0]) for image in task.part(name).images] for name in ("train", "validation")}
    assert (
        places == {"train": list(range(1, 60, 2)), "validation": list(range(0, 60, 2))} and len(task.part("test")) == 60
    )
    assert (
        task.protocol()["split_file"] == "cifar-split.txt"
        and "split_seed" not in task.protocol()
        and "split_file" not in random.protocol()
    )
    (tmp_path / "plain.json").write_text(json.dumps({"train": list(range(1, 60, 2)), "valid": list(range(0, 60, 2))}))
    other = sixty(write_split(tmp_path / "other.txt", range(0, 60, 2), range(1, 60, 2)))
    prints = [one.fingerprint() for one in (task, random, other, sixty(tmp_path / "plain.json"))]
    assert len(set(prints)) == 3 and prints[3] == prints[0]


@pytest.mark.parametrize(
    "content, said",
    [
        (None, "task.split_file: no such file: .*type task.split_file=null"),
        ("train: 0", "is not JSON"),
        ("[1, 2]", 'holds no list of numbers "train"'),
        ('{"train": [0, 1], "valid": []}', 'holds no list of numbers "valid"'),
        ('{"train": [0, "a"], "valid": [1]}', 'holds no list of numbers "train"'),
        ('{"train": [0, 1], "valid": [1]}', "names an image twice"),
        ('{"train": [0, -1], "valid": [1]}', "names image -1"),
        ('{"train": [0, 60], "valid": [1]}', "names image 60, allowed: up to 59"),
    ],
)
def test_a_file_that_is_no_split_is_refused_in_one_line(content, said, tmp_path):
    file = tmp_path / "split.txt"
    if content is not None:
        file.write_text(content)
    with pytest.raises(RequestError, match=said) as caught:
        sixty(file).check()
    assert "\n" not in str(caught.value)
