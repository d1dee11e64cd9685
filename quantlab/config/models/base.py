"""What all models' sections have, and the kinds there are: a kind says which tasks it does."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from quantlab.config.fields import (
    BatchSize,
    Count,
    CountFromZero,
    File,
    Fraction,
    Name,
    NotNegative,
    OrNull,
    Positive,
    Seed,
    Strict,
)
from quantlab.config.sections import Parts, Targeted, by_option, options_of_kind

if TYPE_CHECKING:
    from quantlab.config.methods.base import Method


class PretrainRecipe(Strict):
    seed: Seed
    steps: Count
    batch_size: BatchSize
    optimizer: Literal["adamw", "sgd"]
    learning_rate: Positive
    weight_decay: NotNegative
    warmup_steps: CountFromZero
    gradient_clip: OrNull[Positive]
    ema_decay: Fraction


class AnyModel(Targeted):
    """`task_kinds`: the tasks that it does; `normalizes`: whether normalization follows its layers, so that a layer's
    output may lose its size; `not_opened`: why a finished run of it cannot be evaluated, if it cannot; `initial_seed`:
    of the weights before any are loaded.
    """

    group = "model"
    task_kinds: ClassVar[tuple[str, ...]]
    normalizes: ClassVar[bool] = True
    not_opened: ClassVar[str | None] = None
    initial_seed: ClassVar[Any] = 0
    name: Name
    weights: OrNull[File]

    def misfit(self, method: "Method") -> str | None:
        """A line where the method takes no such model, but would if a key of it were another."""
        return None

    def check(self, parts: Parts) -> Iterator[str]:
        task = parts.task
        if task is not None and task.kind not in self.task_kinds:
            fitting, tasks = options_of_kind("task", self.task_kinds), by_option("task")
            without_data = [name for name in fitting if "data_dir" not in tasks[name].model_fields]
            yield (
                f"task: got '{task.name}' ({task.kind}), but model={self.name} is a {self.kind}, allowed:"
                f" {', '.join(fitting)}; type task={[*without_data, *fitting][0]}"
            )


class Model(AnyModel):
    """One that can be trained in full precision."""

    pretrain: PretrainRecipe

    @property
    def initial_seed(self) -> int:  # type: ignore[override]
        return self.pretrain.seed


class Classifier(Model, default_for="classifier"):
    kind = "classifier"
    task_kinds = ("classification", "generation")  # labels are all it needs


class SuperResolver(Model, default_for="super_resolver"):
    kind = "super_resolver"
    task_kinds = ("super_resolution",)
