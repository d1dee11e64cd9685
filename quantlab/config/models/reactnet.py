"""What conf/model/reactnet18.yaml may hold. The values' meaning is said there."""

from quantlab.config.fields import Switch
from quantlab.config.models.base import Classifier


class ReActNet(Classifier, target="quantlab.models.reactnet.build_reactnet"):
    small_images: Switch
