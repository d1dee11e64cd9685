"""What a finished run left under checkpoints/: its tensors, and the network that they make of the run's model."""

from typing import Any

from torch import Tensor, nn

from quantlab.config import instantiate
from quantlab.errors import RequestError
from quantlab.methods.base import RunContext, Verb
from quantlab.methods.ptq.quantized_denoiser import QuantizedDenoiser
from quantlab.models.given import build_model, weights_of
from quantlab.models.model_file import load_tensors
from quantlab.models.weights import require_finite
from quantlab.quantizers.insert import insert
from quantlab.run.directory import RunDirectory
from quantlab.run.state import load_model


class SavedModel:
    """Tensors and facts of checkpoints/model of the run in `directory`. Raises CorruptFileError where they are not
    what was written, RequestError where they are of another run, or config.yaml was changed since.
    """

    def __init__(self, directory: str):
        run = RunDirectory(directory)
        self.path = run.model_path
        loaded: tuple[dict[str, Tensor], dict[str, Any]] = load_model(self.path.with_suffix(""))
        self.tensors, self.facts = loaded
        try:
            run.require_own(self.facts, self.path)
        except RequestError as error:
            raise RequestError(f"method.run: {error}") from None
        require_finite(self.tensors, f"method.run: {self.path}")

    def load_into(self, module: nn.Module) -> None:
        """Raises RequestError where `module` has other tensors."""
        load_tensors(module, self.tensors, str(self.path), self.facts)


class OnFinishedRun(Verb):
    """A verb whose `method.run` names a finished run; the config holds that run's task, model and quantizer.

    `saved`: what it left, None where no run is named. `quantized`: the denoiser that it quantized after training, else
    None, and `context.model` is the run's model.
    """

    def __init__(self, section, context: RunContext):
        super().__init__(section, context)
        self.saved = self.quantized = None
        if section.run is not None:
            self.described = RunDirectory(section.run).read_layers()
            self.saved = SavedModel(section.run)
            self.quantized = restore(self.saved, context)

    @classmethod
    def check_files(cls, section, config) -> None:
        if section.run is not None:
            SavedModel(section.run)

    @classmethod
    def open_model(cls, config, task) -> nn.Module:
        """Of a run the model without weights: those that the config may name are what it was quantized from."""
        return super().open_model(config, task) if config.method.run is None else build_model(config.model, task)


def restore(saved: SavedModel, context: RunContext) -> QuantizedDenoiser | None:
    """Put the saved model into `context.model`, wrapped with the quantizers that it was trained with, in evaluation
    mode.

    A model quantized after training is returned instead: `context.model` then stays the full-precision one, still
    without weights.
    Raises RequestError where the saved tensors do not fit, as when another task has another number of classes.
    """
    try:
        return _restore(saved, context)
    except RequestError as error:
        task = context.task
        facts = [
            f"{getattr(task, name)} {name}" for name in ("channels", "classes") if getattr(task, name, None) is not None
        ]
        raise RequestError(f"method.run, with task={task.name} ({', '.join(facts)}): {error}") from None


def _restore(saved: SavedModel, context: RunContext) -> QuantizedDenoiser | None:
    model, quantizer = context.model, context.config.quantizer
    if quantizer.kind == "post-training":
        quantized = QuantizedDenoiser(model.unet, quantizer, len(model.sampler), saved.facts["group_size"], model.call)
        if steps := saved.facts.get("bias_steps"):
            quantized.correct_output(dict.fromkeys(steps, saved.tensors["output_bias"][0]))
        quantized.load(saved.tensors, str(saved.path), saved.facts)
        return quantized
    if quantizer.kind == "training":
        insert(model, instantiate(quantizer, learn_weight_scale=False))
        saved.load_into(model)
    else:
        saved.load_into(weights_of(model))
    model.eval()
    return None
