"""The cost of training quantized networks: training steps of every side, alternating in one run.

    pip install -e '.[benchmark]'
    python scripts/benchmark_training_cost.py     # a table on stdout, ten minutes on one core

ResNet-20 on 32x32 images, batch 128. Each round times some steps (forward, backward, update) of every side; the table
gives the median over rounds, and the median ratio to full precision within a round, which is robust against other load.
Bookkeeping of transition rates is the time of SGDT's update, including transition counts, beyond SGD's update. G:
low-bit training with quantized gradients and the interval of large gradients.
"""

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from quantlab.config import instantiate, option_section
from quantlab.models.resnet_cifar import CifarResNet
from quantlab.optim import SGDT
from quantlab.optim.oscillation import TransitionTracker
from quantlab.optional import problem_of
from quantlab.quantizers.calibration import calibrate_activations, calibrate_weights
from quantlab.quantizers.gradient import calibrate_gradients, gradient_quantizers, update_intervals
from quantlab.quantizers.insert import insert, quantizer_parameters, weight_quantized_layers

Step = Callable[[], float]  # runs one training step; returns the seconds of its update


def network() -> CifarResNet:
    torch.manual_seed(0)
    return CifarResNet(channels=3, classes=10, depth=20, width=16, final_batch_norm=True).train()


def quantized(
    bits: int, batch: dict, quantizer: str = "fixed_point", gradient_bits: int = 32, learn_weight_scale: bool = True
) -> CifarResNet:
    end = {"weight_bits": 32, "activation_bits": 32}
    bits_of = {"weight": {"bits": bits}, "activation": {"bits": bits}, "gradient": {"bits": gradient_bits}}
    section = option_section("quantizer", quantizer, {**bits_of, "first_layer": end, "last_layer": end})
    model = network()
    insert(model, instantiate(section, learn_weight_scale=learn_weight_scale))
    calibrate_weights(model)
    calibrate_activations(model, lambda: model(batch["image"]))
    calibrate_gradients(model, lambda: model.training_loss(batch))
    return model


def in_brevitas(bits: int) -> nn.Module:
    """The same network with Brevitas's layers: integer weights and unsigned activations per tensor, learned scales."""
    import brevitas.nn as qnn
    from brevitas.quant import Int8WeightPerTensorFloat, Uint8ActPerTensorFloat

    model = network()
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d) and name != "conv1":
            layer = qnn.QuantConv2d(
                module.in_channels,
                module.out_channels,
                module.kernel_size,
                stride=module.stride,
                padding=module.padding,
                bias=False,
                weight_quant=Int8WeightPerTensorFloat,
                weight_bit_width=bits,
                input_quant=Uint8ActPerTensorFloat,
                input_bit_width=bits,
            )
            layer.weight.data.copy_(module.weight)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, layer)
    return model


def compiled(trained: nn.Module, compile_it: bool) -> nn.Module:
    # dynamic=False: otherwise sides compiled in one process would make each other's sizes symbolic, and code slower
    return torch.compile(trained, dynamic=False) if compile_it else trained


def step_of(model: nn.Module, batch: dict, update: Callable[[], None], zero: Callable[[], None]) -> Step:
    def step() -> float:
        model(batch["image"], batch["label"]).backward()
        started = time.perf_counter()
        update()
        seconds = time.perf_counter() - started
        zero()
        return seconds

    return step


