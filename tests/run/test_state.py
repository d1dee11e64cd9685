"""A state in its two files: every bit comes back, damage is found, nothing is unpickled."""

import os
import random
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from run_files import assert_same
from torch import nn

from quantlab.errors import CorruptFileError, RequestError
from quantlab.run.state import load_model, load_state, save_model, save_state, strict_load


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 10))


def train_step(model, optimizer, seed):
    generator = torch.Generator().manual_seed(seed)
    optimizer.zero_grad()
    model(torch.randn(8, 1, 8, 8, generator=generator)).square().mean().backward()
    optimizer.step()


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.view(torch.uint8), b.view(torch.uint8))


def test_training_continues_with_the_same_bits(tmp_path):
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95))
    for seed in range(3):
        train_step(model, optimizer, seed)
    save_state(tmp_path / "now", {"model": model.state_dict(), "optimizer": optimizer.state_dict()}, step=3)

    state, facts = load_state(tmp_path / "now")
    other = network(seed=1)
    other_optimizer = torch.optim.AdamW(other.parameters(), lr=7.0)
    strict_load(other, state["model"], "the checkpoint")
    other_optimizer.load_state_dict(state["optimizer"])
    assert facts == {"step": 3}
    assert_same(other_optimizer.state_dict(), optimizer.state_dict())

    train_step(model, optimizer, 3)
    train_step(other, other_optimizer, 3)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert same_bits(ours.detach(), theirs.detach())


def test_every_kind_of_leaf_comes_back(tmp_path):
    state = {
        "int keys": {0: "a", 10: {"b": (1, (2.5, [None, True]))}, -1: []},
        "numbers": [1e-300, -0.0, float("nan"), float("inf"), 2**127, 0.1, False],
        "text": 'é\n"quoted" \U0001f600',
        "empty": {"dict": {}, "tuple": (), "tensor": torch.empty(0, 3)},
        "dtypes": [torch.tensor(1.5, dtype=t) for t in (torch.bfloat16, torch.float16, torch.float64)],
        "whole": [torch.tensor([1, 2], dtype=torch.int64), torch.tensor(True), torch.tensor(7, dtype=torch.uint8)],
        "tensor": {"a tag": "that is also a key"},
        "a.b": torch.zeros(1),
        "a": {"b": torch.ones(1)},
        "array": np.random.RandomState(0).get_state()[1],
    }
    save_state(tmp_path / "state", state)
    assert_same(load_state(tmp_path / "state")[0], state)


def test_numpy_scalars_come_back_as_numbers(tmp_path):
    save_state(tmp_path / "state", [np.float32(0.1), np.int64(3), np.bool_(True), np.float64(0.1)])
    assert_same(load_state(tmp_path / "state")[0], [float(np.float32(0.1)), 3, True, 0.1])


def test_generators_go_on_with_the_same_draws(tmp_path):
    generators = random.Random(3), np.random.default_rng(3), torch.Generator().manual_seed(3)
    first, second, third = generators
    save_state(tmp_path / "rng", (first.getstate(), second.bit_generator.state, third.get_state()))
    expected = first.random(), second.random(), torch.rand(3, generator=third)

    states, _ = load_state(tmp_path / "rng")
    first.setstate(states[0])
    second.bit_generator.state = states[1]
    third.set_state(states[2])
    assert first.random() == expected[0] and second.random() == expected[1]
    assert torch.equal(torch.rand(3, generator=third), expected[2])


