"""Detectors: torchvision's names, losses in evaluation mode, labels, ignored boxes, the pyramid's levels."""

import pytest
import timm
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from torch import nn
from torchvision.models import detection

from quantlab.config import validate
from quantlab.errors import RequestError
from quantlab.models.detectors import FasterRCNN, build_faster_rcnn, build_retinanet
from quantlab.models.pyramid import build_pyramid
from quantlab.models.weight_names import match


class Task:
    def __init__(self, channels=1, classes=10):
        self.channels, self.classes = channels, classes


def section(model, *words):
    with initialize_config_module("quantlab.conf", version_base="1.3"):
        composed = compose("config", ["method=pretrain", "task=detection", f"model={model}", *words])
    return validate(OmegaConf.to_container(composed, resolve=True)).model


@pytest.fixture(scope="module")
def sections():
    return {name: section(name) for name in ("faster_rcnn_small", "retinanet_small")}


def small(sections, name):
    torch.manual_seed(0)
    return {"faster_rcnn_small": build_faster_rcnn, "retinanet_small": build_retinanet}[name](sections[name], Task())


@pytest.fixture(params=["faster_rcnn_small", "retinanet_small"])
def detector(request, sections):
    return small(sections, request.param)


def batch():
    generator = torch.Generator().manual_seed(0)
    boxes = torch.tensor([[4.0, 4, 20, 24], [30, 30, 46, 54]])
    return {
        "image": [torch.randn(1, 64, 64, generator=generator) for _ in range(2)],
        "boxes": [boxes, boxes[:1]],
        "labels": [torch.tensor([3, 0]), torch.tensor([9])],
        "ignored": [torch.tensor([False, False]), torch.tensor([False])],
    }


@pytest.mark.parametrize(
    "name, build, theirs",
    [
        ("faster_rcnn", build_faster_rcnn, detection.fasterrcnn_resnet50_fpn),
        ("retinanet", build_retinanet, detection.retinanet_resnet50_fpn),
    ],
)
def test_torchvisions_weights_fit(name, build, theirs):
    with torch.device("meta"):
        ours = build(section(name, "model.backbone.norm=frozen_batch"), Task(3, 90)).state_dict()
        reference = theirs(weights=None, weights_backbone=None, num_classes=91).state_dict()
    # trained ones have FrozenBatchNorm2d, which does not count its batches
    assert {key: value.shape for key, value in ours.items()} == {
        key: value.shape for key, value in reference.items() if not key.endswith("num_batches_tracked")
    }


def test_the_loss_in_evaluation_mode_repeats_itself_and_moves_no_statistics(detector):
    detector.eval()
    before = {name: buffer.clone() for name, buffer in detector.named_buffers()}
    losses = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        with torch.no_grad():
            losses.append(detector.training_loss(batch()))
        assert torch.equal(torch.get_rng_state(), state)
    assert losses[0] == losses[1] > 0
    assert all(torch.equal(buffer, before[name]) for name, buffer in detector.named_buffers())
    assert not any(module.training for module in detector.modules())
    assert len(detector.detect(batch()["image"])) == 2  # detections again, not losses


def test_the_loss_in_training_mode_is_the_sum_and_reaches_every_parameter(detector):
    detector.train()
    torch.manual_seed(5)
    loss = detector.training_loss(batch())
    torch.manual_seed(5)
    targets = [{"boxes": boxes, "labels": labels + 1} for boxes, labels in zip(batch()["boxes"], batch()["labels"])]
    parts = detector(batch()["image"], targets)
    assert len(parts) == (4 if isinstance(detector, FasterRCNN) else 2)
    torch.testing.assert_close(loss, sum(parts.values()))
    loss.backward()
    assert all(parameter.grad is not None for parameter in detector.parameters())


def test_an_ignored_box_is_not_trained_on(detector):
    detector.eval()
    with_it, without = batch(), batch()
    with_it["ignored"][0][1] = True
    for key in ("boxes", "labels", "ignored"):
        without[key][0] = without[key][0][:1]
    with torch.no_grad():
        assert detector.training_loss(with_it) == detector.training_loss(without) != detector.training_loss(batch())


