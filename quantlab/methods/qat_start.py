"""method.start: QAT that starts from another QAT run, as ReActNet is trained: first W32A1, then W1A1."""

from typing import Any

from torch import Tensor, nn

from quantlab.config import load_config
from quantlab.errors import RequestError
from quantlab.models.weights import require_finite
from quantlab.quantizers.insert import weight_quantized_layers
from quantlab.run.checkpoints import Checkpoints
from quantlab.run.directory import RunDirectory
from quantlab.run.state import load_model, strict_load


class Start:
    """The model of the finished run in `directory`, for a run with this config.

    Raises RequestError where there is no such run, where it is of another model or quantizer, or its bits are others:
    inputs must have the same, weights the same or 32; or where what it holds is not finite.
    """

    def __init__(self, directory: str, config: Any):
        quantizer = config.quantizer
        run = RunDirectory(directory)
        self.path, finished = run.model_path, run.read_results()
        if finished is None or not self.path.is_file():
            raise RequestError(
                f"method.start: {directory} holds no finished run; give the directory of a completed method=qat run"
            )
        bits = finished["bits"]
        if (
            finished["method"] != "qat"
            or bits["activation"] != quantizer.activation.bits
            or bits["weight"] not in (32, quantizer.weight.bits)
        ):
            wanted = " or ".join(
                f"W{weight}A{quantizer.activation.bits}" for weight in dict.fromkeys((32, quantizer.weight.bits))
            )
            raise RequestError(
                f"method.start: {directory} holds a {finished['method']} model of"
                f" W{bits['weight']}A{bits['activation']}, allowed here: a qat model of {wanted}; give another run, or"
                " this one's bits"
            )
        other = load_config(directory)
        for group in ("model", "quantizer"):
            theirs, ours = getattr(other, group).name, getattr(config, group).name
            if theirs != ours:
                raise RequestError(
                    f"method.start: {directory} has {group}={theirs}, allowed here: {group}={ours}, this run's; give"
                    f" another run, or type {group}={theirs}"
                )
        self.metrics: dict[str, float] = finished["metrics"]
        tensors, facts = load_model(self.path.with_suffix(""))
        run.require_own(facts, self.path)
        packed = tuple(
            f"{name}.weight_quantizer."
            for name, one in facts.get("layers", {}).items()
            if "shape" in one.get("weight", {})
        )
        if packed:  # codes; the latent weights are the last checkpoint's
            found = Checkpoints.of(run).load_latest()
            if found is None:
                raise RequestError(f"method.start: {run.checkpoints} holds no checkpoint with latent weights")
            kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(packed)}
            tensors = found[1]["method"]["model"] | kept
        self.tensors: dict[str, Tensor] = tensors
        require_finite(self.tensors, f"method.start: {self.path}")

    def load_into(self, network: nn.Module) -> None:
        """Give the wrapped network all that the other run learned. Weights that it did not quantize are calibrated
        here.

        Raises RequestError for a model of another architecture or another quantizer.
        """
        new = {}
        for name, layer in weight_quantized_layers(network).items():
            own = {
                f"{name}.{key}": value
                for key, value in layer.state_dict().items()
                if key.startswith(("weight_quantizer.", "gradient_quantizer."))
            }
            new |= {key: value for key, value in own.items() if key not in self.tensors}
        strict_load(network, self.tensors | new, f"method.start: {self.path}")
        for name, layer in weight_quantized_layers(network).items():
            if any(key.startswith(f"{name}.weight_quantizer.") for key in new):
                layer.weight_quantizer.calibrate(layer.weight.detach())
