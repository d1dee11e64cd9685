"""Diffusion models as people have them: what works is read right, what does not is refused in one line, before any
work.
"""

import json
import os
import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DConditionModel, UNet2DModel, schedulers
from safetensors.torch import load_file, save_file

from quantlab.config import load_config
from quantlab.diffusion.rollout import seeded_normal
from quantlab.errors import RequestError, RunError
from quantlab.methods.generation_judge import fetch_trajectories
from quantlab.methods.pretrain import Pretrain, source_of
from quantlab.methods.ptq.method import DiffusionPTQ
from quantlab.models.diffusers_denoiser import load_pretrained
from quantlab.models.diffusers_scheduler import DDPM_FORWARD, alphas_cumprod
from quantlab.models.given import load_weights
from quantlab.run.cache import Cache

WEIGHTS = "diffusion_pytorch_model.safetensors"
TASK = SimpleNamespace(name="digits_generation", channels=1, image_size=8, classes=10)
GUIDANCE = SimpleNamespace(scale=1.0, batched=True)
SAMPLER = SimpleNamespace(name="ddim", steps=4, eta=0.0, spacing="uniform", clip_sample=False)


def tiny_unet(**options):
    torch.manual_seed(0)
    sizes = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }
    return UNet2DModel(**sizes | options).eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A sound directory, never changed."""
    root = tmp_path_factory.mktemp("saved")
    tiny_unet().save_pretrained(root / "unet")
    DDPMScheduler().save_pretrained(root / "scheduler")
    index = {
        "_class_name": "DDPMPipeline",
        "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", "DDPMScheduler"],
    }
    (root / "model_index.json").write_text(json.dumps(index))
    return root


@pytest.fixture
def model(saved, tmp_path):
    """A copy of it, to be changed."""
    return shutil.copytree(saved, tmp_path / "model")


def load(path, weights=None, sampler=SAMPLER, task=TASK, guidance=GUIDANCE):
    return load_pretrained(
        SimpleNamespace(name="ddpm_cifar10", path=str(path), weights=weights, sampler=sampler, guidance=guidance), task
    )


def refusal(path, **options):
    with pytest.raises(RequestError) as caught:
        load(path, **options)
    (line,) = caught.value.problems
    assert "\n" not in line and "hub" not in line, line
    return line


def edit(file, **values):
    """The JSON `file` with these values; None takes a key away."""
    content = json.loads(file.read_text()) | values
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def eps(denoiser):
    with torch.no_grad():
        return denoiser.unet(seeded_normal((2, 1, 8, 8), 1), 500).sample


@pytest.fixture(scope="module")
def expected():
    with torch.no_grad():
        return tiny_unet()(seeded_normal((2, 1, 8, 8), 1), 500).sample


# what works --------------------------------------------------------------------------------------------------------
def test_a_pipeline_s_directory_is_full_precision(saved, expected):
    denoiser = load(saved)
    torch.testing.assert_close(eps(denoiser), expected)
    assert denoiser.has_weights and str(saved / "unet" / WEIGHTS) in source_of(denoiser)
    assert "DDPMScheduler" in source_of(denoiser)
    assert torch.equal(denoiser.alphas_cumprod, DDPMScheduler().alphas_cumprod)


def flat(model):  # as the first models of the hub
    for file in [*model.glob("unet/*"), *model.glob("scheduler/*")]:
        file.rename(model / file.name)
    (model / "unet").rmdir()
    return model


def list_size(model):
    edit(model / "unet" / "config.json", sample_size=[8, 8])
    return model


def fp16_variant(model):
    file = model / "unet" / WEIGHTS
    save_file(
        {name: tensor.half() for name, tensor in load_file(file).items()},
        file.with_name("diffusion_pytorch_model.fp16.safetensors"),
    )
    file.unlink()
    return model


def only_average(model):
    (model / "unet").rename(model / "unet_ema")
    return model


def shards(model):
    folder = model / "unet"
    tensors = sorted(load_file(folder / WEIGHTS).items())
    (folder / WEIGHTS).unlink()
    parts = {f"diffusion_pytorch_model-0000{i}-of-00002.safetensors": dict(tensors[i - 1 :: 2]) for i in (1, 2)}
    for name, part in parts.items():
        save_file(part, folder / name)
    index = {"metadata": {}, "weight_map": {key: name for name, part in parts.items() for key in part}}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    return model


def old_attention_names(model):
    file = model / "unet" / WEIGHTS
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {
        re.sub("|".join(old), lambda found: old[found[0]], name): tensor for name, tensor in load_file(file).items()
    }
    assert any("proj_attn" in name for name in tensors)
    save_file(tensors, file)
    return model


def wrapped_names(model):
    file = model / "unet" / WEIGHTS
    save_file({f"_orig_mod.module.{name}": tensor for name, tensor in load_file(file).items()}, file)
    return model


def network_s_folder(model):
    return f"{model / 'unet'}/"


def without_index(model):
    (model / "model_index.json").unlink()
    return model


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
def test_directories_that_mean_the_same(change, says, model, expected):
    denoiser = load(change(model))
    torch.testing.assert_close(eps(denoiser), expected)
    assert says in source_of(denoiser)


def test_an_fp16_variant_alone_is_read_as_float32(model, expected):
    denoiser = load(fp16_variant(model))
    assert "fp16.safetensors" in source_of(denoiser) and "float16 becomes float32" in source_of(denoiser)
    assert all(tensor.dtype == torch.float32 for tensor in denoiser.unet.state_dict().values())
    torch.testing.assert_close(eps(denoiser), expected, atol=1e-2, rtol=0)


def test_relative_paths_and_a_home(model, monkeypatch, expected):
    monkeypatch.chdir(model.parent)
    monkeypatch.setenv("HOME", str(model.parent))
    for path in ("model", "./model/", "~/model"):
        torch.testing.assert_close(eps(load(path)), expected)


def test_of_a_learned_variance_epsilon_is_kept(model):
    whole = tiny_unet(out_channels=2)
    whole.save_pretrained(model / "unet")
    denoiser = load(model)
    with torch.no_grad():
        both = whole(seeded_normal((2, 1, 8, 8), 1), 500).sample
    torch.testing.assert_close(eps(denoiser), both[:, :1])
    batch = {"image": torch.zeros(3, 1, 8, 8)}
    assert denoiser.validation_loss(batch).shape == () and "variance" in source_of(denoiser)


def test_a_file_of_weights_may_hold_a_variance_and_old_names_too(model, tmp_path):
    whole = tiny_unet(out_channels=2)
    whole.save_pretrained(model / "unet")
    file = old_attention_names(model) / "unet" / WEIGHTS
    shutil.copy(file, tmp_path / "other.safetensors")
    file.unlink()
    denoiser = load(model, weights="other.safetensors")
    load_weights(denoiser, tmp_path / "other.safetensors", "model.weights")
    with torch.no_grad():
        both = whole(seeded_normal((2, 1, 8, 8), 1), 500).sample
    torch.testing.assert_close(eps(denoiser), both[:, :1])
    assert denoiser.has_weights and "other.safetensors" in source_of(denoiser)


def test_weights_of_a_file_replace_those_of_the_directory(model):
    (model / "unet" / WEIGHTS).unlink()
    denoiser = load(model, weights="other.safetensors")
    assert not denoiser.has_weights  # until whoever reads that file says so


# schedulers --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", DDPM_FORWARD)
def test_schedulers_that_share_ddpm_s_noise_give_its_alphas(name):
    if name == "DPMSolverSDEScheduler":
        pytest.importorskip("torchsde")
    betas = {"num_train_timesteps": 50, "beta_start": 0.001, "beta_end": 0.03, "beta_schedule": "scaled_linear"}
    if name == "RePaintScheduler":
        betas["beta_schedule"] = "linear"
    found = alphas_cumprod(betas | {"_class_name": name, "use_karras_sigmas": name.startswith("Euler")}, "here")
    torch.testing.assert_close(found, DDPMScheduler(**betas).alphas_cumprod)


def test_betas_are_taken_as_they_are_given():
    betas = [0.1, 0.2, 0.5]
    found = alphas_cumprod({"_class_name": "PNDMScheduler", "num_train_timesteps": 3, "trained_betas": betas}, "here")
    torch.testing.assert_close(found, torch.tensor([0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.5]))
    rescaled = alphas_cumprod({"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": True}, "here")
    assert rescaled[-1] == 0 and torch.equal(rescaled, DDIMScheduler(rescale_betas_zero_snr=True).alphas_cumprod)


@pytest.mark.parametrize(
    "config, says",
    [
        (
            {"_class_name": "ScoreSdeVeScheduler"},
            "ScoreSdeVeScheduler (variance exploding) does not work, allowed: those with DDPM's forward",
        ),
        ({"_class_name": "ScoreSdeVpScheduler"}, "ScoreSdeVpScheduler (of continuous time)"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "(flow matching)"),
        ({"_class_name": "CMStochasticIterativeScheduler"}, "(consistency)"),
        ({"_class_name": "EDMEulerScheduler"}, "(EDM's preconditioning)"),
        ({"_class_name": "DDIMSchedular"}, "did you mean 'DDIMScheduler'?"),
        ({"_class_name": "os.system"}, "the noise of os.system does not work"),
        ({}, 'write "_class_name": "DDPMScheduler"'),
        (
            {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True},
            "use_flow_sigmas, which is flow matching",
        ),
        ({"_class_name": "DDPMScheduler", "beta_schedule": "steep"}, "diffusers cannot make DDPMScheduler of it"),
        ({"_class_name": "DDPMScheduler", "trained_betas": [0.1, 1.5]}, "no noise schedule"),
    ],
)
def test_other_noise_is_refused(config, says):
    with pytest.raises(RequestError) as caught:
        alphas_cumprod(config, "here")
    assert str(caught.value).startswith("here: ") and says in str(caught.value) and "\n" not in str(caught.value)


def test_no_scheduler_outside_of_the_list_has_ddpm_s_noise_unknown_to_us():
    """New schedulers of diffusers are looked at, not overlooked."""
    other = {
        "CogVideoXDDIMScheduler",
        "CogVideoXDPMScheduler",
        "DDIMInverseScheduler",
        "DPMSolverMultistepInverseScheduler",
        "LCMScheduler",
        "TCDScheduler",
        "UnCLIPScheduler",
        "CosineDPMSolverMultistepScheduler",
    }
    names = {name for name in dir(schedulers) if name.endswith("Scheduler")}
    assert set(DDPM_FORWARD) <= names
    for name in names - set(DDPM_FORWARD) - other:
        try:
            scheduler = getattr(schedulers, name)()
        except (AttributeError, ImportError, TypeError):
            continue
        assert not hasattr(scheduler, "alphas_cumprod"), name


# what is refused ---------------------------------------------------------------------------------------------------


def remove(name):
    return lambda model: (model / name).unlink()


def configured(name, **values):
    return lambda model: edit(model / name, **values)


def cut_short(model):
    file = model / "unet" / WEIGHTS
    file.write_bytes(file.read_bytes()[:-1000])


def pointer(model):
    (model / "unet" / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")


def pickled(model):
    (model / "unet" / WEIGHTS).rename(model / "unet" / "diffusion_pytorch_model.bin")


def changed_tensors(change):
    def apply(model):
        file = model / "unet" / WEIGHTS
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file)

    return apply


def not_finite(tensors):
    tensors["conv_out.bias"][0] = float("inf")


def integers(tensors):
    tensors["conv_in.weight"] = tensors["conv_in.weight"].to(torch.int8)


def too_large(tensors):
    tensors["conv_out.weight"] *= 1e38
    tensors["conv_norm_out.weight"] *= 1e10


def two_variants(model):
    for variant in ("fp16", "bf16"):
        shutil.copy(model / "unet" / WEIGHTS, model / "unet" / f"diffusion_pytorch_model.{variant}.safetensors")
    remove(f"unet/{WEIGHTS}")(model)


def lost_shard(model):
    (shards(model) / "unet" / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()


def lost_index(model):
    (shards(model) / "unet" / f"{WEIGHTS}.index.json").unlink()


def conditional(model):
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
    unet.save_pretrained(model / "unet")


def other_pipeline(name, **parts):
    def apply(model):
        (model / "model_index.json").write_text(
            json.dumps({"_class_name": name, **{part: ["library", kind] for part, kind in parts.items()}})
        )

    return apply


def a_transformer(model):
    (model / "model_index.json").unlink()
    (model / "unet").rename(model / "transformer")
    edit(model / "transformer" / "config.json", _class_name="DiTTransformer2DModel")


def a_run(model):
    (model / "config.yaml").touch(), (model / "status.json").touch()


@pytest.mark.parametrize(
    "change, says",
    [
        (remove("unet/config.json"), "unet has no config.json"),
        (lambda model: (model / "unet" / "config.json").write_text("{broken"), "config.json is not JSON"),
        (lambda model: (model / "unet" / "config.json").write_text("[]"), "holds a list, not a mapping"),
        (lambda model: shutil.rmtree(model / "unet"), "holds no model in diffusers' format"),
        (lambda model: shutil.rmtree(model / "scheduler"), "has no scheduler/scheduler_config.json"),
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
        (changed_tensors(too_large), "puts out NaN or infinity"),
        (two_variants, "rename the one you mean"),
        (lost_shard, "needs diffusion_pytorch_model-00002-of-00002.safetensors beside it"),
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
            "(variance exploding) does not work",
        ),
        (
            configured("unet/config.json", num_class_embeds=1000),
            "one of 1000 classes (num_class_embeds), and task=digits_generation has 10",
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
def test_what_is_wrong_with_a_directory_is_said(change, says, model):
    change(model)
    assert says in refusal(model)


def test_images_that_the_network_cannot_halve(model):
    edit(model / "unet" / "config.json", sample_size=9)
    assert "does not take 1 x 9 x 9 images" in refusal(
        model, task=SimpleNamespace(name="task", channels=1, image_size=9, classes=None)
    )


def test_a_network_that_fails_at_the_walk_s_last_step_alone(model):
    tiny_unet(time_embedding_type="fourier").save_pretrained(model / "unet")  # divides by the timestep
    assert "NaN or infinity for standard normal noise at timestep 0" in refusal(model)


def test_walks_that_the_model_has_not(model):
    many = SimpleNamespace(name="ddim", steps=2000, eta=0.0, spacing="uniform", clip_sample=False)
    assert "type model.sampler.steps=1000" in refusal(model, sampler=many)
    edit(model / "scheduler" / "scheduler_config.json", _class_name="DDIMScheduler", rescale_betas_zero_snr=True)
    every = SimpleNamespace(name="ddim", steps=1000, eta=0.0, spacing="uniform", clip_sample=False)
    assert "no signal at all" in refusal(model, sampler=every)
    trailing = SimpleNamespace(name="ddim", steps=8, eta=0.0, spacing="trailing", clip_sample=False)
    assert "type model.sampler.spacing=uniform" in refusal(model, sampler=trailing)
    assert load(model).has_weights
    edit(model / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    assert load(model, sampler=every).sampler.alphas[0] == 0  # v says what the image is where epsilon cannot
    euler = SimpleNamespace(name="euler", steps=1000, eta=0.0, spacing="uniform", clip_sample=False)
    assert "type model.sampler.name=ddim" in refusal(model, sampler=euler)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({}, "epsilon"),
        ({"prediction_type": "v_prediction"}, "v"),
        ({"prediction_type": "sample"}, "sample"),
        ({"predict_epsilon": False}, "sample"),
    ],
)
def test_what_the_network_predicts_is_the_schedulers_word(values, kind, model):
    edit(model / "scheduler" / "scheduler_config.json", **values)
    assert load(model).sampler.prediction == kind


@pytest.mark.parametrize("count", [10, 11])
def test_a_network_that_is_told_classes(count, model):
    tiny_unet(num_class_embeds=count).save_pretrained(model / "unet")
    denoiser = load(model)
    assert denoiser.classes.nothing == (10 if count == 11 else None) and denoiser.passes == 1
    labels = denoiser.condition(500, 3)["class_labels"]
    assert labels.unique().tolist() == list(range(10)) and torch.equal(
        labels, denoiser.condition(500, 3)["class_labels"]
    )
    guidance = SimpleNamespace(scale=2.0, batched=True)
    if count == 10:
        assert "type model.guidance.scale=1" in refusal(model, guidance=guidance)
    else:
        assert load(model, guidance=guidance).passes == 2


@pytest.mark.parametrize(
    "path", ["no_such_model", "./no_such", "/no/such/place", "~/no/such", "no/such/place", "models/modle"]
)
def test_a_path_that_is_none_is_not_looked_for_on_the_hub(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.makedirs("models/model")
    with pytest.raises(RequestError, match="no such directory: /") as caught:
        load(path)
    assert ("did you mean 'model'?" in str(caught.value)) == (path == "models/modle")


def test_a_file_is_answered_with_its_directory(saved):
    assert f"type model.path={saved / 'unet'}" in refusal(saved / "unet" / WEIGHTS)


def test_a_hub_id_is_a_snapshot_of_the_local_cache(saved, tmp_path, monkeypatch, expected):
    revision = "0123456789abcdef0123456789abcdef01234567"
    folder = tmp_path / "models--owner--name"
    shutil.copytree(saved, folder / "snapshots" / revision)
    (folder / "refs").mkdir(), (folder / "refs" / "main").write_text(revision)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path))
    denoiser = load("owner/name")
    torch.testing.assert_close(eps(denoiser), expected)
    assert f"revision {revision} of owner/name" in source_of(denoiser)
    with pytest.raises(RequestError, match="type model.path=owner/name"):
        load(folder)
    with pytest.raises(RequestError, match="hf download owner/other --local-dir DIR") as caught:
        load("owner/other")
    assert "\n" not in str(caught.value)


# caches ------------------------------------------------------------------------------------------------------------
class Recipe(SimpleNamespace):
    def model_dump(self, **_):
        return {"path": self.path, "weights": None, "sampler": {}, "pretrain": {"steps": 1}}


def pretrain_key(path):
    section = Recipe(path=str(path), pretrain=SimpleNamespace(steps=1, batch_size=1, seed=0))
    task = SimpleNamespace(dataset=lambda: range(10), collate=list, workers=0, fingerprint=lambda: "data", name="task")
    config = SimpleNamespace(model=section, task=task, trainer=SimpleNamespace(mixed_precision="no", drop_last=True))
    return Pretrain(None, SimpleNamespace(config=config, task=task, model=load(path))).cache_facts(1)


def test_weights_trained_further_are_known_by_what_lay_there(model, tmp_path):
    before = pretrain_key(model)
    assert pretrain_key(shutil.copytree(model, tmp_path / "elsewhere")) == before
    seen = [before]
    for change in (
        changed_tensors(lambda tensors: tensors["conv_in.bias"].add_(1)),
        configured("unet/config.json", freq_shift=1),
        configured("scheduler/scheduler_config.json", beta_end=0.01),
    ):
        change(model)
        seen.append(pretrain_key(model))
    assert all(one not in seen[:index] for index, one in enumerate(seen))


def test_walks_are_known_by_weights_and_config(model, tmp_path):
    evaluation = SimpleNamespace(batch_size=4)

    def walks():
        task = SimpleNamespace(channels=1, image_size=8, evaluation=evaluation)
        context = SimpleNamespace(
            model=load(model),
            task=task,
            cache=Cache(tmp_path / "cache"),
            progress=lambda batches, _: batches,
            device="cpu",
        )
        return fetch_trajectories(context, 2, 0, [2] * 5, "walks").images

    seen = [walks()]
    assert torch.equal(walks(), seen[0])
    for change in (
        changed_tensors(lambda tensors: tensors["conv_in.bias"].add_(1)),
        configured("unet/config.json", freq_shift=1),
        configured("scheduler/scheduler_config.json", beta_end=0.01),
    ):
        change(model)
        seen.append(walks())
        assert not torch.equal(seen[-1], seen[-2])
    assert len(list((tmp_path / "cache" / "trajectories").iterdir())) == 4


def test_a_run_is_not_resumed_with_another_full_precision_model():
    with pytest.raises(RunError, match="not the one that this run began with"):
        DiffusionPTQ.load_state_dict(SimpleNamespace(full_precision_sha256="now"), {"full_precision": "then"})


# whole runs --------------------------------------------------------------------------------------------------------
SMALL = (
    "model=ddpm_cifar10",
    "task=digits_generation",
    "model.sampler.steps=2",
    "task.evaluation.samples=8",
    "task.feature_network.pretrain.steps=4",
    "task.feature_network.width=8",
    "task.evaluation.step_error_samples=2",
    "device=cpu",
)
SMALL_PTQ = (
    *SMALL,
    "method=ptq",
    "method.reconstruction=none",
    "method.calibration.trajectories=4",
    "method.calibration.range_samples=2",
    "method.batch_size=2",
    "method.group_size=1",
)


def test_a_loaded_model_is_quantized_and_not_trained(quantlab, saved, tmp_path, monkeypatch):
    monkeypatch.chdir(saved.parent)
    code, _, err = quantlab(*SMALL_PTQ, f"model.path={saved.name}", f"output_dir={tmp_path / 'run'}")
    assert code == 0, err
    assert load_config(tmp_path / "run").model.path == str(saved)  # wherever it is resumed from
    assert f"full-precision ddpm_cifar10: {saved / 'unet' / WEIGHTS}" in (tmp_path / "run" / "run.log").read_text()
    assert "training ddpm_cifar10" not in err


def test_training_it_further_is_asked_for(quantlab, model, tmp_path):
    words = ("method=pretrain", *SMALL, "model.pretrain.steps=2", "model.pretrain.batch_size=4", f"model.path={model}")
    code, _, err = quantlab(*words, f"output_dir={tmp_path / 'run'}")
    assert code == 0 and f"training goes on from {model}" in err, err
    trained = load_file(tmp_path / "run" / "checkpoints" / "model.safetensors")
    assert not torch.equal(trained["conv_in.weight"], load_file(model / "unet" / WEIGHTS)["conv_in.weight"])
    assert "found in the cache" in quantlab(*words, f"output_dir={tmp_path / 'again'}")[2]


def test_a_wrong_path_is_found_before_the_data_are_read(quantlab, tmp_path, monkeypatch):
    monkeypatch.setattr("quantlab.tasks.datasets.load_digits", lambda: pytest.fail("the data were read"))
    code, _, err = quantlab(*SMALL_PTQ, "model.path=no_such_place", f"output_dir={tmp_path / 'run'}")
    assert code == 2 and "no such directory" in err and not (tmp_path / "run" / "config.yaml").exists()
