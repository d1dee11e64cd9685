"""Ground truth where no benchmark provides it: a sample of subnets, each trained alone with the model's own recipe and
cached.
"""

import logging

import numpy as np

from quantlab.methods.base import RunContext
from quantlab.search.spaces import SearchSpace
from quantlab.search.truth import TruthTable

logger = logging.getLogger("quantlab")


def different_subnets(space: SearchSpace, count: int, rng: np.random.Generator) -> list[int]:
    """Indices of `count` random subnets that compute different functions, ascending; fewer if a hundred draws in a row
    give nothing new.
    """
    found: dict[tuple[int, ...], int] = {}
    misses = 0
    while len(found) < count and misses < 100:
        subnet = space.sample(rng)
        misses = misses + 1 if space.canonical(subnet) in found else 0
        found.setdefault(space.canonical(subnet), space.index(subnet))
    return sorted(found.values())


def train_alone(context: RunContext, space: SearchSpace, indices: list[int], steps: int) -> TruthTable:
    """Test accuracy (percent, named after the task) of each subnet after `steps` steps of the recipe `model.pretrain`,
    from its seed.
    """
    top1 = []
    for done, index in enumerate(indices, 1):
        section = context.config.model
        section = section.model_copy(
            update={
                "weights": None,
                "subnet": space.encode(space.subnet(index)),
                "pretrain": section.pretrain.model_copy(update={"steps": steps}),
            }
        )
        top1.append(context.task.evaluate(context.trained(section), "test", context.device)["top1"])
        logger.info("trained alone: %d of %d, %s: %.2f %%", done, len(indices), section.subnet, top1[-1])
    return TruthTable(np.array(indices), {context.task.name: np.array(top1)})
