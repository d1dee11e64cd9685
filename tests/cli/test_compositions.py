"""Jobs that share a composition have the configs that Hydra would have composed of each."""

import pytest
from hydra import compose
from hydra.errors import HydraException
from omegaconf import OmegaConf

from quantlab.cli.compositions import Compositions
from quantlab.cli.hydra_context import hydra_context
from quantlab.cli.job import job_directory_name
from quantlab.cli.overrides import parse

NAMING = ["hydra.job.config.override_dirname.exclude_keys=[method]"]


def plain(config):
    config.hydra.runtime.output_dir = "."
    named = [config.hydra.sweep.subdir, config.hydra.job.override_dirname, [*config.hydra.overrides.task]]
    return OmegaConf.to_container(config, resolve=False), named


@pytest.mark.parametrize(
    "jobs",
    [
        [["method=qat", "seed=0"], ["method=qat", "seed=1"], ["method=qat", "seed=0", "quantizer=lsq"]],
        [["method=qat", f"trainer.max_steps={steps}", "seed=3", f"data_dir={folder}"] for steps in ("null", "7")
         for folder in ("'a b'", "${cache_dir}", "a/b")],
        [["method=ptq", "model.channels=[8,8]"], ["model.channels=[16]", "method=ptq", "hydra.verbose=true"]],
        [["method=qat", "+trainer.x=1", "seed=1"], ["method=qat", "seed=2", "~trainer.max_steps"]],
        [["+experiment=qat/small", "seed=1"], ["+experiment=qat/small", "seed=2", "logger=none"]],
    ],
)  # fmt: skip
def test_as_hydra_composes_each(jobs):
    OmegaConf.register_new_resolver("quantlab_job_directory", job_directory_name, replace=True)
    with hydra_context(None):
        shared = Compositions("config", NAMING)
        for job in jobs:
            overrides, problems = parse(job, multirun=False)
            assert not problems
            try:
                expected = plain(compose("config", [*job, *NAMING], return_hydra_config=True))
            except HydraException as error:
                with pytest.raises(HydraException, match="Could not"):
                    shared.compose(overrides)
                assert "Could not" in str(error)
                continue
            assert plain(shared.compose(overrides)) == expected


def test_a_group_of_the_user_s_is_no_value(tmp_path):
    for name in ("wide", "narrow"):
        (tmp_path / "shape").mkdir(exist_ok=True)
        (tmp_path / "shape" / f"{name}.yaml").write_text(f"# @package _global_\nseed: {len(name)}\n")
    with hydra_context(str(tmp_path)):
        shared = Compositions("config", NAMING)
        seeds = [shared.compose(parse([f"+shape={name}"], multirun=False)[0]).seed for name in ("wide", "narrow")]
    assert seeds == [4, 6]
