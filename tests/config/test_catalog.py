"""What there is to choose: every shipped option is valid and says what it is."""

import pytest
from composed import composed

from quantlab.config.catalog import groups, headline, options, target_of
from quantlab.config.sections import section_of


@pytest.mark.parametrize("group, option", [(group, option) for group in groups() for option in options(group)])
def test_every_option_is_valid_and_says_what_it_is(group, option):
    assert headline(options(group)[option])
    needs = {
        ("method", "sample"): ["method.run=somewhere"],
        ("experiment", "supernet/mobilenet_retrain"): ["model.subnet=" + "-".join("1" * 21)],
        ("quantizer", "none"): ["method=pretrain"],
        ("task", "pipeline_generation"): ["model=pipeline"],
    }
    single = {
        "nas_bench_201": "3-3-3-1-2-3",
        "nas_bench_201_small": "3-3-3-1-2-3",
        "mobilenet_supernet": "-".join("1" * 21),
        "mobilenet_supernet_small": "-".join("1" * 7),
    }
    needs |= {
        ("model", name): ["method=pretrain", "task=digits", f"model.subnet={subnet}"] for name, subnet in single.items()
    }
    kind = getattr(section_of(target_of(group, options(group)[option])), "kind", "")
    beside = {
        "detector": ["method=pretrain", "task=detection"],
        "detection": ["method=pretrain", "model=retinanet_small"],
        "super_resolver": ["method=pretrain", "task=super_resolution"],
        "super_resolution": ["method=pretrain", "model=edsr"],
    }
    beside |= dict.fromkeys(("classifier", "classification", "training"), ["method=qat"])
    composed(f"{group}={option}", *needs.get((group, option), beside.get(kind, [])))
