"""What the YAMLs of generation tasks may hold. The values' meaning is said there."""

from collections.abc import Iterator
from typing import Literal

from quantlab.config.fields import (
    BatchSize,
    Channels,
    Directory,
    Images,
    ImagesFromTwo,
    ModelPath,
    Pixels,
    Seed,
    Strict,
    Switch,
    at_most,
)
from quantlab.config.models.task_classifier import TaskClassifier
from quantlab.config.sections import Parts
from quantlab.config.tasks.base import TRAINING_CURVES, Task

ExtraMetric = Literal["sfid", "inception_score", "precision", "recall", "lpips", "clip_score"]
NEIGHBOURS = 3  # of precision and recall
OF_TASK_IMAGES = ("sfid", "precision", "recall")  # what compares samples with them


class Evaluation(Strict):
    samples: ImagesFromTwo
    batch_size: BatchSize
    features: Literal["task_classifier", "inception", "clip", "dino", "none"]
    metrics: list[ExtraMetric]
    lpips_network: Literal["alex", "vgg", "squeeze"]
    clip: ModelPath
    dino: ModelPath
    download: Switch
    seed: Seed
    step_error_samples: Images

    def problems(self) -> Iterator[str]:
        """What its values forbid each other, a line each."""
        of = "task.evaluation"
        yield from at_most(f"{of}.step_error_samples", self.step_error_samples, f"{of}.samples", self.samples)
        few = [metric for metric in ("precision", "recall") if metric in self.metrics and self.samples <= NEIGHBOURS]
        if few:
            yield (
                f"{of}.samples: got {self.samples}, but {few[0]} looks at {NEIGHBOURS} neighbours, allowed: from"
                f" {NEIGHBOURS + 1}; type {of}.samples=1024"
            )


class GenerationTask(Task, default_for="generation"):
    kind = "generation"
    has_parts = False
    main_metrics = ("fid_to_fp32", "mse_to_fp32")
    captions = {
        "comparison": "Samples from the same noise: full precision, quantized, and their amplified difference.",
        "denoising_error": (
            "Error to full precision along denoising: of each step alone, started from the full-precision "
            "state, and accumulated. Vertical lines are group boundaries."
        ),
        "fid_along_denoising": (
            "FID between the states of the quantized and of the full-precision model along denoising."
        ),
        "training": TRAINING_CURVES,
        "full_precision": "Samples of the full-precision model.",
        "quantized": "Samples of the quantized model, from the same noise.",
        "samples": "Samples of the model; where the task's images are drawn too, they are above.",
    }
    image_size: Pixels
    evaluation: Evaluation
    feature_network: TaskClassifier

    def check(self, parts: Parts) -> Iterator[str]:
        yield from self.evaluation.problems()


class DigitsGeneration(GenerationTask, target="quantlab.tasks.generation.DigitsGeneration"):
    pass


class TorchvisionGeneration(
    GenerationTask, target=("quantlab.tasks.generation.MnistGeneration", "quantlab.tasks.generation.Cifar10Generation")
):
    data_dir: Directory
    download: Switch


class ImageFolderGeneration(GenerationTask, target="quantlab.tasks.generation.ImageFolderGeneration"):
    data_dir: Directory
    channels: Channels
