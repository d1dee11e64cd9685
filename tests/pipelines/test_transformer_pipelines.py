"""Transformers, of joint attention among them: their blocks are the units of block reconstruction, and gradient
checkpointing changes nothing.
"""

import pytest
import torch
from run_files import results, rows
from tiny import TINY_PIPELINE

from quantlab.methods.ptq.block import Block, forward_order, mean_squared_error

own_images = pytest.importorskip("own_images")

SMALL = (
    *TINY_PIPELINE,
    "method.group_size=2",
    "quantizer.weight.scale_search=min_max",
    "quantizer.activation.scale_search=min_max",
)
BLOCKS = {
    "dit": ["transformer_blocks.0", "transformer_blocks.1"],
    "pixart": ["transformer_blocks.0", "transformer_blocks.1"],
    "sd3": ["transformer_blocks.0", "transformer_blocks.1"],
    "flux": ["transformer_blocks.0", "single_transformer_blocks.0"],
}


def kinds(quick):
    """All of them, of which `quick` alone is not marked slow."""
    return [pytest.param(kind, marks=[] if kind == quick else pytest.mark.slow) for kind in BLOCKS]


@pytest.mark.parametrize("kind", BLOCKS)
def test_blocks_are_units_in_the_order_of_the_forward_pass(kind, pipelines, tmp_path):
    denoiser = own_images.open_denoiser(pipelines(kind), *SMALL, *own_images.our_words(kind))
    if kind != "dit":
        from quantlab.run.cache import Cache

        denoiser.prepare(Cache(tmp_path), "cpu")
    condition, x = denoiser.condition(1, 0), torch.zeros(1, *denoiser.shape)
    names = forward_order(denoiser.unet, lambda: denoiser.unguided()(condition)(x, 0, 0))
    assert [name for name in names if name in BLOCKS[kind]] == BLOCKS[kind]
    inside = [name for name in names for block in BLOCKS[kind] if name.startswith(f"{block}.")]
    assert not inside and len(names) > len(BLOCKS[kind])  # the others are single layers


@pytest.mark.parametrize("kind", kinds("sd3"))
def test_block_reconstruction_learns_without_full_precision_at_hand(kind, pipelines, quantlab, tmp_path, monkeypatch):
    run, places, gradients = tmp_path / "run", set(), Block.gradients

    def seen(block, batch):
        places.update(one.device.type for one in block.method.context.model.unet.parameters())
        return gradients(block, batch)

    monkeypatch.setattr(Block, "gradients", seen)
    words = (f"model.path={pipelines(kind)}", *own_images.our_words(kind), *SMALL, "method.network_evaluations=80")
    precise = ("quantizer.weight.bits=3", "trainer.log_every=1", "method.learning_rate.rounding=0.1")
    code, _, err = quantlab("method=ptq", *words, *precise, "device=cpu", f"output_dir={run}")
    assert code == 0, err
    found = results(run)
    assert places == {"meta"}
    assert found["metrics"]["mse_to_fp32"] < found["baseline"]["ranges_only"]["mse_to_fp32"]


@pytest.mark.parametrize("kind", kinds("flux"))
def test_gradient_checkpointing_changes_no_bit(kind, pipelines, quantlab, tmp_path):
    found = []
    for switch in ("false", "true"):
        run = tmp_path / switch
        words = (f"model.path={pipelines(kind)}", *own_images.our_words(kind), *SMALL, "trainer.log_every=1")
        few = ("method.initialization.iterations=1", "method.iterations=2", f"model.gradient_checkpointing={switch}")
        code, _, err = quantlab("method=accuquant", *words, *few, "device=cpu", f"output_dir={run}")
        assert code == 0, err
        found.append((results(run)["metrics"], [row["loss"] for row in rows(run)]))
    assert found[0] == found[1]


def test_the_error_of_two_outputs_is_the_mean_over_all_their_numbers():
    ours, theirs = (torch.randn(2, 3, 4), torch.randn(2, 5)), (torch.randn(2, 3, 4), torch.randn(2, 5))
    joined = [torch.cat([one.flatten() for one in pair]) for pair in (ours, theirs)]
    torch.testing.assert_close(mean_squared_error(ours, theirs), (joined[0] - joined[1]).square().mean())
