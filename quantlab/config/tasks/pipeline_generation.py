"""What conf/task/pipeline_generation.yaml may hold. The values' meaning is said there."""

from collections.abc import Iterator

from quantlab.config.models.pipeline import Pipeline
from quantlab.config.sections import Parts
from quantlab.config.tasks.base import Task
from quantlab.config.tasks.generation import Evaluation, GenerationTask


class PipelineGeneration(Task, target="quantlab.tasks.pipeline_generation.PipelineGeneration"):
    kind = "generation"
    has_parts = False
    main_metrics = GenerationTask.main_metrics
    captions = GenerationTask.captions
    evaluation: Evaluation

    def check(self, parts: Parts) -> Iterator[str]:
        yield from self.evaluation.problems()
        if parts.model is not None and not isinstance(parts.model, Pipeline):
            yield (
                f"task: got '{self.name}', which has no images, but model={parts.model.name} needs some, allowed: any"
                " other task; type task=digits_generation"
            )
