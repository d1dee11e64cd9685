"""No accepted key is without effect: everything that a section may hold is read by some run."""

import ast
import sys
from pathlib import Path

import pytest
import torch
from composed import composed, composed_plain
from section_keys import SECTIONS, keys_of
from tiny import PLAIN, TINY_PTQ
from undrawn import undrawn

import quantlab
from quantlab.config import instantiate, validate, with_finished_run
from quantlab.config.catalog import options
from quantlab.config.fields import Strict
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
        *PLAIN,
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


def test_every_key_of_methods_quantizers_and_the_trainer_is_read(read, tmp_path, cache):
    from quantlab.runner import run

    for name, words in RUNS.items():
        words = [word.replace("{accuquant}", str(tmp_path / "accuquant")) for word in words]
        words = [*words, "device=cpu", f"output_dir={tmp_path / name}", f"cache_dir={cache}"]
        with undrawn():
            run(validate(with_finished_run(composed_plain(*words), words)), words)
    # Of quantizers the layers read them all; each interval of gradients reads its own keys of a section that all share.
    quantizers = sorted(set(options("quantizer")) - {"none", "uniform_affine"})
    intervals = ("large_gradient", "fixed", "dsgc", "piecewise", *["min_max"] * len(quantizers))
    for quantizer, interval in zip(quantizers, intervals):
        rule = (
            f"{{modules: layer1, weight_bits: 32, activation_bits: {1 if quantizer in ('binary', 'reactnet') else 4}}}"
        )
        config = composed(
            "method=qat",
            f"quantizer={quantizer}",
            "quantizer.gradient.bits=4",
            f"quantizer.gradient.interval={interval}",
            f"quantizer.policy=[{rule}]",
        )
        insert(CifarResNet(1, 10, depth=8, width=2, final_batch_norm=True), instantiate(config.quantizer))
    for method, kind in (("qat", QAT), ("low_bit", LowBit)):  # each optimizer reads its own rate
        for optimizer in type(composed(f"method={method}").method.learning_rate).model_fields:
            one = kind.__new__(kind)
            one.section, one.is_scheduled = composed(f"method={method}", f"method.optimizer={optimizer}").method, False
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
