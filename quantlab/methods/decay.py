"""How learning rates and transition targets fall over the training of a quantized network."""

import math
from typing import Any

FEWEST_EPOCHS = 10  # for a schedule by epochs: then a cosine's last epoch has at most 2.5 % of the rate


def decay_factor(section: Any, step: int, total: int, steps_per_epoch: int) -> float:
    """What targets and learning rates are multiplied by at `step` of `total`: cosine to zero, steps, or constant 1.

    With decay_every=epoch it changes between epochs only, and the cosine ends one epoch above zero, as torch's
    schedulers do. Our
    choice: a run of fewer than `FEWEST_EPOCHS` changes at every step all the same; otherwise its last epoch would still
    have a large rate, and a run below one epoch would never decay.
    """
    by_epoch = section.decay_every == "epoch" and total >= FEWEST_EPOCHS * steps_per_epoch
    unit = steps_per_epoch if by_epoch else 1
    progress = step // unit * unit / total
    if section.decay == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if section.decay == "step":
        return section.decay_factor ** sum(progress >= milestone for milestone in section.milestones)
    return 1.0
