"""Peak memory and cost of AccuQuant's three gradients against the group size, measured in one run.

    python scripts/benchmark_accuquant_memory.py                      # a table on stdout, five minutes on two cores
    python scripts/benchmark_accuquant_memory.py --device cuda --batch 32 --output results/accuquant_memory

On CPU every measurement runs in its own process (peak resident set size, with malloc configured to return freed blocks
at once); on CUDA it is the allocator's peak. `growth` is the peak over that of the same gradient at the smallest group.
`forwards per step` is the time of one iteration over (M x the time of one forward pass of the quantized network without
a graph). `copy, all graphs` is copy with the graphs of all steps of the group kept (`method.keep_graphs`).
"""

import argparse
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from own_process import in_process_of_its_own, write_rows


def learnable_denoiser(group_size: int, options: dict, device):
    """A calibrated W4A8 UNet whose rounding and activation scales are learned, and its sampler."""
    import torch
    from diffusers.models.unets.unet_2d import UNet2DModel

    from quantlab.config import option_section
    from quantlab.diffusion.samplers import State, build_sampler
    from quantlab.methods.ptq.quantized_denoiser import QuantizedDenoiser
    from quantlab.quantizers.calibration import grouped_activations
    from quantlab.quantizers.rounding import learn_rounding

    size, channels = options["size"], options["channels"]
    unet = (
        UNet2DModel(
            sample_size=size,
            in_channels=3,
            out_channels=3,
            block_out_channels=(channels, 2 * channels),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
        )
        .to(device)
        .eval()
        .requires_grad_(False)
    )
    alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    sampler = build_sampler(
        alphas, SimpleNamespace(name="ddim", steps=20, eta=0.0, spacing="uniform", clip_sample=False)
    )
    end, search = {"weight_bits": 4, "activation_bits": 8}, {"scale_search": "min_max"}
    section = option_section(
        "quantizer",
        "uniform_affine",
        {"weight": {**search, "rounding": "adaround"}, "activation": search, "first_layer": end, "last_layer": end},
    )
    quantized = QuantizedDenoiser(unet, section, len(sampler), group_size)
    states = torch.randn(21, 1, 3, size, size)
    walks = SimpleNamespace(
        sampler=sampler,
        condition_of=lambda rows, device: {},
        state=lambda i, rows: State(states[i, rows]),
        batches=lambda count, size: [slice(count)],
    )
    quantized.calibrate(walks, lambda conditional: conditional, 1, 1, device)
    learn_rounding(quantized.unet, section.zeta, section.gamma, straight_through=False)
    quantized.drop_float_weights()
    for quantizer in grouped_activations(quantized.unet):
        for scale in quantizer.log_scale:
            scale.requires_grad_(True)
    return quantized, sampler


ROWS = {  # name: gradient, and how many steps' graphs are kept of how many; None: all
    "copy": ("copy", 1),
    "copy, all graphs": ("copy", None),
    "exact": ("exact", 1),
    "bptt": ("bptt", 1),
}


def measure(row: str, group_size: int, options: dict) -> dict:
    """One iteration's peak memory (bytes, beyond the model's) and time (seconds), in this process."""
    import torch

    from quantlab.devices import begin_peak, memory_in_use, peak_memory
    from quantlab.diffusion.rollout import network_step
    from quantlab.diffusion.samplers import State
    from quantlab.methods.accuquant import GRADIENTS
    from quantlab.quantizers.rounding import held_weights, learned_roundings

    torch.manual_seed(0)
    device = torch.device(options["device"])
    quantized, sampler = learnable_denoiser(group_size, options, device)
    weights = learned_roundings(quantized.unet)
    x = torch.randn(options["batch"], 3, options["size"], options["size"], device=device)

    def step(i, state):
        return network_step(quantized.network({}), sampler, i, state)

    def seconds(function) -> float:
        started = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    gradient, kept = ROWS[row]

    def iteration():
        with held_weights(weights):
            GRADIENTS[gradient](
                step,
                list(range(group_size)),
                State(x),
                lambda end: end.square().mean(),
                sampler.memory_weights,
                kept or group_size,
            )

    def forwards():
        with torch.no_grad(), held_weights(weights):
            state = State(x)
            for i in range(group_size):
                state = step(i, state)

    begin_peak(device)
    before = memory_in_use(device)
    whole = seconds(iteration)
    peak = peak_memory(device) - before
    whole = min([whole, *(seconds(iteration) for _ in range(options["repeats"]))])
    forward = min(seconds(forwards) for _ in range(options["repeats"] + 1))
    return {
        "gradient": row,
        "group_size": group_size,
        "peak_bytes": peak,
        "seconds": whole,
        "forwards_per_step": whole / forward,
    }


def table(rows: list[dict]) -> str:
    lines = ["| gradient | M | peak MiB | growth | s per iteration | forwards per step |", "|---|---|---|---|---|---|"]
    smallest = {}
    for row in rows:
        first = smallest.setdefault(row["gradient"], row["peak_bytes"])
        lines.append(
            f"| {row['gradient']} | {row['group_size']} | {row['peak_bytes'] / 2**20:.0f} | "
            f"{row['peak_bytes'] / first:.2f} | {row['seconds']:.2f} | {row['forwards_per_step']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=32, help="pixels")
    parser.add_argument("--channels", type=int, default=64, help="of the first resolution; twice as many of the second")
    parser.add_argument("--groups", type=int, nargs="+", default=[1, 5, 20])
    parser.add_argument("--repeats", type=int, default=2, help="timed iterations after the first; the fastest counts")
    parser.add_argument("--output", type=Path, help="write OUTPUT.md and OUTPUT.json")
    options = vars(parser.parse_args())
    output, groups = options.pop("output"), options.pop("groups")
    rows = []
    for row in ROWS:
        for group_size in groups:
            rows.append(in_process_of_its_own(measure, row, group_size, options))
            print(f"{row}, M={group_size}: {rows[-1]['peak_bytes'] / 2**20:.0f} MiB", file=sys.stderr)
    print(table(rows))
    if output:
        write_rows(output, "benchmark_accuquant_memory.py", table(rows), options, rows)


if __name__ == "__main__":
    main()
