"""One of two processes that train a network with quantized gradients by a custom script, each on different data. Each
writes its clip ratios, after calibration and after every update, to STORErank.json.
"""

import json

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from quantlab.quantizers.gradient import GradientQuantizer, calibrate_gradients, update_intervals
from quantlab.quantizers.gradient_interval import DSGC, LargeGradient


def train(rank: int, store: str) -> int:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.manual_seed(rank)  # also the weights: DDP makes them equal
    learning, chosen = GradientQuantizer(4, LargeGradient(alpha=0.2)), GradientQuantizer(4, DSGC(1, 1e-3))
    network, batch = (
        nn.Sequential(nn.Linear(6, 8), learning, nn.ReLU(), nn.Linear(8, 4), chosen),
        torch.randn(16, 6) ** 3,
    )
    parallel = DistributedDataParallel(network)
    optimizer, seen = torch.optim.SGD(network.parameters(), lr=0.05), []

    def record() -> None:
        seen.append(
            [learning.interval.clip_ratio.item(), chosen.interval.clip_ratio.item(), chosen.interval.deviation.item()]
        )

    calibrate_gradients(network, lambda: parallel(batch).square().mean())
    record()
    for step in range(5):
        chosen.choosing = step % 2 == 0
        for _ in range(2):  # micro-batches; DDP copies buffers before each
            parallel(batch).square().mean().backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        counts = learning.interval.tally.grad.clone()
        dist.all_reduce(counts)
        elements, clipped = counts.tolist()
        assert elements == 2 * 2 * 16 * 8
        update_intervals([learning, chosen])
        record()
        direction = (clipped > elements * 0.2 / 15) - (clipped < elements * 0.2 / 15)
        assert abs(seen[-1][0] - min(max(seen[-2][0] + 1e-3 * direction, 1e-3), 1)) < 1e-6
    with open(f"{store}{rank}.json", "w") as file:
        json.dump(seen, file)
    dist.destroy_process_group()
    return 0
