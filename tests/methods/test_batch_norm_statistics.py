"""Re-estimated statistics are the plain mean of the batches' own, and nothing else is in training mode meanwhile."""

import torch
from torch import nn

from quantlab.methods.batch_norm_statistics import batch_norms, reestimate


def test_statistics_are_the_plain_mean_over_batches():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Dropout(0.9), nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm1d(3, track_running_stats=False)
    ).train()
    seen = []
    model[1].register_forward_hook(lambda module, inputs, out: seen.append(out))
    batches = [torch.randn(size, 2, 4, 4) for size in (8, 8, 3)]
    before = model[2].weight.clone()
    reestimate(model, batches, lambda x: model[:3](x))
    mean, variance = (
        torch.stack(values).mean(0) for values in zip(*((out.mean((0, 2, 3)), out.var((0, 2, 3))) for out in seen))
    )
    torch.testing.assert_close(model[2].running_mean, mean)
    torch.testing.assert_close(model[2].running_var, variance)
    assert torch.equal(seen[0], model[1](batches[0]))  # no dropout
    assert batch_norms(model) == [model[2]] and model[2].momentum == 0.1
    assert not any(module.training for module in model.modules()) and torch.equal(model[2].weight, before)
