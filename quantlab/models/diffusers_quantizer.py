"""quantlab among diffusers' quantizers: `save_pretrained` of a network that was quantized here, and `from_pretrained`.

    config.json                           the class of diffusers, and under `quantization_config` what the header of
                                          checkpoints/model.safetensors says (`model_file`)
    diffusion_pytorch_model.safetensors   the tensors of that file: packed codes, scales, what is not quantized

Whatever dtype the network is loaded in, codes and scales stay as they are. `import quantlab` registers both classes
(`quantlab.registration`); this module is light, since it then comes with every import of diffusers.
"""

import copy
from collections.abc import Mapping
from enum import Enum
from typing import Any

import torch
from diffusers.quantizers.base import DiffusersQuantizer
from diffusers.quantizers.quantization_config import QuantizationConfigMixin
from torch import Tensor, nn

NAME = "quantlab"
QUANTIZERS = ("weight_quantizer", "activation_quantizer", "gradient_quantizer", "processor")
WEIGHT = ".weight_quantizer."


class Method(str, Enum):  # diffusers asks for its `value`
    QUANTLAB = NAME


class QuantlabConfig(QuantizationConfigMixin):
    """`quantization_config` of a network's config.json. `facts`: what the header of its file says of it, without the
    architecture. Empty, it stands for quantlab where diffusers wants a config of a network that has its own.
    """

    def __init__(self, quant_method: str = NAME, **facts: Any):
        self.quant_method, self.facts = Method(quant_method), facts

    def to_dict(self) -> dict[str, Any]:
        return {"quant_method": NAME, **copy.deepcopy(self.facts)}

    def __repr__(self) -> str:  # diffusers prints it with every config
        return f"QuantlabConfig(quantizer={self.facts.get('quantizer', {}).get('name')!r})"


class QuantlabQuantizer(DiffusersQuantizer):
    """Loads networks that were quantized by a run. It quantizes none: that takes calibration."""

    requires_calibration = True
    use_keep_in_fp32_modules = True

    def __init__(self, quantization_config: QuantlabConfig, pre_quantized: bool = True, **kwargs: Any):
        if not pre_quantized:
            from quantlab.errors import RequestError

            raise RequestError(
                "quantization_config: got quantlab for a network in full precision, allowed: one that a run has"
                " quantized; type quantlab method=ptq model=pipeline model.path=DIR, then"
                " quantlab.load(RUN).save_pretrained(DIR) in Python"
            )
        super().__init__(quantization_config, **kwargs)
        self.dtype: torch.dtype | None = None
        self.packed: dict[str, dict[str, Tensor]] = {}  # of layers' weights, until all are there
        layers = quantization_config.facts.get("layers", {})
        # by name of a layer with a stored weight what the file says of that
        self.layers = {name: said["weight"] for name, said in layers.items() if "shape" in said.get("weight", {})}

    # loading ---------------------------------------------------------------------------------------------------------
    def validate_environment(self, *args: Any, device_map: Any = None, **kwargs: Any) -> None:
        if isinstance(device_map, Mapping) and "disk" in device_map.values():
            raise ValueError("device_map: got disk, allowed for a network that quantlab has quantized: cpu, cuda")

    def update_torch_dtype(self, torch_dtype: torch.dtype | None) -> torch.dtype | None:
        self.dtype = torch_dtype
        return torch_dtype

    def _process_model_before_weight_loading(self, model: nn.Module, **kwargs: Any) -> None:
        from quantlab.models.quantized_network import quantize_as_described
        from quantlab.run import formats

        facts = self.quantization_config.facts
        formats.require_readable(facts.get(formats.KEY), f"quantization_config of {type(model).__name__}")
        quantize_as_described(model, facts, torch.empty(0, device="meta"))

    def check_if_quantized_param(
        self, model: nn.Module, param_value: Tensor, param_name: str, state_dict: dict[str, Tensor], **kwargs: Any
    ) -> bool:
        return param_name == "output_bias" or any(part in QUANTIZERS for part in param_name.split("."))

    def create_quantized_param(
        self,
        model: nn.Module,
        param_value: Tensor,
        param_name: str,
        target_device: Any,
        state_dict: dict[str, Tensor],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Take the tensor as the file has it: `param_value` was cast to the network's dtype."""
        tensor = state_dict[param_name].to(target_device)
        layer, is_of_weight, rest = param_name.partition(WEIGHT)
        if is_of_weight and layer in self.layers:
            held = self.packed.setdefault(layer, {})
            held[f"{WEIGHT.removeprefix('.')}{rest}"] = tensor
            if len(held) == len(model.get_submodule(layer).weight_quantizer.state_dict()):
                self._put(model, layer)
        elif param_name == "output_bias":
            model.output_bias = tensor
        else:
            from accelerate.utils import set_module_tensor_to_device

            set_module_tensor_to_device(model, param_name, target_device, value=tensor, dtype=tensor.dtype)

    def _put(self, model: nn.Module, layer: str) -> None:
        """Its weight, all of whose tensors are there: shards may cut a layer in two."""
        from quantlab.errors import CorruptFileError, RunError
        from quantlab.quantizers.stored_layer import fixed_weight
        from quantlab.quantizers.uniform_affine import CodedWeight

        try:
            fixed = fixed_weight(self.packed.pop(layer, {}), self.layers[layer])
        except (KeyError, RuntimeError, RunError) as error:
            raise CorruptFileError(f"{layer} is damaged: {type(error).__name__}: {error}") from error
        for one in fixed.modules():
            if isinstance(one, CodedWeight):
                one.dtype = self.dtype
        model.get_submodule(layer).weight_quantizer = fixed

    def _process_model_after_weight_loading(self, model: nn.Module, **kwargs: Any) -> None:
        incomplete = [layer for layer in self.layers if _is_blank(model.get_submodule(layer).weight_quantizer)]
        for layer in incomplete:
            self._put(model, layer)
        model.requires_grad_(False)

    # saving ----------------------------------------------------------------------------------------------------------
    @property
    def is_serializable(self) -> bool:
        """Earlier versions would save codes as they are in memory."""
        return hasattr(DiffusersQuantizer, "get_state_dict_and_metadata")

    def get_state_dict_and_metadata(
        self, state_dict: dict[str, Tensor], safe_serialization: bool = False
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        from quantlab.quantizers.stored_layer import packed_state

        return packed_state(state_dict, self.layers), {}

    @property
    def is_trainable(self) -> bool:
        return False


def _is_blank(module: nn.Module) -> bool:
    return any(tensor.is_meta for tensor in module.state_dict().values())


def attach(network: Any, facts: Mapping[str, Any]) -> None:
    """From now on `network.save_pretrained` writes what `from_pretrained` loads; facts: what the file says that the
    network was loaded from.
    """
    config = QuantlabConfig(**{key: value for key, value in facts.items() if key != "architecture"})
    network.register_to_config(quantization_config=config)
    network.hf_quantizer = QuantlabQuantizer(config)
    network.is_quantized, network.quantization_method = True, config.quant_method
