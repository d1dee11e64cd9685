"""What a finished run left under checkpoints/: its tensors, and the network that they make of the run's model."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from quantlab.checkpoint import load_model, strict_load
from quantlab.config import instantiate
from quantlab.errors import RequestError
from quantlab.methods.base import RunContext
from quantlab.methods.pretrain import Pretrain
from quantlab.methods.ptq.quantized_denoiser import QuantizedDenoiser
from quantlab.models.weights import require_finite
from quantlab.quantizers.trained_layer import wrap_for_training
from quantlab.quantizers.wrap import UniformAffinePolicy


class SavedModel:
    """Tensors and facts of checkpoints/model of the run in `directory`. Raises CorruptFileError where they are not
    what was written.
    """

    def __init__(self, directory: str):
        self.path = Path(directory) / "checkpoints" / "model.safetensors"
        loaded: tuple[dict[str, Tensor], dict[str, Any]] = load_model(self.path.with_suffix(""))
        self.tensors, self.facts = loaded
        require_finite(self.tensors, f"method.run: {self.path}")

    def load_into(self, module: nn.Module) -> None:
        """Raises RequestError where `module` has other tensors."""
        strict_load(module, self.tensors, str(self.path))


def restore(context: RunContext) -> QuantizedDenoiser | None:
    """Put the saved model into `context.model`, wrapped with the quantizers that it was trained with, in evaluation
    mode.

    A model quantized after training is returned instead: `context.model` then stays the full-precision one, still
    without weights.
    Raises RequestError where the saved tensors do not fit, as when another task has another number of classes.
    """
    try:
        return _restore(context)
    except RequestError as error:
        task = context.task
        facts = [
            f"{getattr(task, name)} {name}" for name in ("channels", "classes") if getattr(task, name, None) is not None
        ]
        raise RequestError(f"method.run, with task={task.name} ({', '.join(facts)}): {error}") from None


def _restore(context: RunContext) -> QuantizedDenoiser | None:
    saved, model, quantizer = context.saved_model, context.model, context.config.quantizer
    if quantizer.kind == "post-training":
        quantized = QuantizedDenoiser(
            model.unet, UniformAffinePolicy(quantizer), len(model.sampler), saved.facts["group_size"]
        )
        if steps := saved.facts.get("bias_steps"):
            quantized.correct_output(dict.fromkeys(steps, saved.tensors["output_bias"][0]))
        saved.load_into(quantized.unet)
        return quantized
    if quantizer.kind == "training":
        wrap_for_training(model, instantiate(quantizer), learn_weight_scale=False)
        saved.load_into(model)
    else:
        saved.load_into(Pretrain.weights_of(model))
    model.eval()
    return None
