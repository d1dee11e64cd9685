"""No accepted key is without effect: everything that a section may hold is read by some run."""

import ast
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from tiny import TINY_PTQ

import quantlab
from quantlab.config import RunConfig, instantiate, to_plain, validate, with_finished_run
from quantlab.config.catalog import options
from quantlab.config.effects import without_effect
from quantlab.config.fields import Strict
from quantlab.config.quantizers.training import TrainedQuantizer
from quantlab.config.sections import by_target, without_target
from quantlab.errors import RequestError
from quantlab.methods.low_bit import LowBit
from quantlab.methods.qat import QAT
from quantlab.models.resnet_cifar import CifarResNet
from quantlab.quantizers.insert import insert

# What no run shows, and why.
READ_ELSEWHERE = {
    "target": "names the class of the section; instantiate reads it",
    "name": "of sections that are not chosen here; in tables, and in what is checked",
    "subset": "needs the benchmark's table; test_truth",
    "validation": "of scenes; read by the name of the part",
    "compile": "the accelerator's; test_a_compiled_network_trains_as_the_plain_one (slow)",
}
SECTIONS = {*by_target().values(), *without_target().values(), TrainedQuantizer}


def keys_of(section: type[Strict]) -> set[tuple[type[Strict], str]]:
    """Class and name of every key of a section and of the mappings in it."""
    found = set()
    for name, field in section.model_fields.items():
        inner = [kind for kind in kinds_in(field.annotation) if issubclass(kind, Strict)]
        found |= {(section, name)} | {key for kind in inner for key in keys_of(kind)}
    return found


def kinds_in(annotation: Any) -> list[type]:
    return (
        [annotation]
        if isinstance(annotation, type) and not get_args(annotation)
        else [kind for argument in get_args(annotation) for kind in kinds_in(argument)]
    )


def resolved(*words: str) -> RunConfig:
    with initialize_config_module("quantlab.conf", version_base="1.3"):
        mapping = OmegaConf.to_container(compose("config", list(words)), resolve=True)
    if Path(mapping["method"].get("run") or "/nowhere").is_dir():
        mapping = with_finished_run(mapping, words)
    return validate({key: value for key, value in mapping.items() if key != "experiment"})


@pytest.fixture
def read(monkeypatch):
    """The keys that anything but the checks of the config asks a section for, from now on."""
    found: set[tuple[type, str]] = set()
    plain = Strict.__getattribute__

    def recording(section, name):
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if (
            name in type(section).__pydantic_fields__
            and caller.startswith("quantlab.")
            and not caller.startswith("quantlab.config")
        ):
            found.add((type(section), name))
        return plain(section, name)

    monkeypatch.setattr(Strict, "__getattribute__", recording)
    return found


TRAINING = (
    "model.depth=8",
    "model.width=2",
    "model.pretrain.steps=1",
    "method.batch_size=64",
    "trainer.max_steps=2",
    "trainer.epochs=1",
)
PTQ = (*TINY_PTQ, "model.pretrain.steps=1", "model.sampler.steps=3", "task.evaluation.samples=8", "trainer.max_steps=2")
RUNS = {
    "accuquant": (
        "method=accuquant",
        *PTQ,
        "quantizer.weight.rounding=adaround",
        "quantizer.policy=[{modules: time_embedding, weight_bits: 8, activation_bits: 8}]",
        "method.rounding_regularizer.warmup=0.0",
    ),
    "sample": ("method=sample", "method.run={accuquant}", "method.samples=8"),
    "evaluate": ("method=evaluate", "method.run={accuquant}"),
    "ptq": (
        "method=ptq",
        *PTQ,
        "quantizer.weight.rounding=adaround",
        "method.reconstruction=step",
        "trainer.num_workers=0",
    ),
    "dampening": (
        "method=qat",
        *TRAINING,
        "method.decay=step",
        "method.oscillation=dampening",
        "method.dampening.start=0.0",
    ),
    "freezing": (
        "method=qat",
        *TRAINING,
        "method.schedule=learning_rate",
        "method.optimizer=adam",
        "method.oscillation=freezing",
        "method.freezing.start=0.0",
    ),
    "adamw": ("method=qat", *TRAINING, "method.schedule=learning_rate", "method.optimizer=adamw"),
    "low_bit": (
        "method=low_bit",
        *TRAINING,
        "method.integer_check=true",
        "quantizer.gradient.interval=dsgc",
        "method.deviation_scaling=true",
    ),
    "supernet": (
        "method=supernet",
        "method.calr=false",
        "method.decay=uniform",
        "model.width=2",
        "trainer.max_steps=2",
        "method.ranking.stand_alone={subnets: 2, steps: 1}",
        "method.ranking.batch_norm=recalibrated",
        "method.ranking.batch_size=64",
        "method.ranking.calibration_images=64",
        "method.ranking.images=64",
        "method.search.population=2",
        "method.search.complexity_limit=20000",
        "method.search.generations=2",
    ),
}


