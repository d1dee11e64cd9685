"""What is wrong with a pipeline or with what is asked of it is said in one line, before any work."""

import json
import shutil

import pytest
import torch

from quantlab.errors import RequestError
from quantlab.methods import learning_memory
from quantlab.run.formats import with_added_keys

own_images = pytest.importorskip("own_images")
STEPS = ("model.sampler.steps=2", "method.group_size=1")


def edit(file, **values):
    content = json.loads(file.read_text()) | values
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def index(**values):
    return lambda directory: edit(directory / "model_index.json", **values)


def without(name):
    def change(directory):
        path = directory / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def config_of(part, **values):
    return lambda directory: edit(directory / part, **values)


def shards(directory):
    file = directory / "unet" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_name("diffusion_pytorch_model-00001-of-00002.safetensors"))
    names = {"conv_in.weight": "diffusion_pytorch_model-00002-of-00002.safetensors"}
    file.with_name(f"{file.name}.index.json").write_text(json.dumps({"weight_map": names}))


def pickled(directory):
    (directory / "text_encoder" / "model.safetensors").rename(directory / "text_encoder" / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("kind", "change", "words", "said"),
    [
        ("sd", without("unet"), (), "is a StableDiffusionPipeline without unet/config.json"),
        ("sd", index(_class_name="KandinskyPipeline"), (), "names KandinskyPipeline, allowed: DDPMPipeline"),
        ("sd", index(_class_name="StableDifusionPipeline"), (), "did you mean 'StableDiffusionPipeline'"),
        ("sd", index(_class_name=["mine", "MyPipeline"]), (), "_class_name names code of the directory's own"),
        ("sd", index(unet=["my_unet", "MyUNet"]), (), "unet (my_unet) names code of the directory's own"),
        ("sd", index(unet=["diffusers", "UNet3DConditionModel"]), (), "is UNet3DConditionModel, allowed in"),
        ("sd", config_of("text_encoder/config.json", auto_map={"AutoModel": "x.Y"}), (), "auto_map names code"),
        ("sd", without("model_index.json"), (), "has no model_index.json"),
        ("sd", without("scheduler"), (), "has no scheduler/scheduler_config.json"),
        ("sd", without("vae"), (), "without vae/config.json"),
        ("sd", shards, (), "diffusion_pytorch_model-00002-of-00002.safetensors in the same folder"),
        ("sd", pickled, (), "has no weights in safetensors, and pickled ones are never loaded"),
        ("sd", config_of("unet/config.json", in_channels=9), (), "makes 4 channels of 9"),
        ("sd", None, ("model.image_size=15",), "multiples of 2"),
        ("sd", None, ("model.prompts.file={empty}",), "holds no prompt"),
        ("sd", None, ("model.prompts.file=nowhere.txt",), "cannot be read (No such file or directory)"),
        ("sd", None, ("model.guidance.channels=5",), "allowed: 1 to 4"),
        ("sd", None, ("model.null_class=3",), "has no classes here"),
        ("sd", None, ("model.guidance.true_scale=3",), "type model.guidance.true_scale=null model.guidance.scale=3"),
        ("dit", None, ("model.image_size=32",), "allowed: 16, for which the positions"),
        ("dit", None, ("model.prompts.file={empty}",), "draws without text"),
        ("ldm", None, ("model.guidance.scale=2",), "is unconditional, allowed: 1"),
        (
            "ldm",
            index(scheduler=["diffusers", "KDPM2DiscreteScheduler"]),
            (),
            "the steps of KDPM2DiscreteScheduler are not simulated",
        ),
        ("ldm", None, ("task=digits_generation",), "task.image_size: got 8, but model=pipeline makes images of 16"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(kind, change, words, said, pipelines, tmp_path):
    directory = shutil.copytree(pipelines(kind), tmp_path / "model")
    if change is not None:
        change(directory)
    (tmp_path / "empty.txt").write_text("\n  \n")
    words = [word.format(empty=tmp_path / "empty.txt") for word in words]
    with pytest.raises(RequestError) as caught:
        own_images.open_denoiser(directory, *STEPS, *words)
    (line,) = caught.value.problems
    assert "\n" not in line and said in line, line


def test_nothing_is_written_and_the_command_ends_with_2(pipelines, quantlab, tmp_path):
    words = ("method=accuquant", "model=pipeline", f"output_dir={tmp_path / 'run'}")
    assert quantlab(*words)[0] == 2
    code, _, err = quantlab(*words, *STEPS, f"model.path={pipelines('ldm')}", "model.guidance.scale=2")
    assert code == 2 and "model.guidance.scale" in err and not (tmp_path / "run").exists()
    code, _, err = quantlab("method=pretrain", "model=pipeline", f"model.path={pipelines('ldm')}")
    assert code == 2 and "taken as it is" in err
    words = (*words, *STEPS[:1], f"model.path={pipelines('ldm')}", "method.group_size=3")
    assert "allowed: 1 to 2" in quantlab(*words)[2]


def test_too_little_memory_is_said_with_what_would_fit(monkeypatch):
    monkeypatch.setattr(learning_memory, "free_memory", lambda device: 11 * 2**30)
    cpu = torch.device("cpu")
    with pytest.raises(RequestError) as caught:
        learning_memory.require_memory(850_000_000, 10_000_000, True, cpu)
    # 850e6 x 18 + 10e6 x 4 bytes against 11 GiB and what is loaded; of scales alone 850e6 x 9
    assert "at least 14.3 GiB" in str(caught.value) and "14.2 GiB are there" in str(caught.value)
    assert "type method.learn.rounding=false, which takes 7.16 GiB" in str(caught.value)
    learning_memory.require_memory(850_000_000, 10_000_000, False, cpu)
    with pytest.raises(RequestError, match="choose a smaller model"):
        learning_memory.require_memory(12_000_000_000, 0, True, cpu)


def test_runs_from_before_true_guidance_are_read():
    old = {"_target_": "quantlab.models.pipelines.load_pipeline", "guidance": {"scale": 3.0, "batched": True}}
    assert with_added_keys(old)["guidance"] == {"scale": 3.0, "batched": True, "true_scale": None}
