"""Files of weights: what is read, and what is refused in one line."""

import json

import pytest
import torch
from safetensors.torch import save_file
from weight_files import randomized, refusal, resnet

from quantlab.models.given import load_weights
from quantlab.models.weight_names import match
from quantlab.models.weights import read, require_finite
from quantlab.run.state import save_model


def test_finite_is_required_of_every_floating_tensor():
    require_finite({"a": torch.ones(2), "count": torch.tensor(3)}, "x")
    bad = {"a": torch.ones(2), "b": torch.tensor([1.0, float("nan")]), "c": torch.tensor(float("-inf"))}
    assert refusal(require_finite, bad, "model.weights: w").startswith(
        "model.weights: w holds NaN or infinity in b and 1 other tensor"
    )


def test_other_precisions_become_float32_and_that_is_said(file):
    theirs = {
        name: tensor.half() if name.startswith("fc") else tensor.bfloat16() if tensor.is_floating_point() else tensor
        for name, tensor in randomized(resnet()).items()
    }
    network = resnet()
    load_weights(network, file(theirs), "model.weights")
    assert "bfloat16 becomes float32; float16 becomes float32" in network.said_of_weights[0]
    assert network.fc.weight.dtype == torch.float32
    torch.testing.assert_close(network.fc.weight, theirs["fc.weight"].float())
    assert "NaN or infinity in a" in refusal(read, file({"a": torch.tensor([1e300], dtype=torch.float64)}), "k")


def test_integer_codes_are_no_weights():
    theirs = randomized(resnet()) | {"conv1.weight": torch.ones(4, 1, 3, 3, dtype=torch.int8)}
    assert "holds torch.int8 in conv1.weight" in refusal(match, theirs, resnet(), "w")


@pytest.mark.parametrize(
    "name, content, says",
    [
        (
            "w.pth",
            b"PK\3\4 and more",
            (
                "is pickled, and loading a pickle can run code, allowed: .safetensors; type python"
                " scripts/convert_weights.py"
            ),
        ),
        ("w.safetensors", b"PK\3\4 and more", "is pickled"),
        ("w.ckpt", b"\x80\2}q\0.", "then k=w.safetensors"),
        ("w.tar", b"anything", "is pickled"),
        ("w.safetensors", b"", "is not a sound safetensors file"),
        ("w.safetensors", (64).to_bytes(8, "little") + b'{"a":', "copy or download it again"),
        ("w.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "type git lfs pull"),
        ("w.onnx", b"\x08\x07\x12", "is no safetensors file, allowed: .safetensors"),
    ],
)
def test_what_cannot_be_read_is_refused_by_kind(name, content, says, tmp_path):
    (tmp_path / name).write_bytes(content)
    said = refusal(read, tmp_path / name, "k")
    assert said.startswith(f"k: {tmp_path / name} ") and says in said


def test_no_file_no_tensors_and_a_lora(file, tmp_path):
    path = file({"a": torch.ones(1)}, "weights.safetensors")
    assert (
        "no such file" in (said := refusal(read, tmp_path / "weight.safetensors", "k"))
        and "did you mean 'weights.safetensors'?" in said
    )
    assert "holds no tensors" in refusal(read, file({}), "k")
    assert "is a LoRA" in refusal(read, file({"unet.conv.lora_A.weight": torch.ones(2, 2)}), "k")
    assert read(path, "k")[0]["a"] == 1


def test_a_json_of_another_tool_beside_it_is_no_checksum_and_ours_is(file, tmp_path):
    (tmp_path / "w.json").write_text(json.dumps({"architecture": "resnet18"}))
    assert read(file({"a": torch.ones(1)}), "k") == ({"a": torch.ones(1)}, {})
    save_model(tmp_path / "ours", {"a": torch.ones(4)}, {"bits": "W2A2"})
    assert read(tmp_path / "ours.safetensors", "k")[1] == {"bits": "W2A2"}
    data = bytearray((tmp_path / "ours.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "ours.safetensors").write_bytes(data)
    assert "is damaged" in refusal(read, tmp_path / "ours.safetensors", "k")


def test_folders_of_runs_and_of_the_hub(file, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    save_model(tmp_path / "run" / "checkpoints" / "model", {"a": torch.ones(1)}, {})
    assert read(tmp_path / "run", "k")[0] == {"a": torch.ones(1)}
    for name in ("config.yaml", "status.json"):
        (tmp_path / name).touch()
    assert f"type resume={tmp_path}" in refusal(read, tmp_path, "k")
    (tmp_path / "hub").mkdir()
    assert "is a folder without weights" in refusal(read, tmp_path / "hub", "k")
    (tmp_path / "hub" / "pytorch_model.bin").write_bytes(b"PK")
    assert "convert_weights.py" in refusal(read, tmp_path / "hub", "k")
    save_file({"a": torch.ones(1)}, tmp_path / "hub" / "one.safetensors")
    assert read(tmp_path / "hub", "k")[0] == {"a": torch.ones(1)}
    save_file({"b": torch.ones(1)}, tmp_path / "hub" / "two.safetensors")
    assert "holds 2 files of weights" in refusal(read, tmp_path / "hub", "k")
    (tmp_path / "hub" / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}})
    )
    assert set(read(tmp_path / "hub", "k")[0]) == {"a", "b"}
    (tmp_path / "hub" / "two.safetensors").unlink()
    assert "needs two.safetensors in the same folder" in refusal(read, tmp_path / "hub", "k")