def test_shared_and_strided_tensors_come_back_separate(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    save_state(tmp_path / "state", {"base": base, "same": base, "row": base[1], "transposed": base.T})
    loaded, _ = load_state(tmp_path / "state")
    assert_same(loaded, {"base": base, "same": base, "row": base[1], "transposed": base.T})
    loaded["base"].zero_()
    assert torch.equal(loaded["same"], base) and torch.equal(loaded["row"], base[1])


def test_what_is_no_data_is_refused_by_its_place(tmp_path):
    with pytest.raises(TypeError, match="optimizer.hooks.0 is a function"):
        save_state(tmp_path / "state", {"optimizer": {"hooks": [print_nothing]}})
    with pytest.raises(TypeError, match="the state has the key"):
        save_state(tmp_path / "state", {(1, 2): 3})
    assert not list(tmp_path.iterdir())


def print_nothing():
    pass


@pytest.mark.parametrize("suffix", ["safetensors", "json"])
def test_every_flipped_byte_is_detected(tmp_path, suffix):
    save_state(tmp_path / "state", {"weight": torch.randn(5, 5), "rate": 0.5, "steps": (1, 2)}, name="x")
    file = tmp_path / f"state.{suffix}"
    sound = file.read_bytes()
    for position in range(0, len(sound), len(sound) // 20):
        for mask in (0x01, 0x20, 0xFF):
            damaged = bytearray(sound)
            damaged[position] ^= mask
            file.write_bytes(damaged)
            with pytest.raises(CorruptFileError, match=f"state.{suffix} is damaged"):
                load_state(tmp_path / "state")
    file.write_bytes(sound)
    load_state(tmp_path / "state")


@pytest.mark.parametrize("suffix", ["safetensors", "json"])
@pytest.mark.parametrize("kept", [0, 1, 0.5, -1])
def test_truncation_is_detected(tmp_path, suffix, kept):
    save_state(tmp_path / "state", {"weight": torch.randn(5, 5)})
    file = tmp_path / f"state.{suffix}"
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * kept) if isinstance(kept, float) else kept])
    with pytest.raises(CorruptFileError, match=f"state.{suffix}"):
        load_state(tmp_path / "state")


@pytest.mark.parametrize("suffix", ["safetensors", "json"])
def test_missing_half_is_named(tmp_path, suffix):
    save_state(tmp_path / "state", {"weight": torch.randn(5, 5)})
    (tmp_path / f"state.{suffix}").unlink()
    with pytest.raises(CorruptFileError, match=f"state.{suffix} is missing"):
        load_state(tmp_path / "state")


def test_nothing_saved_is_a_wrong_request(tmp_path):
    with pytest.raises(RequestError, match="nothing is saved at .*there is no state.json"):
        load_state(tmp_path / "state")


def test_nothing_is_unpickled(tmp_path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "state.safetensors")
    torch.save({}, tmp_path / "state.json")
    with pytest.raises(CorruptFileError):
        load_state(tmp_path / "state")


def test_a_state_of_another_version_is_not_called_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr("quantlab.run.state.FORMAT", "quantlab state 2")
    save_state(tmp_path / "state", {"weight": torch.zeros(1)})
    monkeypatch.undo()
    with pytest.raises(RequestError, match="'quantlab state 2', but this version reads 'quantlab state 1'"):
        load_state(tmp_path / "state")


def test_a_large_state_is_not_built_twice_in_memory(tmp_path):
    code = """
import resource, sys, torch
from quantlab.run.state import load_state, save_state
state = {"weight": torch.zeros(1), "large": torch.arange(50 * 2**18, dtype=torch.float32)}  # 50 MiB
save_state(sys.argv[1] + "small", {"weight": state["weight"]})  # what is loaded for it is there
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
save_state(sys.argv[1], state)
saved = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert torch.equal(load_state(sys.argv[1])[0]["large"][:9], torch.arange(9.0))
print((saved - before) // 1024)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "state")]
    assert int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) < 25  # MiB


def test_both_files_are_as_readable_as_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        save_state(tmp_path / "state", {"weight": torch.ones(2)})
    finally:
        os.umask(before)
    assert {path.suffix: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == dict.fromkeys(
        (".json", ".safetensors"), 0o640
    )


def test_model_file_is_readable_by_other_tools(tmp_path):
    model = network()
    save_model(tmp_path / "model", model.state_dict(), {"method": "pretrain"})
    assert set(safetensors.torch.load_file(tmp_path / "model.safetensors")) == set(model.state_dict())
    tensors, facts = load_model(tmp_path / "model")
    assert facts == {"method": "pretrain"}
    assert_same(tensors, dict(model.state_dict()))


def test_other_architecture_is_refused_in_one_line_and_changes_nothing():
    model, before = network(), {name: tensor.clone() for name, tensor in network().state_dict().items()}
    tensors = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    del tensors["1.weight"], tensors["1.bias"]
    tensors["head.bias"] = torch.zeros(3)
    tensors["3.weight"] = torch.zeros(10, 7)
    with pytest.raises(RequestError) as caught:
        strict_load(model, tensors, "model.safetensors")
    assert (
        str(caught.value)
        == "model.safetensors is a checkpoint of another architecture: of its tensors 2 missing (first: 1.weight),"
        " 1 unexpected (first: head.bias), 1 of another shape (first: 3.weight, [10, 7] instead of [10, 144]);"
        " give the model and the quantizer that it was made with"
    )
    assert_same(dict(model.state_dict()), before)
