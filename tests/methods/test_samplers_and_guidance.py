"""Whole runs through every sampler, prediction and guidance: networks quantized to 8 bits follow full precision."""

import pytest
from run_files import results
from tiny import PLAIN, TINY, TINY_ACCUQUANT, TINY_PTQ

EIGHT_BITS = (
    "quantizer.weight.bits=8",
    "quantizer.activation.bits=8",
    "method.initialization.iterations=2",
    "method.iterations=4",
)
CLIPPED = "model.sampler.clip_sample=true"  # walks of a network that has hardly been trained leave the data
GUIDED = ("model.class_conditional=true", "model.guidance.scale=2.0")


@pytest.mark.parametrize(
    "words",
    [
        ("model.sampler.name=ddpm", "model.sampler.spacing=trailing", CLIPPED),
        ("model.sampler.name=euler", "model.prediction=v"),
        ("model.sampler.name=dpm_solver", "model.prediction=sample", "method.gradient=exact"),
        ("model.sampler.name=dpm_solver", *GUIDED, CLIPPED),
        ("model.sampler.name=unipc", "model=flow_matching", "model.sampler.shift=2.0", "method.keep_graphs=auto"),
        ("model.sampler.name=pndm", "model.prediction=v", "method.gradient=exact", "method.keep_graphs=2"),
    ],
    ids=["ddpm", "euler-v", "dpm_solver-sample", "dpm_solver-guided", "unipc-flow-auto", "pndm-v-kept"],
)
def test_accuquant_runs_and_is_near_full_precision(words, quantlab, tmp_path):
    directory = tmp_path / "run"
    code, _, err = quantlab(*TINY_ACCUQUANT, *PLAIN, *EIGHT_BITS, *words, f"output_dir={directory}")
    assert code == 0, err
    found = results(directory)
    assert found["metrics"]["mse_to_fp32"] < 1e-2
    name = words[0].removeprefix("model.sampler.name=")
    assert found["protocol"]["sampler"] == name and "eta" not in found["protocol"]
    # M = 3: 4 M - 1 passes of a group, less those of kept graphs, 3 of a single step; twice that with guidance
    passes = 2 if "model.guidance.scale=2.0" in words else 1
    group = 9 if "method.keep_graphs=auto" in words else 10 if "method.keep_graphs=2" in words else 11
    groups = [group] * 4
    if name == "pndm":  # seven evaluations for six steps: the last group has one, and comes once of every three times
        groups = [group, group, 3, group]
    assert found["cost"]["network_evaluations"] == passes * (2 * 3 + sum(groups))
    assert found["protocol"].get("guidance_scale") == (2.0 if passes == 2 else None)


@pytest.mark.parametrize("reconstruction", ["step", "block"])
def test_the_baselines_take_classes_too(reconstruction, quantlab, tmp_path):
    code, _, err = quantlab(
        "method=ptq",
        *TINY_PTQ,
        *PLAIN,
        *GUIDED,
        f"method.reconstruction={reconstruction}",
        "method.network_evaluations=130",
        f"output_dir={tmp_path / 'run'}",
    )
    assert code == 0, err
    assert results(tmp_path / "run")["cost"]["network_evaluations"] <= 130
    code, _, err = quantlab(
        "method=sample", f"method.run={tmp_path / 'run'}", "method.samples=8", f"output_dir={tmp_path / 'samples'}"
    )
    assert code == 0, err


def test_two_passes_or_one_guide_alike(quantlab, tmp_path):
    found = []
    for batched in ("true", "false"):
        code, _, err = quantlab(
            "method=ptq",
            *TINY_PTQ,
            *PLAIN,
            *GUIDED,
            "method.reconstruction=none",
            f"model.guidance.batched={batched}",
            f"output_dir={tmp_path / batched}",
        )
        assert code == 0, err
        found.append(results(tmp_path / batched)["metrics"]["psnr"])
    assert found[0] == pytest.approx(found[1], rel=0.05)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("model.sampler.name=ddin",), "did you mean 'ddim'"),
        (("model.prediction=flow",), "type model.sampler.name=flow_euler model.sampler.spacing=trailing"),
        (("model.sampler.name=pndm", "model.sampler.clip_sample=true"), "type model.sampler.clip_sample=false"),
        (
            ("model.sampler.name=dpm_solver", "model.sampler.spacing=quadratic", "model.sampler.steps=50"),
            "type model.sampler.spacing=trailing",
        ),
    ],
    ids=["name", "flow", "clipped outputs", "repeated timesteps"],
)
def test_what_no_walk_can_be_is_refused_before_any_work(words, said, quantlab, tmp_path):
    code, _, err = quantlab(
        "method=pretrain", *[word for word in TINY if "sampler" not in word], *words, f"output_dir={tmp_path / 'run'}"
    )
    assert code == 2 and said in err and len(err.strip().splitlines()) == 1, err
    assert not (tmp_path / "run").exists()