class WithLoss(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(self.model(images), labels)


def with_sgd(model: nn.Module, batch: dict, compile_it: bool = False) -> Step:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    trained = WithLoss(model)
    return step_of(compiled(trained, compile_it), batch, optimizer.step, optimizer.zero_grad)


def with_low_bit(model: nn.Module, batch: dict, compile_it: bool = False) -> Step:
    scales = quantizer_parameters(model)
    apart = {id(parameter) for parameter in scales}
    optimizers = [
        torch.optim.SGD(
            [p for p in model.parameters() if id(p) not in apart], lr=0.01, momentum=0.9, weight_decay=1e-4
        ),
        torch.optim.Adam(scales, lr=1e-5),
    ]
    trained = WithLoss(model)

    def update() -> None:
        for optimizer in optimizers:
            optimizer.step()
        update_intervals(gradient_quantizers(model).values())

    def zero() -> None:
        for optimizer in optimizers:
            optimizer.zero_grad()

    return step_of(compiled(trained, compile_it), batch, update, zero)


def with_sgdt(model: nn.Module, batch: dict) -> Step:
    layers = weight_quantized_layers(model)
    latent = [layer.weight for layer in layers.values()]
    discretize = [layer.weight_quantizer.discrete for layer in layers.values()]
    chosen = {id(weight) for weight in latent}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
    optimizer = SGDT(
        [{"params": latent, "discretize": discretize, "lr": 5e-3}, {"params": others}],
        lr=0.01,
        momentum=0.9,
        weight_decay=1e-4,
    )
    trackers = [TransitionTracker(layer.weight_quantizer.discrete, layer.weight) for layer in layers.values()]

    def update() -> None:
        optimizer.step()
        for tracker, weight in zip(trackers, latent):
            tracker.update(weight)

    return step_of(WithLoss(model), batch, update, optimizer.zero_grad)


def measure(sides: dict[str, Step], rounds: int, steps: int) -> dict[str, list[tuple[float, float]]]:
    """Per side and round, the seconds of one step and of its update."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for step in sides.values():
        for _ in range(3):  # compilation, memory, statistics
            step()
    for number in range(rounds):
        for name, step in sides.items():
            started = time.perf_counter()
            update = sum(step() for _ in range(steps))
            times[name].append(((time.perf_counter() - started) / steps, update / steps))
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return times


def table(times: dict[str, list[tuple[float, float]]], bits: int) -> str:
    def ratio(side: str, base: str) -> float:
        return statistics.median(a / b for (a, _), (b, _) in zip(times[side], times[base], strict=True))

    lines = ["| training step | milliseconds | against |", "|---|---|---|"]
    for name, values in times.items():
        base = "full precision, compiled" if "compiled" in name else "full precision"
        against = "" if name == base else f"{ratio(name, base):.2f} x {base}"
        lines.append(f"| {name} | {1000 * statistics.median(step for step, _ in values):.1f} | {against} |")
    plain, scheduled = times[f"W{bits}A{bits}, SGD"], times[f"W{bits}A{bits}, SGDT"]
    extra = statistics.median((b - a) / step for (step, a), (_, b) in zip(plain, scheduled, strict=True))
    lines += [
        "",
        (
            f"Bookkeeping of transition rates (update of SGDT and its counts, beyond SGD's): {100 * extra:.2f} % of the"
            " step."
        ),
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=4, help="of a side per round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-compile", action="store_true", help="leave out the compiled sides")
    parser.add_argument(
        "--no-brevitas", action="store_true", help="leave out Brevitas, which pip install -e '.[benchmark]' brings"
    )
    parser.add_argument("--output", type=Path, help="also write FILE.md")
    options = parser.parse_args()
    if not options.no_brevitas and (problem := problem_of("brevitas", "benchmark", "the side in Brevitas")):
        print(f"benchmark_training_cost: error: {problem}, or --no-brevitas", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    bits = options.bits
    torch.manual_seed(1)
    batch = {"image": torch.randn(options.batch, 3, 32, 32), "label": torch.randint(0, 10, (options.batch,))}

    def low_bit() -> CifarResNet:
        return quantized(bits, batch, "learned_clipping", gradient_bits=bits)

    sides = {
        "full precision": with_sgd(network(), batch),
        f"W{bits}A{bits}, SGD": with_sgd(quantized(bits, batch), batch),
        f"W{bits}A{bits}, SGDT": with_sgdt(quantized(bits, batch, learn_weight_scale=False), batch),
        f"W{bits}A{bits}G{bits}, SGD": with_low_bit(low_bit(), batch),
    }
    if not options.no_brevitas:
        sides[f"W{bits}A{bits} in Brevitas, SGD"] = with_sgd(in_brevitas(bits), batch)
    if not options.no_compile:
        sides["full precision, compiled"] = with_sgd(network(), batch, compile_it=True)
        sides[f"W{bits}A{bits}, SGD, compiled"] = with_sgd(quantized(bits, batch), batch, compile_it=True)
        sides[f"W{bits}A{bits}G{bits}, SGD, compiled"] = with_low_bit(low_bit(), batch, compile_it=True)
    text = (
        "# Cost of training quantized networks\n\n`python scripts/benchmark_training_cost.py"
        f" {' '.join(sys.argv[1:])}`: ResNet-20, batch {options.batch}, {options.rounds} rounds of {options.steps}"
        f" steps, {options.threads} thread(s), {platform.machine()}, {os.cpu_count()} cores, torch"
        f" {torch.__version__}.\n\n{table(measure(sides, options.rounds, options.steps), bits)}\n"
    )
    print(text)
    if options.output:
        options.output.with_suffix(".md").write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
