"""How the jobs of a sweep are carried out beside Hydra's own launchers: on this machine, on a SLURM or a Ray cluster.

A job is a file (`job_file`) that any process on a shared file system can carry out; how it ended is read from its run's
directory. So a job that raises, dies or is killed takes no other with it, and the same command goes on.
"""

import importlib
import shutil
from collections.abc import Iterator

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from quantlab.config.launchers import NEEDS, NODES, node_problems
from quantlab.optional import problem_of


def launcher_of(context: HydraContext, task: TaskFunction, config: DictConfig) -> Launcher:
    """The launcher that `hydra.launcher` of a checked config names: ours, Hydra's, or of an installed plugin."""
    node = config.hydra.launcher
    if node._target_ not in NODES:
        return Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=config)
    module, name = node._target_.rsplit(".", 1)
    launcher = getattr(importlib.import_module(module), name)(**OmegaConf.to_container(node, resolve=True))
    launcher.setup(hydra_context=context, task_function=task, config=config)
    return launcher


def launch_problems(config: DictConfig) -> Iterator[str]:
    """What is wrong with how the jobs of a sweep are to be started, a line each."""
    for node in ("launcher", "sweeper"):
        if not OmegaConf.is_dict(config.hydra[node]):
            got = "null" if config.hydra[node] is None else config.hydra[node]
            yield f"hydra.{node}: got {got}, allowed: a mapping; type hydra/{node}=basic"
            continue
        plain = OmegaConf.to_container(config.hydra[node], resolve=True)
        yield from node_problems(f"hydra.{node}", plain)
        package, extra = NEEDS.get(plain.get("_target_"), ("", ""))
        option = config.hydra.runtime.choices[f"hydra/{node}"]
        if package and (problem := problem_of(package, extra, f"hydra/{node}={option}")):
            yield problem
        if plain.get("cluster") == "slurm" and shutil.which("sbatch") is None:
            yield (
                "hydra/launcher=slurm: there is no SLURM here (no command sbatch); start it where there is, or type "
                "hydra.launcher.cluster=local"
            )
