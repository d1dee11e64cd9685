"""The nearest valid spelling: names that begin with what was typed, contain it, or are spelled similarly."""

import pytest

from quantlab.errors import did_you_mean, listed, nearest

# Of timm's, those that lie near to the words below.
TIMM = [
    "alexa",
    "convit_tiny",
    "convnext_tiny",
    "davit_tiny",
    "deit_tiny_distilled_patch16_224",
    "deit_tiny_patch16_224",
    "efficientnet_b0",
    "gcvit_tiny",
    "gernet_s",
    "haloregnetz_b",
    "mobilenetv2_100",
    "mobilenetv2_140",
    "mobileone_s2",
    "rdnet_tiny",
    "resnet10t",
    "resnet18",
    "resnet18d",
    "resnet50",
    "resnetv2_50",
    "seresnet101",
    "seresnet18",
    "vgg16",
    "vgg16_bn",
    "vit_tiny_patch16_224",
    "vit_tiny_patch16_384",
    "vit_tiny_r_s16_p8_224",
]


@pytest.mark.parametrize(
    "typed, expected",
    [
        ("vit_tiny", "vit_tiny_patch16_224"),
        ("deit_tiny", "deit_tiny_patch16_224"),
        ("resnet", "resnet18"),
        ("ResNet18", "resnet18"),
        ("resnt18", "resnet18"),
        ("vgg16bn", "vgg16_bn"),
        ("mobilenet_v2", "mobilenetv2_100"),  # torchvision's spelling
        ("efficientnetb0", "efficientnet_b0"),
        ("squeezenet1_0", None),  # not in timm, and neither is anything like it
        ("googlenet", None),
        ("x", None),
        ("", None),
    ],
)
def test_the_nearest_architecture(typed, expected):
    assert did_you_mean(typed, TIMM) == (f"; did you mean '{expected}'?" if expected else "")


@pytest.mark.parametrize(
    "typed, allowed, expected",
    [
        ("sdg", ["adam", "adamw", "sgd"], "sgd"),
        ("adma", ["adam", "adamw", "sgd"], "adam"),
        ("--config", ["--cfg", "--config-dir", "--config-name"], "--config-dir"),
        ("rate", ["learning_rate", "ratio"], "learning_rate"),
        ("bit", ["bits", "orbit"], "bits"),
    ],
)
def test_the_nearest_of_a_short_list(typed, allowed, expected):
    assert nearest(typed, allowed, 1) == [expected]


def test_a_long_list_is_cut_to_the_nearest():
    assert listed("resnt18", ["a", "b"], "--help") == "a, b"
    shown = listed("resnt18", TIMM, "quantlab --help model")
    assert (
        shown.startswith("resnet18, ")
        and shown.endswith(f", ... (quantlab --help model lists all {len(TIMM)})")
        and len(shown) < 120
    )
