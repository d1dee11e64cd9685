"""What a pipeline draws, without a data set: only metrics that compare with full precision are measured."""

from typing import Any


class PipelineGeneration:
    """A task without images, of any size: that of the model's."""

    kind = "generation"
    channels, classes, image_size = 3, None, None
    has_images = draws = False
    workers = 0

    def __init__(self, section: Any):
        self.section, self.name, self.evaluation = section, section.name, section.evaluation

    def check(self) -> None:
        """Nothing to read."""
