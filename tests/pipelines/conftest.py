"""Tiny pipelines, each saved once, and runs that quantized them."""

import pytest

QUANTIZED = (
    "method=ptq",
    "method.reconstruction=none",
    "model=pipeline",
    "model.sampler.steps=2",
    "model.guidance.scale=1",
    "task.evaluation.samples=2",
    "task.evaluation.step_error_samples=1",
    "method.calibration.trajectories=2",
    "method.calibration.range_samples=1",
    "method.batch_size=2",
    "method.group_size=1",
    "method.bias_correction=none",
    "quantizer.weight.scale_search=min_max",
    "quantizer.activation.scale_search=min_max",
)


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory):
    """pipelines(kind): the directory of that pipeline."""
    pytest.importorskip("transformers", reason="text encoders need transformers (pip install quantlab[pipelines])")
    import tiny_pipelines

    folder, made = tmp_path_factory.mktemp("pipelines"), {}

    def get(kind):
        if kind not in made:
            made[kind] = tiny_pipelines.save(kind, folder)
        return made[kind]

    return get


@pytest.fixture(scope="session")
def quantized(pipelines, cache, tmp_path_factory):
    """quantized(kind): the directory of a run that quantized that pipeline's denoiser to W4A8, in two denoising steps
    with scales of their own.
    """
    from quantlab.cli.main import main

    made = {}

    def get(kind):
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("run") / kind
            words = (*QUANTIZED, f"model.path={pipelines(kind)}", f"cache_dir={cache}", f"output_dir={made[kind]}")
            assert main([*words]) == 0
        return made[kind]

    return get
