"""Peak memory and time of one iteration of AccuQuant (`copy`) on the UNets of Stable Diffusion 1.x (859.5 million
random weights, 64x64 latents) and SDXL (2,567 million, 128x128), batch 1; beside it block reconstruction.

    python scripts/benchmark_stable_diffusion_memory.py                                  # a table on stdout
    python scripts/benchmark_stable_diffusion_memory.py --learn scales --groups 1 --checkpointing --compute bfloat16
    python scripts/benchmark_stable_diffusion_memory.py --device cuda --network sdxl --groups 1 5 10

On CPU every row is a process of its own and its peak resident set size, on CUDA the allocator's peak. W4A8, the preset
of UNets with text (pcr), no guidance; activation ranges are not searched, which changes neither memory nor time.
`growth`: of the peak, over that of the first group size. `learn`: activation scales alone, or the rounding of weights
too, with Adam's moments, for which there is one update before the measured iteration; both beside a copy with the
calibrated ranges, as in a run. `block`: one iteration of each unit, with the full-precision network beside the
quantized one. The seconds are of the measured iteration alone, on CUDA of the fastest of three.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from own_process import GIB, columns_table, in_process_of_its_own, never_above, write_rows
from stable_diffusion_unets import NETWORKS, condition_of, config_of, random_unet

SCALES, ROUNDING, BLOCK = LEARN = ("scales", "scales and rounding", "block")


def caller(narrow: bool):
    """How a network is called, as `Denoiser.call`."""
    import torch

    def call(network, condition):
        def called(x, t):
            with torch.autocast(x.device.type, torch.bfloat16, enabled=narrow):
                return network(x, t, return_dict=False, **condition)[0].float()

        return called

    return call


def learnable(unet, options: dict, device):
    """The quantized network, its optimizer and its learned roundings."""
    import torch

    from quantlab.config import option_section
    from quantlab.methods.ptq.quantized_denoiser import QuantizedDenoiser
    from quantlab.quantizers.calibration import calibrate_weights, grouped_activations
    from quantlab.quantizers.rounding import learn_rounding

    section = option_section("quantizer", "uniform_affine", {"weight": {"scale_search": "min_max"}})
    quantized = QuantizedDenoiser(unet, section, 50, 50, caller(options["compute"] == "bfloat16"))
    calibrate_weights(quantized.unet)
    scales = []
    for quantizer in grouped_activations(quantized.unet):
        for scale in quantizer.log_scale:
            scale.data.fill_(-3.0)
            scales.append(scale.requires_grad_(True))
        quantizer.zero_point.fill_(128)
    quantized.ranges_only = quantized.snapshot()
    learned, weights = scales, []
    if options["learn"] != SCALES:
        weights = learn_rounding(quantized.unet, section.zeta, section.gamma, straight_through=True)
        learned = [*scales, *(weight.rounding for weight in weights)]
    quantized.drop_float_weights()
    return quantized, torch.optim.Adam(learned, lr=1e-3, fused=device.type == "cuda" or None), weights


def ddim(steps: int):
    import torch

    from quantlab.config.models.diffusers_denoiser import Sampler
    from quantlab.diffusion.samplers import build_sampler

    alphas = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
    section = Sampler(name="ddim", steps=steps, eta=0.0, spacing="uniform", shift=1.0, clip_sample=False)
    return build_sampler(alphas, section)


def group_iteration(quantized, weights, condition: dict, x, group_size: int) -> None:
    from quantlab.diffusion.rollout import network_step
    from quantlab.diffusion.samplers import State
    from quantlab.methods.accuquant import copied_gradient
    from quantlab.quantizers.rounding import held_weights

    network, sampler = quantized.network(condition), ddim(50)
    with held_weights(weights):
        copied_gradient(
            lambda i, state: network_step(network, sampler, i, state),
            list(range(group_size)),
            State(x),
            lambda end: end.square().mean(),
        )


def block_iteration(quantized, unet, weights, condition: dict, x, update: Callable[[], None]) -> float:
    """One iteration of every unit, each on inputs that are collected anew; the seconds without collecting."""
    import torch

    from quantlab.diffusion.denoiser import network_of
    from quantlab.diffusion.samplers import State
    from quantlab.methods.ptq.block import Block, forward_order

    exact, group, seconds = network_of(unet, quantized.call), range(1), 0.0
    walks = SimpleNamespace(
        state=lambda i, rows: State(x.cpu()[rows]),
        condition_of=lambda rows, device: condition,
        batches=lambda count, size: [slice(count)],
    )
    method = SimpleNamespace(
        quantized=quantized,
        weights=weights,
        sampler=ddim(50),
        groups=[group],
        dataset=SimpleNamespace(trajectories=walks),
        section=SimpleNamespace(calibration=SimpleNamespace(range_samples=1), batch_size=1, group_size=50),
        context=SimpleNamespace(
            device=x.device,
            model=SimpleNamespace(unet=unet, unguided=lambda: exact, release=lambda: None),
            task=SimpleNamespace(evaluation=SimpleNamespace(batch_size=1)),
        ),
        scaler=torch.amp.GradScaler(x.device.type, enabled=False),
        network_evaluations=0.0,
        shared=lambda rows: rows,
        regularize=lambda weights: {},
    )
    names = forward_order(unet, lambda: exact(condition)(x, 0, 0))
    for number in range(len(names)):
        block = Block(method, names, number, 0.0)
        block.start()
        started = now(x.device)
        with torch.enable_grad():
            block.gradients({"steps": group})
        update()
        seconds += now(x.device) - started
        block.end()
    return seconds


def now(device) -> float:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def measure(groups: list[int], options: dict) -> list[dict]:
    """A row for each group size; of block reconstruction one alone."""
    import torch

    from quantlab.devices import begin_peak, peak_memory
    from quantlab.models.pipelines.networks import move

    device = torch.device(options["device"])
    facts = {name: options[name] for name in ("network", "learn", "compute", "checkpointing")}
    never_above(options["limit"])
    try:
        torch.set_num_threads(options["threads"] or torch.get_num_threads())
        torch.manual_seed(0)
        unet = random_unet(options, device)
        quantized, optimizer, weights = learnable(unet, options, device)
        if options["learn"] != BLOCK:
            move(unet, "meta")
        side = config_of(options)["sample_size"]
        x, condition = torch.randn(1, 4, side, side, device=device), condition_of(options, device)

        def update() -> None:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        def iteration(group_size: int) -> float:
            started = now(device)
            if options["learn"] == BLOCK:
                return block_iteration(quantized, unet, weights, condition, x, update)
            group_iteration(quantized, weights, condition, x, group_size)
            update()
            return now(device) - started

        if options["learn"] == ROUNDING:  # Adam's moments are there from the first update on
            for one in (weight.rounding for weight in weights):
                one.grad = torch.zeros_like(one)
            update()
    except torch.OutOfMemoryError:
        return [facts | {"M": one, "peak GiB": "out of memory", "seconds": ""} for one in groups]
    rows = []
    for group_size in groups:
        begin_peak(device)
        try:
            seconds = min(iteration(group_size) for _ in range(3 if device.type == "cuda" else 1))
            found = {"peak GiB": round(peak_memory(device) / GIB, 2), "seconds": round(seconds, 3)}
        except torch.OutOfMemoryError:
            found = {"peak GiB": "out of memory", "seconds": ""}
            torch.cuda.empty_cache()
        rows.append(facts | {"M": "" if options["learn"] == BLOCK else group_size} | found)
    return rows


def rows_of(groups: list[int], options: dict, apart: bool = True) -> list[dict]:
    """`measure`, in processes of their own where they are to be apart; on a CPU one for each group size."""
    if options["learn"] == BLOCK:
        groups = groups[:1]
    parts = [groups] if options["device"] == "cuda" else [[one] for one in groups]
    rows = []
    for part in parts:
        try:
            rows += in_process_of_its_own(measure, part, options) if apart else measure(part, options)
        except MemoryError as error:
            rows.append(
                {"network": options["network"], "learn": options["learn"], "M": part[0], "peak GiB": str(error)}
            )
        print(*rows[-len(part) :], sep="\n", file=sys.stderr, flush=True)
    first = rows[0]["peak GiB"]
    for row in rows[1:]:
        if isinstance(first, float) and isinstance(row["peak GiB"], float):
            row["growth"] = f"{row['peak GiB'] / first - 1:+.1%}"
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--network", default="sd14", choices=list(NETWORKS))
    parser.add_argument("--learn", nargs="+", default=list(LEARN[:2]), choices=LEARN)
    parser.add_argument("--groups", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--compute", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    parser.add_argument("--threads", type=int, help="torch's own number unless given")
    parser.add_argument("--limit", type=float, help="GiB of main memory above which the process of a row is ended")
    parser.add_argument("--small", action="store_true", help="a network of a few thousand weights, to try the script")
    parser.add_argument("--output", type=Path, help="write OUTPUT.md and OUTPUT.json")
    options = vars(parser.parse_args())
    output, groups, learn = options.pop("output"), options.pop("groups"), options.pop("learn")
    rows: list[dict] = []
    for what in learn:
        rows += rows_of(groups, options | {"learn": what})
        if output:  # what there is, should the next not fit
            write_rows(output, "benchmark_stable_diffusion_memory.py", columns_table(rows), options, rows)
    print(columns_table(rows))


if __name__ == "__main__":
    main()
