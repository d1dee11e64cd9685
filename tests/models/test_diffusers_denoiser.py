"""Denoisers in diffusers' format: directories and files of every layout load to the same network."""

import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers_files import WEIGHTS, edit, eps, load, refusal, shards, tiny_unet
from safetensors.torch import load_file, save_file

from quantlab.diffusion.rollout import seeded_normal
from quantlab.methods.pretrain import source_of
from quantlab.models.given import load_weights


def test_a_pipeline_s_directory_is_full_precision(saved_denoiser, expected_output):
    denoiser = load(saved_denoiser)
    torch.testing.assert_close(eps(denoiser), expected_output)
    assert denoiser.has_weights and str(saved_denoiser / "unet" / WEIGHTS) in source_of(denoiser)
    assert "DDPMScheduler" in source_of(denoiser)
    assert torch.equal(denoiser.alphas_cumprod, DDPMScheduler().alphas_cumprod)


def flat(directory):  # as the first models of the hub
    for file in [*directory.glob("unet/*"), *directory.glob("scheduler/*")]:
        file.rename(directory / file.name)
    (directory / "unet").rmdir()
    return directory


def list_size(directory):
    edit(directory / "unet" / "config.json", sample_size=[8, 8])
    return directory


def fp16_variant(directory):
    file = directory / "unet" / WEIGHTS
    save_file(
        {name: tensor.half() for name, tensor in load_file(file).items()},
        file.with_name("diffusion_pytorch_model.fp16.safetensors"),
    )
    file.unlink()
    return directory


def only_average(directory):
    (directory / "unet").rename(directory / "unet_ema")
    return directory


def old_attention_names(directory):
    file = directory / "unet" / WEIGHTS
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {
        re.sub("|".join(old), lambda found: old[found[0]], name): tensor for name, tensor in load_file(file).items()
    }
    assert any("proj_attn" in name for name in tensors)
    save_file(tensors, file)
    return directory


def wrapped_names(directory):
    file = directory / "unet" / WEIGHTS
    save_file({f"_orig_mod.module.{name}": tensor for name, tensor in load_file(file).items()}, file)
    return directory


def network_s_folder(directory):
    return f"{directory / 'unet'}/"


def without_index(directory):
    (directory / "model_index.json").unlink()
    return directory


@pytest.mark.parametrize(
    "change, says",
    [
        (flat, WEIGHTS),
        (list_size, WEIGHTS),
        (only_average, "no folder unet, so unet_ema was read"),
        (shards, "index.json"),
        (old_attention_names, WEIGHTS),
        (wrapped_names, WEIGHTS),
        (network_s_folder, WEIGHTS),
        (without_index, WEIGHTS),
    ],
)
def test_directories_that_mean_the_same(change, says, directory, expected_output):
    denoiser = load(change(directory))
    torch.testing.assert_close(eps(denoiser), expected_output)
    assert says in source_of(denoiser)


def test_an_fp16_variant_alone_is_read_as_float32(directory, expected_output):
    denoiser = load(fp16_variant(directory))
    assert "fp16.safetensors" in source_of(denoiser) and "float16 becomes float32" in source_of(denoiser)
    assert all(tensor.dtype == torch.float32 for tensor in denoiser.unet.state_dict().values())
    torch.testing.assert_close(eps(denoiser), expected_output, atol=1e-2, rtol=0)


def test_relative_paths_and_a_home(directory, monkeypatch, expected_output):
    monkeypatch.chdir(directory.parent)
    monkeypatch.setenv("HOME", str(directory.parent))
    for path in ("model", "./model/", "~/model"):
        torch.testing.assert_close(eps(load(path)), expected_output)


def test_of_a_learned_variance_epsilon_is_kept(directory):
    whole = tiny_unet(out_channels=2)
    whole.save_pretrained(directory / "unet")
    denoiser = load(directory)
    with torch.no_grad():
        both = whole(seeded_normal((2, 1, 8, 8), 1), 500).sample
    torch.testing.assert_close(eps(denoiser), both[:, :1])
    batch = {"image": torch.zeros(3, 1, 8, 8)}
    assert denoiser.validation_loss(batch).shape == () and "variance" in source_of(denoiser)


