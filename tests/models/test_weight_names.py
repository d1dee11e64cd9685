"""Matching a file's tensors to a network by name, and what is refused in one line."""

from types import SimpleNamespace

import pytest
import timm
import torch
from torch import nn
from torchvision.models import get_model, resnet18
from weight_files import prefixed, randomized, refusal, resnet

from quantlab.models.edsr import EDSR
from quantlab.models.given import load_weights
from quantlab.models.task_classifier import TaskClassifier
from quantlab.models.timm_classifier import build_timm_classifier
from quantlab.models.torchvision_names import TORCHVISION, torchvision_names
from quantlab.models.weight_names import match


def without_counts(tensors):
    return {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}


@pytest.mark.parametrize(
    "rename",
    [
        lambda tensors: tensors,
        lambda tensors: prefixed(tensors, "module."),
        lambda tensors: prefixed(tensors, "_orig_mod.module."),
        lambda tensors: prefixed(tensors, "state_dict.model.backbone."),
        lambda tensors: {name.replace("layer1.", "layer1._orig_mod."): tensor for name, tensor in tensors.items()},
        lambda tensors: prefixed(tensors, "module.") | {"n_averaged": torch.tensor(7)},
        lambda tensors: prefixed(tensors, "model.") | {"criterion.weight": torch.ones(10), "epoch": torch.tensor(3)},
        lambda tensors: (
            prefixed(tensors, "ema_model.module.")
            | prefixed({name: tensor * 2 for name, tensor in tensors.items()}, "model.")
        ),
        lambda tensors: {name.replace("fc.", "linear."): tensor for name, tensor in tensors.items()},
        lambda tensors: prefixed(tensors, "module.") | {"module.layer1.0.total_ops": torch.tensor(1.0)},
        without_counts,
        lambda tensors: {
            name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()
        },
    ],
    ids=[
        "plain",
        "parallel",
        "compiled",
        "nested",
        "compiled inside",
        "averaged",
        "beside others",
        "average of two",
        "linear",
        "counted",
        "no batches tracked",
        "float64",
    ],
)
def test_the_same_network_under_other_names_is_accepted(rename, file):
    network, theirs = resnet(), randomized(resnet())
    load_weights(network, file(rename(theirs)), "model.weights")
    assert network.has_weights
    for name, tensor in without_counts(network.state_dict()).items():
        torch.testing.assert_close(tensor, theirs[name])


def test_two_copies_of_which_none_is_an_average_are_not_guessed():
    said = refusal(match, prefixed(randomized(resnet()), "student.", "teacher."), resnet(), "model.weights: w")
    assert "holds the network 2 times, under 'student.', 'teacher.'" in said and "--key teacher" in said


def test_other_classes_leave_the_last_layer_new_and_are_reported(file):
    network = resnet()
    before, theirs = (
        {name: tensor.clone() for name, tensor in network.state_dict().items()},
        randomized(resnet(classes=100)),
    )
    load_weights(network, file(theirs), "model.weights")
    assert (
        not network.has_weights
        and "model.weights: fc does not come from the file and is new" in network.said_of_weights[1]
    )
    torch.testing.assert_close(network.fc.weight, before["fc.weight"])
    torch.testing.assert_close(network.fc.bias, before["fc.bias"])
    torch.testing.assert_close(network.layer3[0].conv2.weight, theirs["layer3.0.conv2.weight"])


def test_a_network_without_its_last_layer_and_another_name_of_other_classes():
    theirs = randomized(resnet(classes=100))
    bare = {name: tensor for name, tensor in theirs.items() if not name.startswith("fc.")}
    assert match(bare, resnet(), "w").new == ["fc"]
    renamed = bare | {"head.weight": theirs["fc.weight"], "head.bias": theirs["fc.bias"]}
    assert match(renamed, resnet(), "w").new == ["fc"]


