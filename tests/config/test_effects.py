"""Keys without effect beside other keys' values: told where they were typed, whichever section holds the rule."""

import pytest
from composed import composed
from section_keys import SECTIONS, dotted

from quantlab.config import to_plain
from quantlab.config.effects import without_effect


def test_the_table_of_effects_names_keys_that_exist():
    known = {key for section in SECTIONS for key in dotted(section, section.group)}
    assert {key for section in SECTIONS for rule in section.effects for key in (rule.key, rule.of)} <= known


@pytest.mark.parametrize(
    "words, said",
    [
        (
            ["method=qat", "method.milestones=[0.5]"],
            "method.milestones has no effect with method.decay=cosine; it acts with step",
        ),
        (
            ["method=qat", "method.dampening.weight=0.3"],
            "method.dampening.weight has no effect with method.oscillation=none; it acts with dampening",
        ),
        (
            ["method=qat", "quantizer.gradient.alpha=0.1"],
            "quantizer.gradient.alpha has no effect with quantizer.gradient.bits=32; it acts with 2 to 16",
        ),
        (
            ["method=qat", "method.optimizer=rmsprop", "method.momentum=0.5"],
            "method.momentum has no effect with method.optimizer=rmsprop; it acts with sgd",
        ),
        (
            ["method=qat", "method.schedule=learning_rate", "method.target_bits=section"],
            "method.target_bits has no effect with method.schedule=learning_rate; it acts with transition_rate",
        ),
        (
            ["method=qat", "method.learning_rate.adam=0.1"],
            "method.learning_rate.adam has no effect with method.optimizer=sgd; it acts with adam",
        ),
        (
            ["method=ptq", "method.step_loss=output"],
            "method.step_loss has no effect with method.reconstruction=block; it acts with step",
        ),
        (
            ["method=supernet", "method.decay=uniform"],
            "method.decay has no effect with method.calr=true; it acts with false",
        ),
        (
            ["method=supernet", "method.fsnas_split=1"],
            "method.fsnas_split has no effect with method.sampler=spos; it acts with fsnas",
        ),
        (
            ["method=supernet", "method.search.complexity=flops"],
            "method.search.complexity has no effect with method.search.complexity_limit=null; it acts with a value",
        ),
        (["method=supernet", "method.search.complexity=flops", "method.search.complexity_limit=5000"], None),
        (
            ["method=qat", "task=cifar10", "task.split_file=x", "task.split_seed=1"],
            "task.split_seed has no effect with task.split_file=x; it acts with null",
        ),
        (["quantizer.zeta=1.2"], None),
        (["method=qat", "method.decay=step", "method.milestones=[0.5]"], None),
        (["method=qat", "~logger"], None),
    ],
)
def test_what_was_typed_without_effect_is_told(words, said):
    config = composed(*(word for word in words if not word.startswith("~")))
    assert without_effect(config.effects, to_plain(config), words) == ([] if said is None else [said])