def test_a_file_of_weights_may_hold_a_variance_and_old_names_too(directory, tmp_path):
    whole = tiny_unet(out_channels=2)
    whole.save_pretrained(directory / "unet")
    file = old_attention_names(directory) / "unet" / WEIGHTS
    shutil.copy(file, tmp_path / "other.safetensors")
    file.unlink()
    denoiser = load(directory, weights="other.safetensors")
    load_weights(denoiser, tmp_path / "other.safetensors", "model.weights")
    with torch.no_grad():
        both = whole(seeded_normal((2, 1, 8, 8), 1), 500).sample
    torch.testing.assert_close(eps(denoiser), both[:, :1])
    assert denoiser.has_weights and "other.safetensors" in source_of(denoiser)


def test_weights_of_a_file_replace_those_of_the_directory(directory):
    (directory / "unet" / WEIGHTS).unlink()
    denoiser = load(directory, weights="other.safetensors")
    assert not denoiser.has_weights  # until whoever reads that file says so


def test_walks_that_the_model_has_not(directory):
    many = SimpleNamespace(name="ddim", steps=2000, eta=0.0, spacing="uniform", clip_sample=False)
    assert "type model.sampler.steps=1000" in refusal(directory, sampler=many)
    edit(directory / "scheduler" / "scheduler_config.json", _class_name="DDIMScheduler", rescale_betas_zero_snr=True)
    every = SimpleNamespace(name="ddim", steps=1000, eta=0.0, spacing="uniform", clip_sample=False)
    assert "no signal at all" in refusal(directory, sampler=every)
    trailing = SimpleNamespace(name="ddim", steps=8, eta=0.0, spacing="trailing", clip_sample=False)
    assert "type model.sampler.spacing=uniform" in refusal(directory, sampler=trailing)
    assert load(directory).has_weights
    edit(directory / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    assert load(directory, sampler=every).sampler.levels[0] == 0  # v says what the image is where epsilon cannot
    euler = SimpleNamespace(name="euler", steps=1000, eta=0.0, spacing="uniform", clip_sample=False)
    assert load(directory, sampler=euler).sampler.levels[0] == 2**-24  # as diffusers' own
    edit(directory / "scheduler" / "scheduler_config.json", _class_name="EulerDiscreteScheduler")
    assert load(directory).has_weights
    own = SimpleNamespace(name="scheduler", steps=8, eta=0.0, spacing="uniform", clip_sample=False)
    assert (
        load(directory, sampler=own).notes[0]
        == "sampled as its scheduler file says, EulerDiscreteScheduler, in 8 steps"
    )


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({}, "epsilon"),
        ({"prediction_type": "v_prediction"}, "v"),
        ({"prediction_type": "sample"}, "sample"),
        ({"predict_epsilon": False}, "sample"),
    ],
)
def test_what_the_network_predicts_is_the_schedulers_word(values, kind, directory):
    edit(directory / "scheduler" / "scheduler_config.json", **values)
    assert load(directory).sampler.prediction == kind


@pytest.mark.parametrize("count", [10, 11])
def test_a_network_that_is_told_classes(count, directory):
    tiny_unet(num_class_embeds=count).save_pretrained(directory / "unet")
    denoiser = load(directory)
    assert denoiser.conditioning.null_class == (10 if count == 11 else None) and denoiser.passes == 1
    labels = denoiser.condition(500, 3)["class_labels"]
    assert labels.unique().tolist() == list(range(10)) and torch.equal(
        labels, denoiser.condition(500, 3)["class_labels"]
    )
    guidance = SimpleNamespace(scale=2.0, batched=True)
    if count == 10:
        assert "type model.guidance.scale=1" in refusal(directory, guidance=guidance)
    else:
        assert load(directory, guidance=guidance).passes == 2
