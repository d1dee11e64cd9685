"""What all tasks' sections have."""

from typing import ClassVar

from quantlab.config.fields import Name
from quantlab.config.sections import Targeted

# The caption of a picture that every training leaves, for tasks whose own come after it
TRAINING_CURVES = "What was logged during training; where there are many points, with their running mean on top."


class Task(Targeted):
    """`has_parts`: whether there is a validation part beside the test part; `main_metrics`: of those that a run on it
    reports, what tells how good it is, the first that is there.
    """

    group = "task"
    has_parts: ClassVar[bool] = True
    main_metrics: ClassVar[tuple[str, ...]] = ()
    name: Name
