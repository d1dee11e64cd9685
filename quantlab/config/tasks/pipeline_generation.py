"""What conf/task/pipeline_generation.yaml may hold. The values' meaning is said there."""

from collections.abc import Iterator

from quantlab.config.models.pipeline import Pipeline
from quantlab.config.sections import Parts
from quantlab.config.tasks.base import Task
from quantlab.config.tasks.generation import OF_TASK_IMAGES, Evaluation, GenerationTask


class PipelineGeneration(Task, target="quantlab.tasks.pipeline_generation.PipelineGeneration"):
    kind = "generation"
    has_parts = False
    main_metrics = GenerationTask.main_metrics
    captions = GenerationTask.captions
    evaluation: Evaluation

    def check(self, parts: Parts) -> Iterator[str]:
        yield from self.evaluation.problems()
        unfit = [metric for metric in self.evaluation.metrics if metric in OF_TASK_IMAGES]
        if unfit:
            yield (
                f"task.evaluation.metrics: got {', '.join(unfit)}, but task={self.name} has no images to compare with,"
                " allowed: inception_score, lpips, clip_score; drop the others, or type task=image_folder_generation"
            )
        if parts.model is not None and not isinstance(parts.model, Pipeline):
            yield (
                f"task: got '{self.name}', which has no images, but model={parts.model.name} needs some, allowed: any"
                " other task; type task=digits_generation"
            )
