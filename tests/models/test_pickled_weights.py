"""Pickled files to safetensors: where the state dict is found, what is kept, what is refused."""

import argparse
import runpy
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from quantlab.errors import RequestError
from quantlab.models.pickled_weights import convert

STATE = {"conv.weight": torch.randn(2, 3), "bn.num_batches_tracked": torch.tensor(4)}
SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_weights.py"


class Executed:
    def __reduce__(self):
        return (Path("executed").touch, ())


def saved(content, tmp_path, name="w.pth", **options):
    torch.save(content, tmp_path / name, **options)
    return tmp_path / name, tmp_path / "w.safetensors"


@pytest.mark.parametrize(
    "content, place",
    [
        (STATE, ""),
        ({"state_dict": STATE, "epoch": 3, "best": torch.tensor(0.5)}, "state_dict"),
        (
            {
                "model": STATE,
                "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2, 3)}}, "param_groups": [{"lr": 0.1}]},
            },
            "model",
        ),
        ({"args": argparse.Namespace(lr=0.1), "checkpoint": {"net": STATE}}, "checkpoint.net"),
        ({name: nn.Parameter(tensor) if tensor.is_floating_point() else tensor for name, tensor in STATE.items()}, ""),
    ],
    ids=["plain", "epoch", "optimizer", "arguments", "parameters"],
)
def test_the_state_dict_is_found(content, place, tmp_path):
    source, target = saved(content, tmp_path)
    (said,) = convert(source, target)
    assert said == f"2 tensors{f' of {place!r}' if place else ''}: {target}"
    for name, tensor in load_file(target).items():
        assert torch.equal(tensor, STATE[name]) and tensor.dtype == STATE[name].dtype


def test_old_files_shared_memory_half_precision_and_what_is_no_tensor(tmp_path):
    weight = torch.randn(4, 2, dtype=torch.bfloat16)
    state = {"a": weight, "tied": weight, "turned": weight.T, "version": 2}
    source, target = saved(state, tmp_path, "w.tar", _use_new_zipfile_serialization=False)
    assert convert(source, target)[1] == "left out, as no tensors: version"
    found = load_file(target)
    assert (
        torch.equal(found["a"], weight)
        and torch.equal(found["tied"], weight)
        and torch.equal(found["turned"], weight.T)
    )


def test_the_key_selects_one_of_several(tmp_path):
    other = {name: tensor + 1 for name, tensor in STATE.items()}
    source, target = saved({"model": STATE, "model_ema": other}, tmp_path)
    with pytest.raises(
        RequestError,
        match=r"holds several state dicts: 'model' \(2 tensors\), 'model_ema' \(2 tensors\), allowed: one; "
        "type --key model$",
    ):
        convert(source, target)
    with pytest.raises(RequestError, match="holds nothing under 'emma', but 'model'"):
        convert(source, target, "emma")
    assert not target.exists()
    convert(source, target, "model_ema")
    assert torch.equal(load_file(target)["conv.weight"], other["conv.weight"])


def test_the_key_may_be_a_prefix_and_the_file_safetensors(tmp_path):
    save_file(
        {f"{prefix}.{name}": tensor.clone() for prefix in ("student", "teacher") for name, tensor in STATE.items()},
        tmp_path / "two.safetensors",
    )
    convert(tmp_path / "two.safetensors", tmp_path / "w.safetensors", "teacher")
    assert set(load_file(tmp_path / "w.safetensors")) == set(STATE)


def test_nothing_is_executed_and_whole_modules_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source, target = saved({"state_dict": STATE, "more": Executed()}, tmp_path)
    with pytest.raises(RequestError, match="more than tensors and plain containers, and loading it could run code"):
        convert(source, target)
    assert not Path("executed").exists()
    source, target = saved(nn.Linear(2, 2), tmp_path, "module.pt")
    with pytest.raises(
        RequestError, match=r"holds torch.nn.modules.linear.Linear, .* save torch.save\(model.state_dict\(\), FILE\)"
    ):
        convert(source, target)


@pytest.mark.parametrize(
    "content, says",
    [
        (b"", "cannot be read|is no sound file"),
        (b"\x80\x02}q", "cannot be read|is no sound file"),
        (b"PK\3\4 and no archive", "cannot be read|is no sound file"),
        (None, "no such file"),
    ],
)
def test_damaged_and_missing_files_are_one_line(content, says, tmp_path):
    source = tmp_path / "w.pth"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(RequestError, match=says) as caught:
        convert(source, tmp_path / "w.safetensors")
    assert "\n" not in str(caught.value)


def test_files_without_tensors(tmp_path):
    with pytest.raises(RequestError, match=r"holds no tensors by name \(epoch\)"):
        convert(*saved({"epoch": 3}, tmp_path))
    with pytest.raises(RequestError, match=r"holds no tensors by name \(list\)"):
        convert(*saved([torch.ones(2)], tmp_path))
    with pytest.raises(RequestError, match="is sparse or quantized"):
        convert(*saved({"a": torch.ones(2).to_sparse()}, tmp_path))


def test_a_file_that_is_there_is_kept(tmp_path):
    source, target = saved(STATE, tmp_path)
    target.write_text("mine")
    with pytest.raises(RequestError, match="is already there"):
        convert(source, target)
    assert target.read_text() == "mine"
    with pytest.raises(RequestError, match="ends in .safetensors; type"):
        convert(source, tmp_path / "w.bin")
    with pytest.raises(RequestError, match="there is no folder"):
        convert(source, tmp_path / "none" / "w.safetensors")


def test_the_script(tmp_path, monkeypatch, capsys):
    source, target = saved(STATE, tmp_path)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(source), str(target)])
    for code in (0, 2):
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        assert ended.value.code == code
    said = capsys.readouterr()
    assert said.out == f"2 tensors: {target}\n"
    assert said.err.startswith("convert_weights: error: ") and len(said.err.splitlines()) == 1
