"""Networks as people have them, from the command line: layers in odd places are quantized, or named before anything
is trained.
"""

import re
import shlex

import pytest
import timm
from run_files import results, rows, trained_state
from torch import nn
from torch.nn import functional as F

WORDS = (
    "task=digits",
    "model=timm",
    "method.batch_size=16",
    "trainer.max_steps=2",
    "trainer.log_every=1",
    "device=cpu",
)


class Odd(nn.Module):
    """A standardized convolution in a named Sequential, a weight that is taken past its layer, one that nothing
    uses, and `head`.
    """

    def __init__(self, num_classes=10, in_chans=3, middle=nn.Identity, **_):
        super().__init__()
        self.body = nn.Sequential()
        self.body.add_module("stem", nn.Conv2d(in_chans, 4, 3))
        self.body.add_module("conv", timm.layers.ScaledStdConv2dSame(4, 6, 3, stride=2))
        self.body.add_module("middle", middle())
        self.qkv, self.unused, self.head = nn.Linear(54, 12), nn.Linear(3, 3), nn.Linear(12, num_classes)

    def forward(self, x):
        x = F.relu(self.body(x)).flatten(1)
        return self.head(F.relu(F.linear(x, self.qkv.weight, self.qkv.bias)))


class Halved(nn.Conv2d):
    def __init__(self):
        super().__init__(6, 6, 1)

    def forward(self, x):
        return super().forward(x) / 2


@timm.models.register_model
def odd_network(pretrained=False, **options):
    return Odd(**options)


@timm.models.register_model
def odder_network(pretrained=False, **options):
    return Odd(middle=Halved, **options)


@pytest.fixture
def command(quantlab, tmp_path):
    def run(*words):
        code, _, err = quantlab(*words, *WORDS, f"output_dir={tmp_path / 'run'}")
        return code, err, tmp_path / "run"

    return run


def test_scheduled_transitions_of_every_layer_that_there_is(command):
    code, err, directory = command("method=qat", "model.architecture=odd_network", "model.pretrain.steps=3")
    assert code == 0, err
    log = (directory / "run.log").read_text()
    assert "1 of 3 layers are not quantized, the network never calls them: unused" in log
    logged = [row["layers/talr"] for row in rows(directory) if "layers/talr" in row]
    assert len(logged) == 2 and set(logged[-1]) == {"body.conv", "qkv"}


def test_the_integer_check_counts_what_it_checked(command):
    code, err, directory = command("method=low_bit", "model.architecture=odd_network", "method.integer_check=true")
    assert code == 0, err
    checked = results(directory)["diagnostics"]["integer_check"]
    assert checked["layers"] == 2 and checked["not_checked"] == {"unused": "never called"}
    assert "Not checked: unused (never called)." in (directory / "report.md").read_text()


def test_what_cannot_be_quantized_is_refused_before_any_work_and_the_line_helps(command):
    words = ("method=low_bit", "model.architecture=odder_network")
    code, err, directory = command(*words)
    assert code == 2 and not (directory / "config.yaml").exists()
    assert "1 of 4 layers cannot be quantized: body.middle (Halved computes more than a product)" in err
    (pasted,) = shlex.split(re.search(r"type (.*), or choose another model", err)[1])
    code, err, directory = command(*words, pasted)
    assert code == 0, err
    saved = trained_state(directory)
    assert (
        "body.conv.weight_quantizer.quantizer.clipping_value" in saved
        and "body.middle.weight_quantizer.clipping_value" not in saved
    )


def test_cures_of_oscillation_refuse_standardized_weights(command):
    code, err, directory = command(
        "method=qat", "model.architecture=odd_network", "method.schedule=learning_rate", "method.oscillation=freezing"
    )
    assert code == 2 and not (directory / "config.yaml").exists()
    assert "freezing" in err and "weights of body.conv do not have; type method.oscillation=none" in err


def test_a_policy_that_leaves_only_layers_nobody_calls_is_an_error(command):
    rule = "quantizer.policy=[{modules: '^(body|qkv|head)', weight_bits: 32, activation_bits: 32}]"
    code, err, _ = command("method=low_bit", "model.architecture=odd_network", rule)
    assert code == 1 and "calls none of the 1 layers that are to be quantized, unused among them" in err
