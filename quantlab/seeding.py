"""torch's random numbers from a few integers."""

import numpy as np
import torch


def seed_everything(*seed: int) -> None:
    """Seed torch's generators (all devices) from the integers given, well mixed."""
    torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1))
