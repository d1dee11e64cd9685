"""timm's classifiers: shapes, loss, names, quantized layers, names and images and weights that do not go, a whole
run.
"""

import json
from types import SimpleNamespace

import pytest
import timm
import torch
from policies import policy, quantize
from safetensors.torch import save_file

from quantlab.errors import RequestError
from quantlab.models.given import load_weights
from quantlab.models.timm_classifier import build_timm_classifier
from quantlab.quantizers.calibration import calibrate_activations
from quantlab.quantizers.fixed_point import FixedPointActivation
from quantlab.quantizers.insert import quantized_layers

SHIPPED = [
    "resnet18.tv_in1k",
    "resnet34.tv_in1k",
    "resnet50.tv_in1k",
    "mobilenetv2_100",
    "deit_tiny_patch16_224",
    "deit_small_patch16_224",
]


def task(image_size=32, channels=3, classes=7):
    return SimpleNamespace(channels=channels, classes=classes, image_size=image_size)


def build(architecture, pretrained=False, **facts):
    return build_timm_classifier(SimpleNamespace(architecture=architecture, pretrained=pretrained), task(**facts))


def batch(image_size=32, channels=3, classes=7):
    return {"image": torch.randn(4, channels, image_size, image_size), "label": torch.arange(4) % classes}


@pytest.mark.parametrize("architecture", SHIPPED)
def test_a_shipped_network_has_logits_a_loss_and_timms_names(architecture):
    torch.manual_seed(0)
    network = build(architecture, channels=1)
    assert network.training and network.kind == "classifier" and not network.has_weights
    assert network(batch(channels=1)["image"]).shape == (4, 7)
    loss = network.training_loss(batch(channels=1))
    loss.backward()
    assert loss > 0 and all(parameter.grad is not None for parameter in network.parameters())
    assert list(network.state_dict()) == list(timm.create_model(architecture, num_classes=7).state_dict())


@pytest.mark.parametrize("architecture", ["resnet18", "mobilenetv2_100", "deit_tiny_patch16_224"])
def test_its_layers_train_quantized(architecture):
    torch.manual_seed(0)
    network = build(architecture)
    layers = [
        name for name, module in network.named_modules() if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))
    ]
    quantize(network, policy("fixed_point", 2, first=(32, 32), last=(32, 32), output_scale=True))
    calibrate_activations(network, lambda: network(batch()["image"]))
    assert [name for name, _ in quantized_layers(network)] == layers[1:-1]
    assert all(isinstance(layer.activation_quantizer, FixedPointActivation) for _, layer in quantized_layers(network))
    network.training_loss(batch()).backward()
    assert all(layer.weight.grad is not None for _, layer in quantized_layers(network))


def test_a_copy_has_its_own_loss():
    import copy

    network = build("resnet18")
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.fc.weight.zero_(), other.fc.bias.zero_()
    assert other.training_loss(batch()).item() == pytest.approx(torch.tensor(7.0).log().item())
    assert network.training_loss(batch()).item() != other.training_loss(batch()).item()


def test_a_file_of_timms_loads(tmp_path):
    theirs = timm.create_model("mobilenetv2_100", num_classes=7)
    save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    network = build("mobilenetv2_100")
    load_weights(network, str(tmp_path / "theirs.safetensors"), "model.weights")
    images = batch()["image"]
    torch.testing.assert_close(network.eval()(images), theirs.eval()(images))
    assert network.has_weights


@pytest.mark.parametrize(
    "architecture, facts, says",
    [
        ("resnet81", {}, "has no 'resnet81'; did you mean 'resnet18'? Type model.architecture=resnet18"),
        ("resnet18.tv_in1", {}, "did you mean 'resnet18.tv_in1k'?"),
        ("hf-hub:someone/something", {}, "has no 'hf-hub:someone/something'"),
        (
            "deit_tiny_patch16_224",
            {"image_size": 40},
            "got 40, allowed for deit_tiny_patch16_224: multiples of its patches' 16; type task.image_size=32",
        ),
        ("deit_tiny_patch16_224", {"image_size": 8}, "type task.image_size=16"),
        ("inception_v3", {"image_size": 8}, "'inception_v3' does not take 3 x 8 x 8 images"),
    ],
)
def test_requests_that_make_no_sense(architecture, facts, says):
    with pytest.raises(RequestError) as caught:
        build(architecture, **facts)
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.fixture
def hub(monkeypatch):
    """hub(answer): what asking for a file gives, a path or an exception."""
    import huggingface_hub

    def answers(answer):
        def download(repository, file):
            assert (repository, file) == ("timm/resnet18.tv_in1k", "model.safetensors")
            if isinstance(answer, Exception):
                raise answer
            return str(answer)

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)

    return answers


def test_without_a_connection_a_file_is_asked_for(hub):
    hub(OSError("We cannot connect\nand more"))
    with pytest.raises(RequestError) as caught:
        build("resnet18.tv_in1k", pretrained=True)
    assert "timm/resnet18.tv_in1k/model.safetensors" in str(caught.value) and "(We cannot connect)" in str(caught.value)
    assert "model.weights=FILE" in str(caught.value) and "\n" not in str(caught.value)


def test_an_architecture_without_weights_says_so():
    with pytest.raises(RequestError, match="timm has no weights of 'cspresnet50d' on the hub"):
        build("cspresnet50d", pretrained=True)


def test_fetched_weights_are_the_networks_and_a_new_classifier_is_trained_first(hub, tmp_path):
    theirs = timm.create_model("resnet18")
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    hub(tmp_path / "model.safetensors")
    network = build("resnet18.tv_in1k", pretrained=True, classes=1000)
    assert network.has_weights
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, theirs.state_dict()[name])

    network = build("resnet18.tv_in1k", pretrained=True)
    assert not network.has_weights and network.fc.out_features == 7
    torch.testing.assert_close(network.layer4[1].conv2.weight, theirs.layer4[1].conv2.weight)


def test_two_sources_of_weights_are_refused(quantlab, tmp_path):
    code, _, err = quantlab(
        "method=pretrain",
        "task=digits",
        "model=resnet18",
        "model.pretrained=true",
        "model.weights=a.safetensors",
        f"output_dir={tmp_path / 'run'}",
    )
    assert code == 2 and "one source of weights" in err


def test_a_whole_run(quantlab, tmp_path):
    words = (
        "method=pretrain",
        "task=digits",
        "task.image_size=32",
        "model=mobilenetv2",
        "device=cpu",
        "model.pretrain.batch_size=16",
        "trainer.max_steps=2",
    )
    code, _, err = quantlab(*words, f"output_dir={tmp_path / 'run'}")
    assert code == 0, err
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert set(results["metrics"]) == {"top1", "top5", "loss"}
