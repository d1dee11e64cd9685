"""The experiments of the supernet paper's rows against the released recipes."""

import functools

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from quantlab.config import validate
from quantlab.config.catalog import headline, options
from quantlab.methods.base import batches_per_epoch
from quantlab.methods.supernet.images import divided


def rows():
    """Of the table of NAS-Bench-201; those of the MobileNet space name it."""
    named = {
        name: headline(path)
        for name, path in options("experiment").items()
        if name.startswith("supernet/") and name.count("/") == 1
    }
    return [name for name, line in named.items() if "MobileNet space" not in line]


@functools.cache
def experiment(row):
    with initialize_config_module("quantlab.conf", version_base="1.3"):
        return validate(OmegaConf.to_container(compose("config", [f"experiment={row}", "data_dir=DIR"]), resolve=True))


@pytest.mark.parametrize("row", rows())
def test_the_paper_s_rows_are_the_released_recipe(row):
    config = experiment(row)
    method, ranking = config.method, config.method.ranking
    steps = batches_per_epoch(25_000, method.batch_size, config.trainer.drop_last)
    assert (steps, config.task.split_file, config.model.width, config.model.cells) == (
        391,
        "DIR/cifar-split.txt",
        16,
        5,
    )
    assert (method.learning_rate, method.momentum, method.weight_decay, method.gamma_max) == (0.025, 0.9, 5e-4, 4.0)
    assert (method.epochs, method.gradient_clip) == {"spos": (250, 5), "fairnas": (200, None), "fsnas": (300, 5)}[
        method.sampler
    ]
    assert (method.inactive_parameters, method.complexity, method.split, method.fsnas_split) == (
        "decayed",
        "parameters",
        None,
        0,
    )
    ranked = divided(np.arange(25_000), ranking.batch_size, ranking.batches, whole_part=False)
    assert sum(map(len, ranked)) == 25_000 and (len(ranked[0]), len(ranked[-1])) == (256, 168)
    assert (ranking.subset, ranking.batch_norm, method.search.strategy) == ("kendall_indices", "batch", "exhaustive")
    pixels = [125.3, 123.0, 113.9], [63.0, 62.1, 66.7]
    np.testing.assert_allclose(
        [config.task.normalization.mean, config.task.normalization.std], np.array(pixels) / 255, atol=6e-5
    )


def test_every_method_of_the_paper_has_both_parts_and_each_alone():
    methods = [experiment(row).method for row in rows()]
    parts = {(method.sampler, method.calr, method.momentum_separation) for method in methods}
    switches = (True, False)
    assert parts == {
        (sampler, calr, separated)
        for sampler in ("spos", "fairnas", "fsnas")
        for calr in switches
        for separated in switches
    }
