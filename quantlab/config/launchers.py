"""What conf/hydra/launcher/*.yaml and conf/hydra/sweeper/*.yaml may hold. The values' meaning is said there."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from quantlab.config.fields import Count, CountFromZero, Name, OrNull, Positive, Seed, Strict, Text, says
from quantlab.config.validation import problem_lines

PLACE = "quantlab.cli.launchers."
Gpus = Annotated[
    list[Annotated[int, Field(ge=0, le=1023)]], Field(min_length=1), says("a list of the numbers of GPUs", "[0,1]")
]
Share = Annotated[float | int, Field(ge=0, le=1024), says("a number from 0 to 1024", 1)]
Lines = Annotated[list[str], says("a list of shell lines", "['module load cuda']")]
Options = Annotated[dict[str, str | int | float | bool], says("a mapping", "{constraint: a100}")]
PrunerOptions = Annotated[
    dict[str, str | int | float | bool], says("a mapping of Optuna's arguments", "{n_startup_trials: 5}")
]
Amounts = Annotated[dict[str, float | int], says("a mapping of amounts", "{tpu: 1}")]


class Node(Strict):
    """A node of Hydra's that is ours."""

    target: Text = Field(alias="_target_")


class Processes(Node):
    workers: OrNull[Count]
    threads: OrNull[Count]
    gpus: OrNull[Gpus]


class Slurm(Node):
    cluster: Literal["slurm", "local"]
    workers: OrNull[Count]
    partition: OrNull[Name]
    account: OrNull[Name]
    qos: OrNull[Name]
    minutes: Count
    requeues: CountFromZero
    cpus: Count
    gpus: CountFromZero
    memory_gb: OrNull[Positive]
    setup: Lines
    python: OrNull[Name]
    options: OrNull[Options]


class Ray(Node):
    address: OrNull[Name]
    workers: OrNull[Count]
    cpus: Share
    gpus: Share
    memory_gb: OrNull[Positive]
    resources: OrNull[Amounts]


class Optuna(Node):
    trials: Count
    workers: Count
    metric: OrNull[Name]
    direction: Literal["minimize", "maximize"] | None
    sampler: Literal["tpe", "random", "qmc", "gp"]
    pruner: Literal["none", "median", "halving", "hyperband"]
    pruner_options: OrNull[PrunerOptions]
    seed: Seed
    storage: OrNull[Name]
    study: Name


SEARCH = "quantlab.cli.search.search"
NODES: dict[str, type[Node]] = {
    f"{PLACE}processes.Processes": Processes,
    f"{PLACE}slurm.Slurm": Slurm,
    f"{PLACE}ray.Ray": Ray,
    SEARCH: Optuna,
}
# by target: the package, and the extra that brings it
NEEDS = {f"{PLACE}slurm.Slurm": ("submitit", "slurm"), f"{PLACE}ray.Ray": ("ray", "ray"), SEARCH: ("optuna", "sweep")}


def own_node(node: Any) -> Node | None:
    """The typed node, or None where it is Hydra's or another plugin's. Raises: ValidationError."""
    schema = NODES.get(node.get("_target_")) if isinstance(node, Mapping) else None
    return None if schema is None else schema.model_validate(node)


def node_problems(key: str, node: Any) -> list[str]:
    """What is wrong with the node `hydra.launcher` or `hydra.sweeper`, a line each, if it is ours."""
    try:
        own_node(node)
    except ValidationError as error:
        return problem_lines(error, tuple(key.split(".")), node)
    return []
