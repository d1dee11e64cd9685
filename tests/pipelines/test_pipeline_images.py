"""Walks of a loaded pipeline end in the pipeline's own images."""

import numpy as np
import pretended
import pytest
import torch
from forks import forked

from quantlab.diffusion.trajectories import WalkEnds
from quantlab.run.cache import Cache

own_images = pytest.importorskip("own_images")

KINDS = ("ddpm", "ldm", "dit", "pixart", "sd", "sdxl", "sd3", "flux")


def our_images(denoiser, condition, tmp_path, seed=7):
    denoiser.prepare(Cache(tmp_path / "cache"), "cpu")
    ends = WalkEnds(denoiser.network(), denoiser.sampler, condition, (2, *denoiser.shape), seed)[:2]
    return (denoiser.images(ends) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_walks_end_in_the_pipelines_own_images(kind, pipelines, tmp_path, monkeypatch):
    words = ("model.sampler.steps=3", "method.group_size=1", *own_images.our_words(kind))
    denoiser = own_images.open_denoiser(pipelines(kind), *words)
    condition = denoiser.condition(2, 7)
    found = our_images(denoiser, condition, tmp_path)
    pipeline = own_images.loaded(pipelines(kind))
    own = own_images.draw(pipeline, kind, denoiser, condition, 7, monkeypatch, num_inference_steps=3)
    assert np.abs(found - own).max() < 1e-5 and own.std() > 0.01


def test_a_prompt_a_negative_prompt_and_halves_one_after_the_other(pipelines, tmp_path, monkeypatch):
    (tmp_path / "prompts.txt").write_text("a cat\n\n  two dogs on a lawn \n")
    words = (
        "model.sampler.steps=2",
        "method.group_size=1",
        f"model.prompts.file={tmp_path / 'prompts.txt'}",
        "model.prompts.negative=rain",
        "model.guidance.scale=3",
        "model.guidance.batched=false",
    )
    denoiser = own_images.open_denoiser(pipelines("sd"), *words)
    assert denoiser.conditioning.prompts == ["a cat", "two dogs on a lawn"] and denoiser.passes == 2
    condition = {"prompt": torch.tensor([1, 0])}
    found = our_images(denoiser, condition, tmp_path)
    options = {"negative_prompt": ["rain"] * 2, "guidance_scale": 3.0, "num_inference_steps": 2}
    own = own_images.draw(own_images.loaded(pipelines("sd")), "sd", denoiser, condition, 7, monkeypatch, **options)
    assert np.abs(found - own).max() < 1e-5


def test_an_embedding_is_stored_once_a_prompt_and_not_made_again(pipelines, tmp_path, monkeypatch):
    denoiser = own_images.open_denoiser(pipelines("sd"), "model.sampler.steps=2", "method.group_size=1")
    denoiser.prepare(Cache(tmp_path / "cache"), "cpu")
    assert len(denoiser.conditioning.embeddings["encoder_hidden_states"]) == 33  # 32 prompts and the negative one
    drawn = denoiser.condition(40, 0)["prompt"]
    assert len(set(drawn[:32].tolist())) == 32 and drawn.max() < 32
    again = own_images.open_denoiser(pipelines("sd"), "model.sampler.steps=2", "method.group_size=1")
    monkeypatch.setattr(type(again.call.__self__), "encoder", lambda *_: pytest.fail("encoded again"))
    again.prepare(Cache(tmp_path / "cache"), "cpu")
    rows = again.conditioning.arguments({"prompt": torch.tensor([3, 32])})["encoder_hidden_states"]
    assert rows.shape == (2, 77, 32) and not torch.equal(rows[0], rows[1])


@pytest.mark.skipif(not pretended.POSSIBLE, reason="PyTorch before 2.10 has no backends in Python")
@pytest.mark.parametrize(("offload", "where"), [("disk", "meta"), ("cpu", "cpu"), ("none", "pretend")])
def test_weights_that_nobody_asks_for_lie_elsewhere_and_come_back(offload, where, pipelines, tmp_path):
    words = ("model.sampler.steps=2", "method.group_size=1", f"model.offload={offload}")
    denoiser = own_images.open_denoiser(pipelines("ldm"), *words)

    @torch.no_grad()
    def on_a_device():
        pretended.pretend()
        denoiser.to("pretend:0")
        x = torch.ones(1, *denoiser.shape).to("pretend:0")
        before, digest = denoiser.unguided()({})(x, 500, 0).cpu(), denoiser.fingerprint()
        for _ in range(2):
            denoiser.release()
            assert {one.device.type for one in denoiser.unet.parameters()} == {where}
            assert denoiser.fingerprint() == digest
            assert torch.equal(denoiser.unguided()({})(x, 500, 0).cpu(), before)
            assert {one.device.type for one in denoiser.unet.parameters()} == {"pretend"}
        return 0

    assert forked(on_a_device, tmp_path / "log") == 0, (tmp_path / "log").read_text()


def test_true_guidance_of_flux_comes_beside_the_embedded_one(pipelines, tmp_path, monkeypatch):
    words = (
        "model.sampler.steps=2",
        "method.group_size=1",
        "model.guidance.true_scale=3",
        "model.prompts.negative=rain",
    )
    denoiser = own_images.open_denoiser(pipelines("flux"), *words, *own_images.our_words("flux"))
    assert denoiser.passes == 2
    condition = denoiser.condition(2, 7)
    found = our_images(denoiser, condition, tmp_path)
    options = {"negative_prompt": ["rain"] * 2, "true_cfg_scale": 3.0, "num_inference_steps": 2}
    own = own_images.draw(own_images.loaded(pipelines("flux")), "flux", denoiser, condition, 7, monkeypatch, **options)
    assert np.abs(found - own).max() < 1e-5
    plain = own_images.open_denoiser(pipelines("flux"), *words[:2], *own_images.our_words("flux"))
    assert plain.passes == 1 and np.abs(our_images(plain, condition, tmp_path) - own).max() > 1e-3


@pytest.mark.parametrize("compute", ["bfloat16", "float16"])
def test_products_may_be_narrower_and_states_are_not(compute, pipelines):
    outputs = []
    for words in ((), (f"model.compute={compute}",)):
        denoiser = own_images.open_denoiser(pipelines("ddpm"), "model.sampler.steps=2", "method.group_size=1", *words)
        with torch.no_grad():
            outputs.append(denoiser.network()({})(torch.ones(1, *denoiser.shape), 500, 0))
    exact, found = outputs
    assert found.dtype == torch.float32 and denoiser.is_half == (compute == "float16")
    assert 0 < (found - exact).norm() / exact.norm() < (0.05 if compute == "bfloat16" else 0.006)
