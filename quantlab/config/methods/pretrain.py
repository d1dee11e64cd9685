"""What conf/method/pretrain.yaml may hold: nothing, its recipe is the model's."""

from quantlab.config.methods.base import Method


class Pretrain(Method, target="quantlab.methods.pretrain.Pretrain"):
    trains_network = True
    own_pretraining = True
