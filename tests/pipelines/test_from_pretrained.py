"""A network that was quantized here, saved by diffusers' save_pretrained, is loaded by its from_pretrained."""

import copy
import json
import shutil
import subprocess
import sys

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from diffusers.quantizers import PipelineQuantizationConfig
from safetensors.torch import load_file, save_file

import quantlab as package
from quantlab.errors import CorruptFileError, RequestError
from quantlab.models.diffusers_quantizer import QuantlabConfig
from quantlab.quantizers.calibration import grouped_activations
from quantlab.quantizers.uniform_affine import CodedWeight
from quantlab.registration import when_imported

pytest.importorskip("own_images")

TENSORS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def saved(quantized, tmp_path_factory):
    """The directory that save_pretrained left of the quantized UNet, and the UNet."""
    network, folder = package.load(quantized("sd")), tmp_path_factory.mktemp("saved")
    network.save_pretrained(folder)
    return folder, network


def outputs(network, dtype=torch.float32):
    """At the timesteps of both steps, which have scales of their own."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 8, 8, generator=generator).to(dtype)
    words = torch.randn(2, 77, 32, generator=generator).to(dtype)
    timesteps = network.walked_steps.timesteps
    with torch.no_grad():
        return torch.stack([network(x, t, encoder_hidden_states=words).sample for t in (timesteps[0], timesteps[-1])])


def same_state(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_it_is_the_same_network_in_a_small_file(saved, pipelines, tmp_path):
    folder, network = saved
    said = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert said["quant_method"] == "quantlab" and said["quantizer"]["weight"]["bits"] == 4
    loaded = UNet2DConditionModel.from_pretrained(folder)
    assert torch.equal(outputs(loaded), outputs(network)) and not loaded.training
    sizes = [one.log_scale[0] != one.log_scale[1] for one in grouped_activations(loaded)]
    assert any(sizes)  # scales of the two steps
    float32 = load_file(pipelines("sd") / "unet" / TENSORS)
    packed = {name for name in load_file(folder / TENSORS) if name.endswith(".codes")}
    names = {name.replace("weight_quantizer.codes", "weight") for name in packed if ".parts." not in name}
    codes, floats = (sum(one.nbytes for one in some) for some in (sized(folder, packed), sized(float32, names)))
    assert codes == pytest.approx(floats / 8, rel=0.3)
    loaded.save_pretrained(tmp_path)
    assert (tmp_path / TENSORS).read_bytes() == (folder / TENSORS).read_bytes()
    assert json.loads((tmp_path / "config.json").read_text())["quantization_config"] == said


def sized(tensors, names):
    tensors = tensors if isinstance(tensors, dict) else load_file(tensors / TENSORS)
    return [tensors[name] for name in names]


def test_in_bfloat16_codes_and_scales_stay_and_it_is_saved_again(saved, tmp_path):
    folder, network = saved
    loaded = UNet2DConditionModel.from_pretrained(folder, torch_dtype=torch.bfloat16)
    assert loaded.dtype == torch.bfloat16 and loaded.conv_in.weight.dtype == torch.bfloat16
    state, own = loaded.state_dict(), network.state_dict()
    quantizers = [name for name in own if "_quantizer." in name or ".processor." in name]
    assert quantizers and all(torch.equal(state[name], own[name]) for name in quantizers)
    assert all(one().dtype == torch.bfloat16 for one in loaded.modules() if isinstance(one, CodedWeight))
    found, exact = outputs(loaded, torch.bfloat16), outputs(network)
    assert found.dtype == torch.bfloat16 and (found - exact).norm() / exact.norm() < 0.05
    loaded.save_pretrained(tmp_path)
    again = UNet2DConditionModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert torch.equal(outputs(again, torch.bfloat16), found) and same_state(again.state_dict(), state)


def test_a_copy_has_its_own_scales(saved):
    _, network = saved
    twin, before = copy.deepcopy(network), outputs(network)
    (pointer,) = {one.pointer for one in grouped_activations(twin)}
    assert pointer is twin.walked_steps.pointer is not network.walked_steps.pointer
    assert torch.equal(outputs(twin), before)


def test_it_comes_in_shards_too(saved, tmp_path):
    _, network = saved
    network.save_pretrained(tmp_path, max_shard_size="50KB")  # which cuts layers in two
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    loaded = UNet2DConditionModel.from_pretrained(tmp_path, device_map="cpu")
    assert same_state(loaded.state_dict(), network.state_dict())


def test_a_whole_pipeline_has_it_inside(saved, pipelines, tmp_path):
    pipeline = DiffusionPipeline.from_pretrained(pipelines("sd"), local_files_only=True)
    pipeline.unet = saved[1]
    pipeline.save_pretrained(tmp_path)
    given = PipelineQuantizationConfig(quant_mapping={"unet": QuantlabConfig()})
    with pytest.warns(UserWarning, match="The `quantization_config` from the model will be used"):
        loaded = DiffusionPipeline.from_pretrained(tmp_path, local_files_only=True, quantization_config=given)
    images = []
    for one in (pipeline, loaded):
        one.set_progress_bar_config(disable=True)
        words = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(0), "output_type": "pt"}
        images.append(one("a cat", **words).images)
    assert torch.equal(*images)


def test_what_it_cannot_do_is_said(saved, pipelines, tmp_path):
    with pytest.raises(RequestError, match="got quantlab for a network in full precision, allowed: one that a run"):
        UNet2DConditionModel.from_pretrained(pipelines("sd") / "unet", quantization_config=QuantlabConfig())
    folder = shutil.copytree(saved[0], tmp_path / "damaged")
    tensors = load_file(folder / TENSORS)
    del tensors["mid_block.resnets.0.conv1.weight_quantizer.scale"]
    save_file(tensors, folder / TENSORS)
    with pytest.raises(CorruptFileError, match="mid_block.resnets.0.conv1 is damaged: KeyError: 'scale'"):
        UNet2DConditionModel.from_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["run_format"] = 9
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(RequestError, match="format 9, but this version reads"):
        UNet2DConditionModel.from_pretrained(folder)


def test_a_module_is_told_of_when_it_is_imported_or_at_once(tmp_path, monkeypatch):
    (tmp_path / "made_for_this_test.py").write_text("ANSWER = 42")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    told = []
    when_imported("made_for_this_test", lambda module: told.append(module.ANSWER))
    assert told == []
    __import__("made_for_this_test")
    when_imported("made_for_this_test", lambda module: told.append(module.__name__))
    assert told == [42, "made_for_this_test"]
    del sys.modules["made_for_this_test"]


@pytest.mark.slow
@pytest.mark.parametrize("imports", ["quantlab, diffusers", "diffusers.models.modeling_utils, quantlab"])
def test_importing_quantlab_is_enough(imports, saved):
    code = f"import {imports}; from diffusers import UNet2DConditionModel as UNet"
    code += f"; print(type(UNet.from_pretrained({str(saved[0])!r}).hf_quantizer).__name__)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "QuantlabQuantizer\n"
