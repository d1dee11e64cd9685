"""The typed config: the shipped YAMLs are valid, every problem of a wrong one is said at once, and nothing is lost."""

import copy
import math

import pytest
from composed import composed_plain

from quantlab.config import find_problems, load_config, validate
from quantlab.errors import RequestError


@pytest.fixture(scope="module")
def shipped():
    return composed_plain()


@pytest.fixture
def mapping(shipped):
    return copy.deepcopy(shipped)


def put(mapping, key, value):
    *parents, last = key.split(".")
    for part in parents:
        mapping = mapping[part]
    mapping[last] = value


def only_problem(mapping):
    (problem,) = find_problems(mapping)
    return problem


def test_default_is_typed_and_user_expanded(mapping, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    config = validate(mapping | {"cache_dir": "~/cache"})
    assert config.cache_dir == "/home/someone/cache"
    assert config.method.calibration.trajectories == 256
    assert config.model.target == "quantlab.models.diffusers_denoiser.build_ddim"
    assert config.task.feature_network.kind == "classifier"
    with pytest.raises(Exception, match="frozen"):
        config.method.group_size = 7


@pytest.mark.parametrize(
    "key, value, said",
    [
        ("quantizer.weight.bits", 9, "quantizer.weight.bits=8"),
        ("quantizer.weight.bits", 4.0, "got 4.0, allowed: 2, 3, 4, 5, 6, 7, 8, or 32"),
        ("quantizer.activation.bits", 1, "or 32 (not quantized); type quantizer.activation.bits=2"),
        ("quantizer.gradient.bits", 8, "allowed: 32"),
        ("method.gradient", "exat", "allowed: copy, exact, bptt; did you mean 'exact'? Type method.gradient=exact"),
        ("method.iterations", 0, "got 0, allowed: an integer from 1 to 1000000000; type method.iterations=1"),
        ("method.iterations", 1.0, "allowed: an integer from 1 to 1000000000"),
        ("method.learning_rate.rounding", 0.0, "allowed: a number above 0"),
        ("method.learning_rate.rounding", math.inf, "allowed: a number above 0"),
        ("model.pretrain.ema_decay", 1.0, "allowed: a number from 0 to below 1"),
        ("model.sampler.clip_sample", 1, "allowed: true, false"),
        ("model.sampler.steps", None, "got null"),
        ("quantizer.policy.0.modules", "(", "allowed: a regular expression (missing )"),
        ("trainer.max_steps", 0, "allowed: an integer from 1 to 1000000000, or null; type trainer.max_steps=1"),
        ("trainer.max_steps", True, "got true"),
        ("task.evaluation", 3, "allowed: a mapping"),
        ("seed", -1, "allowed: an integer from 0"),
        ("device", "gpu", "allowed: auto, cpu, cuda, mps"),
        ("output_dir", "", "allowed: a path"),
        (
            "trainer.log_evry",
            1,
            "trainer.log_evry: no such key; did you mean 'log_every'? Type trainer.log_every=VALUE",
        ),
        ("sed", 1, "sed: no such key; did you mean 'seed'? Type seed=VALUE"),
        ("trainer", None, "trainer: got null, allowed: one of default; type trainer=default"),
    ],
)
def test_one_wrong_value_is_one_line(mapping, key, value, said):
    if ".policy." in key:
        mapping["quantizer"]["policy"] = [{"modules": value, "weight_bits": 8, "activation_bits": 8}]
    else:
        put(mapping, key, value)
    problem = only_problem(mapping)
    assert problem.startswith(f"{key}: ") and said in problem and "\n" not in problem


def test_a_misspelled_key_is_one_line_and_another_that_is_missing_too(mapping):
    mapping["model"]["pretrain"]["ema[decay"] = mapping["model"]["pretrain"].pop("ema_decay")
    assert only_problem(mapping).startswith("model.pretrain.ema[decay: no such key; did you mean 'ema_decay'?")
    del mapping["trainer"]["log_every"]
    assert [line.partition(":")[0] for line in find_problems(mapping)] == [
        "model.pretrain.ema[decay",
        "trainer.log_every",
    ]


@pytest.mark.parametrize(
    "key, value, said",
    [
        ("method.group_size", 21, "allowed: 1 to 20 (model.sampler.steps)"),
        ("method.calibration.range_samples", 257, "allowed: 1 to 256 (method.calibration.trajectories)"),
        ("method.batch_size", 257, "allowed: 1 to 256 (method.calibration.trajectories)"),
        ("task.evaluation.step_error_samples", 1025, "allowed: 1 to 1024 (task.evaluation.samples)"),
        ("model.sampler.steps", 1001, "allowed: 1 to 1000 (model.noise_schedule.train_timesteps)"),
        ("model.noise_schedule.beta_start", 0.5, "up to beta_end (0.02)"),
        ("model.unet.attention", [True], "one per entry of block_out_channels (2)"),
        ("model.unet.norm_num_groups", 64, "multiples of norm_num_groups (64)"),
        ("method.learn", {"rounding": False, "activation_scales": False}, "nothing to learn"),
        ("quantizer.weight.bits", 32, None),
        ("method.group_size", 7, None),
    ],
)
def test_keys_that_must_agree(mapping, key, value, said):
    put(mapping, key, value)
    problems = find_problems(mapping)
    assert (problems == []) if said is None else any(said in problem for problem in problems)


def test_all_problems_at_once(mapping):
    put(mapping, "quantizer.weight.bits", 1)
    put(mapping, "method.iterations", 0)
    put(mapping, "task.evaluation.samples", 1)
    put(mapping, "device", "gpu")
    del mapping["logger"]
    with pytest.raises(RequestError) as caught:
        validate(mapping)
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "device",
        "task.evaluation.samples",
        "quantizer.weight.bits",
        "method.iterations",
        "logger",
    ]