def test_labels_are_the_tasks(sections):
    network = small(sections, "retinanet_small").eval()
    head = network.head.classification_head.cls_logits
    with torch.no_grad():
        head.weight.zero_()
        head.bias.fill_(-10)
        head.bias.view(-1, 11)[:, 4] = 5  # torchvision's class 4 at every anchor: the task's label 3
        found = network.detect(batch()["image"])
    assert all(len(one["labels"]) and (one["labels"] == 3).all() for one in found)

    network = small(sections, "faster_rcnn_small").eval()
    with torch.no_grad():
        network.roi_heads.box_predictor.cls_score.weight.zero_()
        network.roi_heads.box_predictor.cls_score.bias.copy_(torch.eye(11)[1] * 20)
        found = network.detect(batch()["image"])
    assert all(len(one["labels"]) and (one["labels"] == 0).all() for one in found)


@pytest.mark.parametrize(
    "words, sizes",
    [
        (
            (
                "model.backbone.architecture=resnet18",
                "model.pyramid.levels=[2,4]",
                "model.pyramid.extra_levels=pool",
                "model.anchor_sizes=[[8],[16],[32]]",
            ),
            [16, 4, 2],
        ),
        (
            (
                "model.backbone.library=torchvision",
                "model.backbone.architecture=resnet18",
                "model.pyramid.levels=[3]",
                "model.pyramid.extra_levels=p6p7",
                "model.anchor_sizes=[[8],[16],[32]]",
            ),
            [8, 4, 2],
        ),
        (("model.backbone.norm=frozen_batch",), [16, 8]),
    ],
)
def test_a_level_has_a_pixel_for_its_power_of_two(words, sizes):
    one = section("retinanet_small", *words)
    pyramid = build_pyramid(one.backbone, one.pyramid, 1).eval()
    with torch.no_grad():
        maps = list(pyramid(torch.zeros(2, 1, 64, 64)).values())
    assert [tuple(each.shape) for each in maps] == [(2, 64, size, size) for size in sizes]
    frozen = not any(isinstance(module, nn.BatchNorm2d) for module in pyramid.body.modules())
    assert frozen == (one.backbone.norm == "frozen_batch")


@pytest.mark.parametrize(
    "backbone, levels, says",
    [
        (
            {"architecture": "resnet5", "library": "torchvision"},
            [2],
            "allowed with library=torchvision: resnet18, .*did you mean 'resnet50'",
        ),
        (
            {"library": "torchvision", "architecture": "resnet18"},
            [1],
            "level 1, allowed: some of 2, 3, 4, 5; type model.pyramid.levels=.4,5.",
        ),
        ({}, [2, 7], "resnet10t has no level 7, allowed: some of 1, 2, 3, 4, 5"),
        ({"architecture": "resnet10"}, [2], "model.backbone.architecture: timm .* has no 'resnet10'; did you mean"),
        ({"architecture": "vit_tiny_patch16_224"}, [4], "vit_tiny_patch16_224"),
    ],
)
def test_backbones_that_are_refused(backbone, levels, says, sections):
    one = sections["retinanet_small"]
    with pytest.raises(RequestError, match=says) as error:
        build_pyramid(one.backbone.model_copy(update=backbone), one.pyramid.model_copy(update={"levels": levels}), 1)
    assert "\n" not in str(error.value)


def test_retinanets_head_normalizes_groups_of_eight_channels(sections):
    norms = [module for module in small(sections, "retinanet_small").head.modules() if isinstance(module, nn.GroupNorm)]
    assert len(norms) == 8 and all(norm.num_channels // norm.num_groups == 8 for norm in norms)


def test_a_classifier_of_the_same_body_gives_the_body_alone(detector):
    theirs = timm.create_model("resnet10t", in_chans=1, num_classes=7).state_dict()
    found = match({f"module.{name}": tensor for name, tensor in theirs.items()}, detector, "model.weights: w")
    assert found.new == ["all but backbone.body"]
    for name, tensor in found.tensors.items():
        expected = (
            theirs[name.removeprefix("backbone.body.")]
            if name.startswith("backbone.body.")
            else detector.state_dict()[name]
        )
        assert torch.equal(tensor, expected)


def test_a_detectors_file_of_other_classes_leaves_its_last_layers_new(detector, sections):
    torch.manual_seed(1)
    build = build_faster_rcnn if isinstance(detector, FasterRCNN) else build_retinanet
    found = match(
        build(
            sections[{FasterRCNN: "faster_rcnn_small"}.get(type(detector), "retinanet_small")], Task(classes=4)
        ).state_dict(),
        detector,
        "w",
    )
    assert found.new == list(detector.class_layers)
