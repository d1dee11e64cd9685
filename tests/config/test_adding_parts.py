"""What it takes to add a part: a quantizer, a model and a task of known kinds one file and a YAML each, a method its
file, its section and its YAML. Nothing else is touched: each is found by its place.
"""

import importlib
import json
import sys

import pytest
from composed import composed_plain

from quantlab.config import find_problems, sections
from quantlab.config.catalog import with_folders
from quantlab.run.directory import RunDirectory

METHOD = '''
"""Plain training, by as many steps as asked for."""
import torch
from quantlab.methods.base import Method, Outcome, shuffled_batch


class Plain(Method):
    needs_full_precision = False

    def __init__(self, section, context):
        super().__init__(section, context)
        self.dataset, self.steps = context.task.dataset(), section.steps
        self.collate = context.task.collate

    def batch_indices(self, step):
        return shuffled_batch(len(self.dataset), 32, self.context.config.seed, step, True)

    def build(self, total_steps):
        self.optimizer = torch.optim.SGD(self.context.model.train().parameters(), lr=0.1)

    def loss(self, batch):
        return self.context.model.training_loss(self.context.task.prepare(batch, train=True))

    def finish(self):
        return Outcome(self.context.task.evaluate(self.context.model, "test", self.context.device))
'''
SECTION = """
from quantlab.config.fields import Count
from quantlab.config.methods.base import Method


class Plain(Method, target="quantlab.methods.plain_training.Plain"):
    model_kinds = ("classifier",)
    task_kinds = ("classification",)
    trains_network = True
    captions = {"training": "The loss of a plain training."}
    main_metrics = ("top1",)
    variant_keys = ("steps",)
    steps: Count

    @classmethod
    def variant(cls, config):
        return f"{config['method']['steps']}_steps"

    def check(self, parts):
        yield from super().check(parts)
        if self.steps > 100:
            yield f"method.steps: got {self.steps}, allowed: up to 100; type method.steps=100"
"""
MODEL = """
from quantlab.models.resnet_cifar import CifarResNet


class Tiny(CifarResNet):
    kind = "classifier"


def build_tiny(section, task) -> Tiny:
    return Tiny(task.channels, task.classes, depth=8, width=2, final_batch_norm=True)
"""
QUANTIZER = """
from quantlab.quantizers.dsq import DSQPolicy


class OddPolicy(DSQPolicy):
    kind = "training"
"""
TASK = """
from quantlab.tasks.classification import Digits


class Numerals(Digits):
    kind = "classification"
"""
SOURCES = {
    "methods/plain_training.py": METHOD,
    "config/methods/plain_training.py": SECTION,
    "models/tiny_network.py": MODEL,
    "quantizers/odd_quantizer.py": QUANTIZER,
    "tasks/numerals.py": TASK,
}
OPTIONS = {
    "method/plain.yaml": """
# @package _global_
# Plain training
defaults:
  - override /task@_global_.task: numerals
  - override /model@_global_.model: tiny_network
  - override /quantizer@_global_.quantizer: none
method: {_target_: quantlab.methods.plain_training.Plain, name: plain, steps: 2}
""",
    "model/tiny_network.yaml": """
# A tiny network
defaults: [_of_digits, _self_]
_target_: quantlab.models.tiny_network.build_tiny
name: tiny_network
""",
    # what the shipped YAML holds beside its own keys
    "model/_of_digits.yaml": """
weights: null
pretrain: {seed: 0, steps: 1, batch_size: 64, optimizer: adamw, learning_rate: 1.0e-3, weight_decay: 0.05,
           warmup_steps: 0, gradient_clip: null, ema_decay: 0.9}
""",
    "quantizer/odd.yaml": """
# An odd quantizer
defaults: [dsq, _self_]
_target_: quantlab.quantizers.odd_quantizer.OddPolicy
name: odd
""",
    "task/numerals.yaml": """
# Numerals
defaults: [digits, _self_]
_target_: quantlab.tasks.numerals.Numerals
name: numerals
""",
}


WORDS = ("trainer.log_every=1", "device=cpu")


@pytest.fixture
def added(tmp_path, monkeypatch):
    """The folder of YAML, with the sources where quantlab finds its own."""
    for name, text in {**{f"quantlab/{key}": it for key, it in SOURCES.items()}, **OPTIONS}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    modules = {"quantlab." + name.removesuffix(".py").replace("/", ".") for name in SOURCES}
    for package in {module.rpartition(".")[0] for module in modules}:
        path = importlib.import_module(package).__path__
        place = str(tmp_path / package.replace(".", "/"))
        path.append(place)
        monkeypatch.callbacks = [*getattr(monkeypatch, "callbacks", []), (path, place)]
    known = dict(sections.by_target())
    sections._load.cache_clear()
    yield tmp_path
    for path, place in monkeypatch.callbacks:
        path.remove(place)
    for module in modules:
        sys.modules.pop(module, None)
    sections._BY_TARGET.clear()
    sections._BY_TARGET.update(known)
    sections._declared_kind.cache_clear()


def test_a_method_a_model_and_a_task_of_ones_own_run_and_are_reported(added, quantlab):
    run = added / "run"
    code, table, problems = quantlab("--config-dir", str(added), "method=plain", *WORDS, f"output_dir={run}")
    assert code == 0, problems
    results = json.loads((run / "results.json").read_text())
    assert (results["method"], results["model"], results["task"]) == ("plain", "tiny_network", "numerals")
    page = (run / "report.md").read_text()
    assert (
        page.startswith("# plain/2_steps FP32: tiny_network on numerals\n") and "The loss of a plain training." in page
    )
    config = RunDirectory(run).read_config()
    assert find_problems(config) == []
    assert find_problems(config | {"method": config["method"] | {"steps": 101}}) == [
        "method.steps: got 101, allowed: up to 100; type method.steps=100"
    ]
    assert "plain                    Plain training\n" in quantlab("--config-dir", str(added), "--help")[1]


def test_a_quantizer_of_ones_own_trains(added, quantlab):
    words = ("method=qat", "quantizer=odd", "task=numerals", "model=tiny_network", "trainer.max_steps=1", "device=cpu")
    code, _, problems = quantlab("--config-dir", str(added), *words, f"output_dir={added / 'run'}")
    assert code == 0, problems
    assert json.loads((added / "run" / "results.json").read_text())["bits"]["weight"] == 2


def test_the_lists_of_what_is_allowed_know_them(added):
    with with_folders([added]):
        config = composed_plain("method=qat", "quantizer=none")
        (problem,) = find_problems(config)
    assert "one of: binary, dsq, ewgs, fixed_point, learned_clipping, lsq, odd, reactnet; type" in problem


@pytest.mark.parametrize(
    "target",
    [
        "quantlab.quantizers.dsq.DSQWeight",  # says no kind
        "quantlab.quantizers.no_such_file.Policy",
        "quantlab.quantizers.dsq",
        "quantlab.config.sections.Section",
        "os.system",
        "quantlab.quantizers.dsq.DSQPolicy.weight",
    ],
)
def test_what_says_no_kind_may_not_be_instantiated(target):
    assert sections.section_of(target) is None