@pytest.mark.parametrize(
    "overrides, said",
    [
        (["model=task_classifier"], "needs a denoiser model, one of: ddim, ddim_cifar10, "),
        (
            ["quantizer=none"],
            (
                "(nothing to quantize), but method=accuquant needs a post-training quantizer, one of: uniform_affine;"
                " type quantizer=uniform_affine"
            ),
        ),
        (["quantizer.weight.bits=32", "quantizer.activation.bits=32"], "got 32 for both, nothing to quantize"),
        (["method=pretrain", "quantizer=uniform_affine"], "method=pretrain takes none; type quantizer=none"),
        (["method=pretrain", "quantizer.weight.bits=4"], "allowed: 32 (quantizer=none; the others take fewer)"),
        (["method=sample"], "type method.run=DIR"),
        (
            ["method=pretrain", "task=digits", "model=nas_bench_201"],
            (
                "model.subnet: got null, the supernet model=nas_bench_201, but method=pretrain takes a single network,"
                " allowed: the encoding of one; type model.subnet=2-2-2-2-2-2, or method=supernet"
            ),
        ),
        (["method=qat", "model=mobilenet_supernet_small"], "type model.subnet=3-3-3-3-3-3-3, or method=supernet"),
    ],
)
def test_combinations_that_make_no_sense(overrides, said):
    assert said in only_problem(composed_plain(*overrides))


@pytest.mark.parametrize(
    "key", ["model._target_", "model.unet._target_", "task.feature_network._target_", "quantizer.policy"]
)
def test_foreign_target_is_refused_wherever_it_stands(mapping, key):
    put(mapping, key, [{"_target_": "os.system"}] if key.endswith("policy") else "os.system")
    assert any("_target_: got 'os.system', which may not be instantiated" in line for line in find_problems(mapping))


def test_target_of_another_group_is_refused(mapping):
    mapping["model"]["_target_"] = "quantlab.methods.accuquant.AccuQuant"
    assert "model._target_: got a method" in only_problem(mapping)


@pytest.mark.parametrize(
    "text, said",
    [
        (None, "no such file"),
        ("a: [", "not readable"),
        ("- 1", "not readable"),
        ("seed: 0", "is cut short: it lacks task, model"),
    ],
)
def test_damaged_config_file_names_itself(tmp_path, text, said):
    if text is not None:
        (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(RequestError) as caught:
        load_config(tmp_path / "config.yaml")
    assert all(str(tmp_path) in problem for problem in caught.value.problems)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "key, value, said",
    [
        ("trainer.num_workers", 10**30, "an integer from 0 to 512, or null; type trainer.num_workers=512"),
        ("trainer.max_steps", 10**30, "an integer from 1 to 1000000000, or null; type trainer.max_steps=1000000000"),
        ("task.image_size", 10**6, "an integer from 1 to 16384; type task.image_size=16384"),
        ("task.evaluation.samples", 10**12, "an integer from 2 to 10000000"),
        ("method.learning_rate.rounding", 1e300, "a number above 0, up to 3e38"),
    ],
)
def test_what_no_user_means_is_refused(mapping, key, value, said):
    put(mapping, key, value)
    assert f"allowed: {said}" in only_problem(mapping)
