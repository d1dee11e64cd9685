"""The papers' recipes and rows: experiments train as the released code does, and the help lists every row."""

import shlex
from collections import Counter

import pytest
from composed import composed

from quantlab.cli.help import help_page
from quantlab.config.catalog import headline, options, table_rows
from quantlab.errors import RunError
from quantlab.methods.base import batches_per_epoch
from quantlab.tasks.base import validation_count

CIFAR10 = {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.2010]}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
WITH_A_WORD = [one for rows in table_rows()["with_a_word"].values() for one in rows]
NOT_YET = [one for rows in table_rows()["not_yet"].values() for one in rows]


@pytest.mark.parametrize(
    "experiment, normalization, epochs, steps, milestones",
    [
        ("qat/resnet20_cifar10_w2a2_sgdt", CIFAR10, 400, 196, None),
        ("qat/resnet20_cifar100_w1a1_adam", CIFAR10, 400, 196, None),
        ("qat/reactnet18_cifar100_w1a1_sgd", CIFAR10, 400, 196, None),
        ("low_bit/resnet20_cifar100", IMAGENET, 160, 391, [80, 120]),
    ],
)
def test_cifar_is_trained_on_as_the_released_code_does(experiment, normalization, epochs, steps, milestones):
    """Facts of cvlab-yonsei's TRS and LBT: 50,000 images in batches of 256 and 128 with the last, smaller one."""
    config = composed(f"experiment={experiment}")
    method, images = config.method, 50_000 - validation_count(50_000, config.task.validation_fraction)
    assert config.task.normalization.model_dump() == normalization
    assert (method.epochs, batches_per_epoch(images, method.batch_size, config.trainer.drop_last)) == (epochs, steps)
    assert (config.model.name != "resnet20" or config.model.final_batch_norm) and config.task.label_smoothing == 0
    if milestones is None:
        recipe = config.model.pretrain
        assert (recipe.steps, recipe.batch_size) == (epochs * steps, method.batch_size) and method.decay == "cosine"
    else:
        assert method.decay == "step" and [fraction * epochs for fraction in method.milestones] == milestones


def groups_of_a_run(words, quantlab, tmp_path, monkeypatch):
    """By name of parameter: the optimizer's class and learning rate, momentum, weight decay, of a network of one
    block a stage.
    """
    from quantlab.methods.low_bit import LowBit
    from quantlab.methods.qat import QAT

    found = {}
    for method in (QAT, LowBit):

        def making(self, groups, make=method.make_optimizers):
            optimizers = make(self, groups)
            names = {id(parameter): name for name, parameter in self.context.model.named_parameters()}
            found.update(
                {
                    names[id(parameter)]: (
                        type(one).__name__,
                        group["lr"],
                        group.get("momentum"),
                        group["weight_decay"],
                    )
                    for one in optimizers
                    for group in one.param_groups
                    for parameter in group["params"]
                }
            )
            raise RunError("seen")  # what comes after is not asked about here

        monkeypatch.setattr(method, "make_optimizers", making)
    quantlab(
        *words,
        "task=digits",
        "model.depth=8",
        "model.width=2",
        "model.pretrain.steps=1",
        "method.learning_rate.sgd=0.1",
        "device=cpu",
        f"output_dir={tmp_path / 'run'}",
    )
    return found


def test_groups_of_transition_rate_training_are_the_released_code_s(quantlab, tmp_path, monkeypatch):
    """Scales and normalization have neither momentum nor decay, scales a rate of their own; the first and the last
    layer, its bias too, both.
    """
    found = groups_of_a_run(("method=qat", "method.schedule=learning_rate"), quantlab, tmp_path, monkeypatch)
    both, neither = ("SGD", 0.1, 0.9, 1e-4), ("SGD", 0.1, 0.0, 0.0)
    assert all(
        found[name] == both
        for name in ("conv1.weight", "layer1.0.conv1.weight", "layer3.0.conv2.weight", "fc.weight", "fc.bias")
    )
    assert all(found[name] == neither for name in ("bn1.weight", "bn1.bias", "layer2.0.bn2.weight", "bn2.weight"))
    scales = {name: values for name, values in found.items() if "quantizer" in name}
    assert len(scales) == 2 * 6 and set(scales.values()) == {("SGD", 0.01, 0.0, 0.0)}


def test_groups_of_low_bit_training_are_the_released_code_s(quantlab, tmp_path, monkeypatch):
    """One SGD for all but the clipping values, normalization too; these have an Adam at 1e-5 without decay."""
    found = groups_of_a_run(("method=low_bit",), quantlab, tmp_path, monkeypatch)
    scales = {name for name in found if "quantizer" in name}
    assert len(scales) == 2 * 6 and {found[name] for name in scales} == {("Adam", 1e-5, None, 0)}
    assert {values for name, values in found.items() if name not in scales} == {("SGD", 0.1, 0.9, 1e-4)}


def test_every_row_of_the_transition_rate_tables_is_an_experiment():
    """Table 1: 8 columns of 4 optimizers; 2: 6 of 4; 3: 4 of 2; 4: 2 of 2."""
    named = Counter(headline(path).split(",")[0] for path in options("experiment").values())
    assert {table: named[table] for table in ("Table 1", "Table 2", "Table 3", "Table 4")} == {
        "Table 1": 32,
        "Table 2": 24,
        "Table 3": 8,
        "Table 4": 4,
    }


@pytest.mark.parametrize("words", [one["type"] for one in WITH_A_WORD])
def test_what_the_help_says_to_type_is_a_run(words):
    last = [f"{key}={values.split(',')[-1]}" for key, _, values in (word.partition("=") for word in shlex.split(words))]
    config = composed(*last)
    assert config.method.name in ("qat", "low_bit", "accuquant", "ptq")
    # one word sets all three, so that a column is one word
    if "quantizer.weight.bits" in words and "quantizer.activation.bits" not in words:
        assert (
            len({config.quantizer.weight.bits, config.quantizer.activation.bits, config.quantizer.gradient.bits}) == 1
        )


def test_the_help_of_experiments_lists_every_row():
    page = help_page(["experiment"])
    assert all(one["row"] in page and one["type"] in page for one in WITH_A_WORD)
    assert all(f"{one['row']}\n        {one['needs']}" in page for one in NOT_YET) and "lambda" not in help_page()
