"""Back from typed sections: to YAML, to a hash, to the object that a section describes."""

import hashlib
import math
import sys
import types

import pytest
import yaml
from composed import composed_plain

from quantlab.config import config_hash, instantiate, load_config, to_plain, validate
from quantlab.config.sections import by_target
from quantlab.errors import RequestError


@pytest.fixture
def mapping():
    return composed_plain()


def test_round_trip_through_yaml(mapping, tmp_path):
    mapping["model"]["noise_schedule"]["beta_start"] = 1e-7
    config = validate(mapping)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(to_plain(config)))
    assert load_config(tmp_path) == load_config(tmp_path / "config.yaml") == config
    assert to_plain(config)["method"]["_target_"] == "quantlab.methods.accuquant.AccuQuant"


def test_hash_ignores_order_and_sees_every_value(mapping):
    config = validate(mapping)
    assert config_hash({"b": 1, "a": [1.5]}) == config_hash({"a": [1.5], "b": 1})
    assert config_hash({"b": 1, "a": [1.5]}) == hashlib.sha256(b'{"a":[1.5],"b":1}').hexdigest()
    mapping["seed"] = 1
    assert config_hash(validate(mapping)) != config_hash(config)
    assert config_hash(validate(mapping), without=["seed"]) == config_hash(config, without=["seed"])
    assert config_hash(config.model) == config_hash(to_plain(config)["model"])
    with pytest.raises(ValueError):
        config_hash({"a": math.nan})


def test_instantiate_hands_over_the_section(mapping, monkeypatch):
    module = types.ModuleType("quantlab.tasks.generation")
    module.DigitsGeneration = lambda section, **runtime: (section, runtime)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    config = validate(mapping)
    assert instantiate(config.task, device="cpu") == (config.task, {"device": "cpu"})
    with pytest.raises(RequestError, match="may not be instantiated"):
        instantiate(config.task.model_copy(update={"target": "os.system"}))


def test_every_target_is_ours():
    assert all(target.startswith("quantlab.") for target in by_target())