def test_every_key_of_methods_quantizers_and_the_trainer_is_read(read, tmp_path, monkeypatch, cache):
    from quantlab.runner import run

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)
    for name, words in RUNS.items():
        words = [word.replace("{accuquant}", str(tmp_path / "accuquant")) for word in words]
        run(resolved(*words, "device=cpu", f"output_dir={tmp_path / name}", f"cache_dir={cache}"), words)
    # Of quantizers the layers read them all; each interval of gradients reads its own keys of a section that all share.
    quantizers = sorted(set(options("quantizer")) - {"none", "uniform_affine"})
    intervals = ("large_gradient", "fixed", "dsgc", "piecewise", *["min_max"] * len(quantizers))
    for quantizer, interval in zip(quantizers, intervals):
        rule = (
            f"{{modules: layer1, weight_bits: 32, activation_bits: {1 if quantizer in ('binary', 'reactnet') else 4}}}"
        )
        config = resolved(
            "method=qat",
            f"quantizer={quantizer}",
            "quantizer.gradient.bits=4",
            f"quantizer.gradient.interval={interval}",
            f"quantizer.policy=[{rule}]",
        )
        insert(CifarResNet(1, 10, depth=8, width=2, final_batch_norm=True), instantiate(config.quantizer))
    for method, kind in (("qat", QAT), ("low_bit", LowBit)):  # each optimizer reads its own rate
        for optimizer in type(resolved(f"method={method}").method.learning_rate).model_fields:
            one = kind.__new__(kind)
            one.section, one.is_scheduled = resolved(f"method={method}", f"method.optimizer={optimizer}").method, False
            one.make_optimizers(
                {"latent": [torch.nn.Parameter(torch.ones(1))], "weights": [], "scales": [], "normalization": []}
            )
    wanted = {
        key for section in SECTIONS if section.group in ("method", "quantizer", "trainer") for key in keys_of(section)
    }
    assert {f"{kind.__name__}.{name}" for kind, name in wanted - read if name not in READ_ELSEWHERE} == set()


def test_every_other_key_stands_in_the_code():
    """Of tasks, models and loggers, whose data and packages are not all here: the name is an attribute that
    something asks for.
    """
    root = Path(quantlab.__file__).parent
    asked = {
        node.attr
        for file in root.rglob("*.py")
        if "config" not in file.relative_to(root).parts[:1]
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute)
    }
    unknown = {
        f"{kind.__name__}.{name}"
        for section in SECTIONS
        if section.group in ("task", "model", "logger")
        for kind, name in keys_of(section)
        if name not in asked | READ_ELSEWHERE.keys()
    }
    assert unknown == set()


def dotted(section: type[Strict], prefix: str) -> set[str]:
    found = set()
    for name, field in section.model_fields.items():
        inner = [kind for kind in kinds_in(field.annotation) if issubclass(kind, Strict)]
        found |= {f"{prefix}.{name}"} | {key for kind in inner for key in dotted(kind, f"{prefix}.{name}")}
    return found


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
    config = resolved(*(word for word in words if not word.startswith("~")))
    assert without_effect(config.effects, to_plain(config), words) == ([] if said is None else [said])


@pytest.mark.parametrize(
    "words, key",
    [
        (["trainer.epochs=3"], "trainer.epochs"),
        (["method=ptq", "trainer.epochs=3"], "trainer.epochs"),
        (["trainer.mixed_precision=bf16"], "trainer.mixed_precision"),
        (["trainer.drop_last=false"], "trainer.drop_last"),
        (["trainer.compile=true"], "trainer.compile"),
        (["method=supernet", "trainer.compile=true"], "trainer.compile"),
        *(
            (["method=sample", "method.run=x", f"trainer.{word}"], f"trainer.{word.partition('=')[0]}")
            for word in ("epochs=1", "max_steps=1", "num_workers=2", "mixed_precision=fp16", "compile=true")
        ),
    ],
)
def test_a_trainers_key_that_does_nothing_is_refused(words, key):
    with pytest.raises(RequestError) as caught:
        resolved(*words)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{key}: got ") and f"type {key}=" in problem
