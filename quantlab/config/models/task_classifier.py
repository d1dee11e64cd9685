"""What conf/model/task_classifier.yaml may hold. The values' meaning is said there."""

from quantlab.config.fields import Width
from quantlab.config.models.base import Classifier


class TaskClassifier(Classifier, target="quantlab.models.task_classifier.build_task_classifier"):
    width: Width
    features: Width
