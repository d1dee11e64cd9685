"""Problems with a directory, a path or a hub id are reported in one line, before any work."""

import json
import os
import shutil
from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers_files import WEIGHTS, changed_tensors, configured, edit, eps, load, refusal, shards, tiny_unet

from quantlab.errors import RequestError
from quantlab.methods.pretrain import source_of


def remove(name):
    return lambda directory: (directory / name).unlink()


def cut_short(directory):
    file = directory / "unet" / WEIGHTS
    file.write_bytes(file.read_bytes()[:-1000])


def pointer(directory):
    (directory / "unet" / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")


def pickled(directory):
    (directory / "unet" / WEIGHTS).rename(directory / "unet" / "diffusion_pytorch_model.bin")


def not_finite(tensors):
    tensors["conv_out.bias"][0] = float("inf")


def integers(tensors):
    tensors["conv_in.weight"] = tensors["conv_in.weight"].to(torch.int8)


def too_large(tensors):
    tensors["conv_out.weight"] *= 1e38
    tensors["conv_norm_out.weight"] *= 1e10


def two_variants(directory):
    for variant in ("fp16", "bf16"):
        shutil.copy(directory / "unet" / WEIGHTS, directory / "unet" / f"diffusion_pytorch_model.{variant}.safetensors")
    remove(f"unet/{WEIGHTS}")(directory)


def lost_shard(directory):
    (shards(directory) / "unet" / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()


def lost_index(directory):
    (shards(directory) / "unet" / f"{WEIGHTS}.index.json").unlink()


def conditional(directory):
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        cross_attention_dim=8,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    unet.save_pretrained(directory / "unet")


def other_pipeline(name, **parts):
    def apply(directory):
        (directory / "model_index.json").write_text(
            json.dumps({"_class_name": name, **{part: ["library", kind] for part, kind in parts.items()}})
        )

    return apply


def a_transformer(directory):
    (directory / "model_index.json").unlink()
    (directory / "unet").rename(directory / "transformer")
    edit(directory / "transformer" / "config.json", _class_name="DiTTransformer2DModel")


def a_run(directory):
    (directory / "config.yaml").touch(), (directory / "status.json").touch()


@pytest.mark.parametrize(
    "change, says",
    [
        (remove("unet/config.json"), "unet has no config.json"),
        (lambda directory: (directory / "unet" / "config.json").write_text("{broken"), "config.json is not JSON"),
        (lambda directory: (directory / "unet" / "config.json").write_text("[]"), "holds a list, not a mapping"),
        (lambda directory: shutil.rmtree(directory / "unet"), "holds no model in diffusers' format"),
        (lambda directory: shutil.rmtree(directory / "scheduler"), "has no scheduler/scheduler_config.json"),
        (remove(f"unet/{WEIGHTS}"), "has no weights, allowed"),
        (cut_short, f"{WEIGHTS} is not a sound safetensors file"),
        (pointer, "only points to a file that git-lfs has not fetched; type git lfs pull"),
        (pickled, "type python scripts/convert_weights.py"),
        (changed_tensors(lambda tensors: tensors.pop("conv_in.weight")), "it lacks conv_in.weight"),
        (changed_tensors(lambda tensors: tensors.update({"extra": torch.zeros(1)})), "it also has extra"),
        (
            configured("unet/config.json", block_out_channels=[8, 8]),
            "down_blocks.1.attentions.0.to_q.weight [16, 16] instead of [8, 8]",
        ),
        (changed_tensors(not_finite), f"{WEIGHTS} holds NaN or infinity in conv_out.bias"),
        (changed_tensors(integers), "holds torch.int8 in conv_in.weight"),
        (changed_tensors(too_large), "outputs NaN or infinity"),
        (two_variants, "rename the one you mean"),
        (lost_shard, "needs diffusion_pytorch_model-00002-of-00002.safetensors in the same folder"),
        (lost_index, f"but not {WEIGHTS}.index.json"),
        (conditional, "config.json is UNet2DConditionModel; only unconditional models of pixels work so far"),
        (a_transformer, "is DiTTransformer2DModel; only unconditional"),
        (a_run, "is a run of quantlab"),
        (
            other_pipeline(
                "StableDiffusionPipeline", unet="UNet2DConditionModel", vae="AutoencoderKL", scheduler="PNDMScheduler"
            ),
            "holds StableDiffusionPipeline (unet: UNet2DConditionModel, vae: AutoencoderKL",
        ),
        (
            other_pipeline(
                "StableDiffusion3Pipeline",
                transformer="SD3Transformer2DModel",
                scheduler="FlowMatchEulerDiscreteScheduler",
            ),
            "only",
        ),
        (
            other_pipeline("LDMPipeline", unet="UNet2DModel", vqvae="VQModel", scheduler="DDIMScheduler"),
            "holds LDMPipeline (unet",
        ),
        (
            other_pipeline("ConsistencyModelPipeline", unet="UNet2DModel", scheduler="CMStochasticIterativeScheduler"),
            "(consistency)",
        ),
        (
            configured("scheduler/scheduler_config.json", _class_name="ScoreSdeVeScheduler"),
            "(variance exploding) is not supported",
        ),
        (
            configured("unet/config.json", num_class_embeds=1000),
            "on 1000 classes (num_class_embeds), and task=digits_generation has 10",
        ),
        (
            configured("scheduler/scheduler_config.json", prediction_type="flow"),
            "predicts flow (prediction_type), allowed: epsilon, v_prediction",
        ),
        (configured("unet/config.json", class_embed_type="timestep"), "class_embed_type=timestep"),
        (configured("unet/config.json", sample_size=None), 'write "sample_size": 8 there'),
        (configured("unet/config.json", sample_size=[8, 16]), "makes 1 x 8 x 16 images"),
        (
            configured("unet/config.json", sample_size=32),
            "makes 1 x 32 x 32 images; task=digits_generation has 1 x 8 x 8; type task.image_size=32",
        ),
        (configured("unet/config.json", out_channels=3), "makes 3 channels of 1"),
        (
            configured("unet/config.json", down_block_types=["DownBlock2D", "NoBlock"]),
            "diffusers cannot build this UNet2DModel",
        ),
        (configured("unet/config.json", _class_name=...), "a class that it does not name"),
        (configured("unet/config.json", quantization_config={"quant_method": "bitsandbytes"}), "quantization_config"),
    ],
)
def test_problems_with_a_directory_are_reported(change, says, directory):
    change(directory)
    assert says in refusal(directory)


def test_images_that_the_network_cannot_halve(directory):
    edit(directory / "unet" / "config.json", sample_size=9)
    assert "does not take 1 x 9 x 9 images" in refusal(
        directory, task=SimpleNamespace(name="task", channels=1, image_size=9, classes=None)
    )


def test_a_network_that_fails_at_the_walk_s_last_step_alone(directory):
    tiny_unet(time_embedding_type="fourier").save_pretrained(directory / "unet")  # divides by the timestep
    assert "NaN or infinity for standard normal noise at timestep 0" in refusal(directory)


@pytest.mark.parametrize(
    "path", ["no_such_model", "./no_such", "/no/such/place", "~/no/such", "no/such/place", "models/modle"]
)
def test_a_missing_path_is_not_looked_for_on_the_hub(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.makedirs("models/model")
    with pytest.raises(RequestError, match="no such directory: /") as caught:
        load(path)
    assert ("did you mean 'model'?" in str(caught.value)) == (path == "models/modle")


def test_a_file_suggests_its_directory(saved_denoiser):
    assert f"type model.path={saved_denoiser / 'unet'}" in refusal(saved_denoiser / "unet" / WEIGHTS)


def test_a_hub_id_is_a_snapshot_of_the_local_cache(saved_denoiser, tmp_path, monkeypatch, expected_output):
    revision = "0123456789abcdef0123456789abcdef01234567"
    folder = tmp_path / "models--owner--name"
    shutil.copytree(saved_denoiser, folder / "snapshots" / revision)
    (folder / "refs").mkdir(), (folder / "refs" / "main").write_text(revision)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path))
    denoiser = load("owner/name")
    torch.testing.assert_close(eps(denoiser), expected_output)
    assert f"revision {revision} of owner/name" in source_of(denoiser)
    with pytest.raises(RequestError, match="type model.path=owner/name"):
        load(folder)
    with pytest.raises(RequestError, match="hf download owner/other --local-dir DIR") as caught:
        load("owner/other")
    assert "\n" not in str(caught.value)