@pytest.mark.parametrize(
    "network, theirs, says",
    [
        (
            resnet(),
            resnet(final_batch_norm=False),
            "lacks 4 tensors (bn2.weight, bn2.bias, bn2.running_mean, ...); type model.final_batch_norm=false",
        ),
        (
            resnet(),
            resnet(14),
            (
                "also has 30 tensors (layer1.1.conv1.weight, layer1.1.bn1.weight, layer1.1.bn1.bias, ...); type"
                " model.depth=14"
            ),
        ),
        (resnet(), resnet(width=8, final_batch_norm=False), "type model.width=8 model.final_batch_norm=false"),
        (
            resnet(),
            resnet(channels=3),
            "it has conv1.weight [4, 3, 3, 3] instead of [4, 1, 3, 3]; its images have 3 channels and the task's 1",
        ),
        (TaskClassifier(1, 10, 8, 16), TaskClassifier(1, 10, 8, 32), "type model.features=32"),
        (EDSR(2, 2, 8, 1.0), EDSR(3, 2, 8, 1.0), "type task.scale=3"),
        (EDSR(2, 2, 8, 1.0), EDSR(2, 3, 16, 1.0), "type model.blocks=3 model.channels=16"),
        (TaskClassifier(1, 10, 8, 16), resnet(), "also has"),
        (resnet(), resnet18(num_classes=10), "choose the model and the options that it was made with"),
    ],
    ids=["batch norm", "depth", "two", "channels", "features", "scale", "blocks", "nothing in common", "another"],
)
def test_a_mismatch_names_few_keys_and_the_option(network, theirs, says):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    said = refusal(match, prefixed(theirs.state_dict(), "module."), network, "model.weights: w")
    assert says in said and "another architecture" in said
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_explained_differences_are_not_listed():
    akamasters = {
        name.replace("fc.", "linear."): tensor
        for name, tensor in randomized(resnet(classes=100, final_batch_norm=False)).items()
    }
    said = refusal(match, prefixed(akamasters, "module."), resnet(), "w")
    assert said.endswith(
        "it lacks 4 tensors (bn2.weight, bn2.bias, bn2.running_mean, ...); type model.final_batch_norm=false"
    )
    assert match(prefixed(akamasters, "module."), resnet(final_batch_norm=False), "w").new == ["fc"]


def test_an_inner_layer_of_another_width_is_not_taken_for_other_classes():
    theirs = randomized(TaskClassifier(1, 10, 8, 16))
    theirs["project.weight"], theirs["project.bias"] = torch.ones(20, 32), torch.ones(20)
    assert "project.weight" in refusal(match, theirs, TaskClassifier(1, 10, 8, 16), "w")
    only_the_bias = randomized(resnet()) | {"fc.bias": torch.ones(3)}
    del only_the_bias["fc.weight"]
    assert "lacks fc.weight" in refusal(match, only_the_bias, resnet(), "w")


def test_a_constant_that_is_not_stored_any_more_is_ignored():
    network = EDSR(2, 2, 8, 1.0)
    assert "mean" not in network.state_dict()
    found = match(randomized(network) | {"mean": torch.zeros(3, 1, 1)}, network, "w")
    assert set(found.tensors) == set(network.state_dict()) and not found.new


SMALL = [
    "mobilenetv2_100",
    "efficientnet_b0",
    "mnasnet_050",
    "vit_base_patch32_224",
    "convnext_tiny",
    "swin_tiny_patch4_window7_224",
]


@pytest.mark.parametrize(
    "architecture", [pytest.param(name, marks=() if name in SMALL[:1] else pytest.mark.slow) for name in TORCHVISION]
)
def test_torchvisions_network_gives_the_same_output_under_timms_names(architecture):
    torch.manual_seed(0)
    theirs = get_model(TORCHVISION[architecture], weights=None).eval()
    for tensor in theirs.state_dict().values():
        # vectors are initialized to zeros and ones, which would hide a swap
        if tensor.is_floating_point() and tensor.numel() == len(tensor):
            tensor.uniform_(0.4, 0.6)
    ours = timm.create_model(architecture).eval()
    ours.load_state_dict(match(theirs.state_dict(), ours, "w").tensors)
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-4)


def test_the_names_are_one_to_one():
    for architecture in ("mobilenetv2_100", "vit_base_patch32_224"):
        names = torchvision_names(architecture)
        with torch.device("meta"):
            assert set(names) == set(timm.create_model(architecture).state_dict())
        assert len(set(names.values())) == len(names)
    assert torchvision_names("resnet18") == {}


@pytest.mark.parametrize("theirs, architecture", [("mobilenet_v2", "mobilenetv2_100"), ("resnet18", "resnet18")])
def test_a_file_of_torchvisions_with_other_classes(theirs, architecture, file):
    section, task = (
        SimpleNamespace(architecture=architecture, pretrained=False),
        SimpleNamespace(channels=3, classes=7, image_size=32),
    )
    network, tensors = build_timm_classifier(section, task), randomized(get_model(theirs, weights=None))
    load_weights(network, file(prefixed(without_counts(tensors), "module.")), "model.weights")
    assert not network.has_weights
    first = next(name for name in tensors if tensors[name].ndim == 4)
    torch.testing.assert_close(next(network.parameters()), tensors[first])


def test_a_detector_takes_a_classifier_for_its_body():
    class Detector(nn.Module):
        body_name = "backbone.body"

        def __init__(self):
            super().__init__()
            self.backbone = nn.ModuleDict(
                {"body": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), "fpn": nn.Conv2d(4, 4, 1)}
            )

    detector = Detector()
    theirs = randomized(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 10)))
    found = match(theirs, detector, "w")
    assert found.new == ["all but backbone.body"]
    torch.testing.assert_close(found.tensors["backbone.body.0.weight"], theirs["0.weight"])
    torch.testing.assert_close(found.tensors["backbone.fpn.weight"], detector.backbone["fpn"].weight)
