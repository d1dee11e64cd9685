"""Peak memory and time of one AccuQuant iteration (`copy`) on the UNet of Stable Diffusion 1.x: 859.5 million random
weights, 64x64 latents, batch 1.

    python scripts/benchmark_stable_diffusion_memory.py                                  # a table on stdout
    python scripts/benchmark_stable_diffusion_memory.py --learn scales --groups 1 --checkpointing --compute bfloat16
    python scripts/benchmark_stable_diffusion_memory.py --device cuda --output results/stable_diffusion_memory

Every row is a process of its own: on CPU its peak resident set size, on CUDA the allocator's peak. W4A8, the preset of
UNets with text (pcr), no guidance; activation ranges are not searched, which changes neither memory nor time. `learn`:
activation scales alone, or the rounding of weights too, with Adam's moments, for which there is one update before the
measured iteration. The seconds are of the measured iteration alone.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
from pathlib import Path

SD = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}
LEARN = ("scales", "scales and rounding")


def random_unet(options: dict, device):
    from accelerate import init_empty_weights
    from diffusers import UNet2DConditionModel

    small = {"block_out_channels": (32, 64, 64, 64), "norm_num_groups": 8} if options["small"] else {}
    with init_empty_weights(include_buffers=False):
        unet = UNet2DConditionModel(**SD | small)
    unet.to_empty(device="cpu")
    for parameter in unet.parameters():
        parameter.requires_grad_(False)
        parameter.normal_(0, 0.02) if parameter.ndim > 1 else parameter.fill_(1.0)
    if options["checkpointing"]:
        unet.enable_gradient_checkpointing()
    return unet.to(device).eval()


def learnable(unet, group_size: int, options: dict):
    """The quantized network, its optimizer and its learned roundings."""
    import torch

    from quantlab.config import option_section
    from quantlab.methods.ptq.quantized_denoiser import QuantizedDenoiser
    from quantlab.quantizers.calibration import calibrate_weights, grouped_activations
    from quantlab.quantizers.rounding import learn_rounding

    narrow = options["compute"] == "bfloat16"

    def call(network, condition):
        def called(x, t):
            with torch.autocast(x.device.type, torch.bfloat16, enabled=narrow):
                return network(x, t, return_dict=False, **condition)[0].float()

        return called

    section = option_section("quantizer", "uniform_affine", {"weight": {"scale_search": "min_max"}})
    quantized = QuantizedDenoiser(unet, section, 50, 50, call)
    calibrate_weights(quantized.unet)
    scales = []
    for quantizer in grouped_activations(quantized.unet):
        for scale in quantizer.log_scale:
            scale.data.fill_(-3.0)
            scales.append(scale.requires_grad_(True))
        quantizer.zero_point.fill_(128)
    learned = scales
    weights = []
    if options["learn"] == LEARN[1]:
        weights = learn_rounding(quantized.unet, section.zeta, section.gamma, straight_through=True)
        learned = [*scales, *(weight.rounding for weight in weights)]
    quantized.drop_float_weights()
    return quantized, torch.optim.Adam(learned, lr=1e-3), weights


def measure(group_size: int, options: dict) -> dict:
    import torch
    from benchmark_accuquant_memory import resident

    from quantlab.config.models.diffusers_denoiser import Sampler
    from quantlab.diffusion.rollout import network_step
    from quantlab.diffusion.samplers import State, build_sampler
    from quantlab.methods.accuquant import copied_gradient
    from quantlab.models.pipelines.networks import release
    from quantlab.quantizers.rounding import held_weights

    torch.set_num_threads(options["threads"])
    torch.manual_seed(0)
    device = torch.device(options["device"])
    unet = random_unet(options, device)
    quantized, optimizer, weights = learnable(unet, group_size, options)
    release(unet)
    alphas = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
    section = Sampler(name="ddim", steps=50, eta=0.0, spacing="uniform", shift=1.0, clip_sample=False)
    sampler = build_sampler(alphas, section)
    x = torch.randn(1, 4, 64, 64, device=device)
    network = quantized.network({"encoder_hidden_states": torch.randn(1, 77, 768, device=device)})

    def iteration() -> float:
        started = time.perf_counter()
        with held_weights(weights):
            copied_gradient(
                lambda i, state: network_step(network, sampler, i, state),
                list(range(group_size)),
                State(x),
                lambda end: end.square().mean(),
            )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - started

    if weights:  # Adam's moments are there from the first update on
        for one in (weight.rounding for weight in weights):
            one.grad = torch.zeros_like(one)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    seconds = iteration()
    facts = {"learn": options["learn"], "compute": options["compute"], "checkpointing": options["checkpointing"]}
    peak = resident(device, peak=True)
    return facts | {"group_size": group_size, "peak_GiB": round(peak / 2**30, 2), "seconds": round(seconds, 1)}


def in_process_of_its_own(*arguments) -> dict:
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"  # read by glibc when the new process starts
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, arguments)


def table(rows: list[dict]) -> str:
    names = list(rows[0])
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(str(row[name]) for name in names)} |" for row in rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--learn", nargs="+", default=list(LEARN), choices=LEARN)
    parser.add_argument("--groups", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--compute", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--small", action="store_true", help="a network of a few million weights, to try the script")
    parser.add_argument("--output", type=Path, help="write OUTPUT.md and OUTPUT.json")
    options = vars(parser.parse_args())
    output, groups, learn = options.pop("output"), options.pop("groups"), options.pop("learn")
    rows = []
    for what in learn:
        for group_size in groups:
            rows.append(in_process_of_its_own(group_size, options | {"learn": what}))
            print(rows[-1], file=sys.stderr, flush=True)
    print(table(rows))
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        command = " ".join(["scripts/benchmark_stable_diffusion_memory.py", *sys.argv[1:]])
        output.with_suffix(".md").write_text(f"Made by `python {command}`, one run.\n\n{table(rows)}\n")
        output.with_suffix(".json").write_text(json.dumps({"options": options, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
