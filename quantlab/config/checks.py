"""Which combinations of sections make sense. Every check yields whole lines for a person to act on.

A section that is itself wrong arrives as None, and what depends on it is not judged.
"""

from collections.abc import Iterator, Mapping

from quantlab.config.catalog import options, own_choice, target_of
from quantlab.config.effects import trainer_problems
from quantlab.config.fields import Section
from quantlab.config.methods import QAT, DiffusionPTQ, Evaluate, LowBit, Method, Sample, Supernet
from quantlab.config.models import (
    DDIM,
    EDSR,
    CifarResNet,
    Detector,
    Model,
    NasBench201,
    RetinaNet,
    Searchable,
    TimmClassifier,
)
from quantlab.config.quantizers import LSQ, FixedPoint, Gradient, TrainedQuantizer, UniformAffine
from quantlab.config.sections import BY_TARGET, Trainer
from quantlab.config.tasks import ClassFolders, ClassificationTask, DetectionTask, DigitScenes, GenerationTask
from quantlab.errors import RequestError
from quantlab.search import nas_bench_201
from quantlab.search.mobilenet import MobileNetSpace, Stage
from quantlab.search.spaces import SearchSpace

TASKS_OF_MODEL = {
    "denoiser": ("generation",),
    "classifier": ("classification", "generation"),  # labels are all it needs
    "supernet": ("classification",),
    "detector": ("detection",),
    "super_resolver": ("super_resolution",),
}
MOST_GRADIENT_BITS = {"bf16": 9, "fp16": 12}  # significant bits of the type, and the sign
EXTRA_LEVELS = {"none": 0, "pool": 1, "p6p7": 2}  # how many levels model.pyramid.extra_levels adds


def combination_problems(sections: Mapping[str, Section | None]) -> Iterator[str]:
    """One line per combination that makes no sense; `sections` by group."""
    method, model, task, quantizer = (sections.get(group) for group in ("method", "model", "task", "quantizer"))
    if isinstance(method, Method):
        subnet_problems = list(_wrong_subnet(method, model)) if isinstance(model, Searchable) else []
        yield from subnet_problems or _wrong_kind(method, "model", method.model_kinds, model)
        yield from _wrong_kind(method, "task", method.task_kinds, task)
        if quantizer is not None:
            yield from _wrong_bits(method, quantizer)
        yield from trainer_problems(method, sections.get("trainer"))
    if isinstance(model, Section) and isinstance(task, Section) and task.kind not in TASKS_OF_MODEL[model.kind]:
        fitting = _options_of_kind("task", TASKS_OF_MODEL[model.kind])
        best = next(filter(_needs_no_data, fitting), fitting[0])
        yield (
            f"task: got '{task.name}' ({task.kind}), but model={model.name} is a {model.kind}, allowed:"
            f" {', '.join(fitting)}; type task={best}"
        )
    if isinstance(method, QAT):
        yield from _qat(method, quantizer)
        yield from _teacher(method, task)
    if isinstance(model, EDSR) and isinstance(quantizer, FixedPoint) and not quantizer.output_scale:
        # Fixed-point numbers have lost their size: with 4 bits it ends below bicubic upsampling.
        yield (
            f"quantizer.output_scale: got false, but no normalization follows the layers of model={model.name},"
            " allowed: true, or another quantizer; type quantizer.output_scale=true"
        )
    if isinstance(method, Supernet):
        yield from _supernet(method)
    if isinstance(method, LowBit):
        given = (
            "model.weights"
            if getattr(model, "weights", None)
            else "model.pretrained"
            if getattr(model, "pretrained", False)
            else None
        )
        if given and method.initialization == "scratch":
            # A rate for random weights would undo them.
            yield (
                f"method.initialization: got 'scratch' beside {given}, allowed: full_precision, which starts from these"
                " weights; type method.initialization=full_precision"
            )
        if method.integer_check:
            yield from _integer_check(quantizer)
        if method.deviation_scaling and isinstance(quantizer, TrainedQuantizer):
            yield from _deviation_scaling(quantizer.gradient)
    if isinstance(quantizer, TrainedQuantizer):
        yield from _gradient(quantizer.gradient, sections.get("trainer"))
    if isinstance(method, DiffusionPTQ):
        yield from _diffusion_ptq(method, model)
        if isinstance(quantizer, UniformAffine) and _learns(method) and not _learnable(method, quantizer):
            yield (
                "method.learn: nothing to learn: rounding needs quantized weights and"
                " quantizer.weight.rounding=adaround or straight_through, activation_scales quantized activations; type"
                " method.learn.rounding=true, or method=ptq method.reconstruction=none for calibrated ranges only"
            )
    if isinstance(method, Sample) and method.run is None:
        yield "method.run: got null, allowed: the directory of a finished run of a denoiser; type method.run=DIR"
    if isinstance(method, Evaluate) and method.part != "test" and isinstance(task, GenerationTask):
        yield f"method.part: got {method.part}, but task={task.name} has no parts, allowed: test; type method.part=test"
    if isinstance(model, DDIM):
        yield from _ddim(model)
    if isinstance(model, Searchable) and model.subnet is not None:
        yield from _subnet(model)
    if isinstance(model, CifarResNet) and (model.depth < 8 or model.depth % 6 != 2):
        yield f"model.depth: got {model.depth}, allowed: 6 n + 2 (20, 32, 56, ...); type model.depth=20"
    if isinstance(model, TimmClassifier) and model.pretrained and model.weights is not None:
        yield (
            "model.pretrained: got true beside model.weights, allowed: one source of weights; type"
            " model.pretrained=false, or model.weights=null"
        )
    if isinstance(model, Detector):
        yield from _detector(model)
    if isinstance(task, DigitScenes):
        yield from _digit_scenes(task)
    if isinstance(task, (ClassificationTask, DetectionTask)):
        mean, std = task.normalization.mean, task.normalization.std
        if len(mean) != len(std):
            yield (
                f"task.normalization.std: got {len(std)} values for the {len(mean)} of mean, allowed: one per channel; "
                f"type task.normalization.std=[{','.join(['0.5'] * len(mean))}]"
            )
    if isinstance(task, ClassFolders):
        yield from _at_most("task.image_size", task.image_size, "task.decode_size", task.decode_size)
        for key, (low, high) in (("scale", task.augmentation.scale), ("ratio", task.augmentation.ratio)):
            if low > high:
                yield (
                    f"task.augmentation.{key}: got [{low}, {high}], allowed: the smaller first; "
                    f"type task.augmentation.{key}=[{high},{low}]"
                )
    if isinstance(task, GenerationTask):
        evaluation = task.evaluation
        yield from _at_most(
            "task.evaluation.step_error_samples",
            evaluation.step_error_samples,
            "task.evaluation.samples",
            evaluation.samples,
        )


def _learns(method: Method) -> bool:
    return isinstance(method, DiffusionPTQ) and getattr(method, "reconstruction", "all") != "none"


def _learnable(method: DiffusionPTQ, quantizer: UniformAffine) -> bool:
    if quantizer.weight.bits == quantizer.activation.bits == 32:
        return True  # another check says that nothing is quantized at all
    weight = method.learn.rounding and quantizer.weight.rounding != "nearest" and quantizer.weight.bits != 32
    return weight or (method.learn.activation_scales and quantizer.activation.bits != 32)


def _wrong_kind(method: Method, group: str, kinds: tuple[str, ...], section: Section | None) -> Iterator[str]:
    if section is None or not kinds or section.kind in kinds:
        return
    fitting = _options_of_kind(group, kinds)
    yield (
        f"{group}: got '{section.name}' (a {section.kind}), but method={method.name} needs a {' or '.join(kinds)}"
        f" {group}, one of: {', '.join(fitting)}; type {group}={_best(method, group, fitting)}"
    )


def _options_of_kind(group: str, kinds: tuple[str, ...]) -> list[str]:
    return [
        name
        for name, option in options(group).items()
        if getattr(BY_TARGET.get(target_of(group, option)), "kind", None) in kinds
    ]


def _needs_no_data(task: str) -> bool:
    return "data_dir" not in BY_TARGET[target_of("task", options("task")[task])].model_fields


def _best(method: Method, group: str, fitting: list[str]) -> str:
    own = own_choice(method.name, group)
    return own if own in fitting else fitting[0]


def _wrong_bits(method: Method, quantizer: Section) -> Iterator[str]:
    weight, activation = quantizer.weight.bits, quantizer.activation.bits
    if method.quantizes and quantizer.kind != method.quantizer_kind:
        fitting = _options_of_kind("quantizer", (method.quantizer_kind,))
        what = "nothing to quantize" if quantizer.name == "none" else f"a {quantizer.kind} one"
        yield (
            f"quantizer: got '{quantizer.name}' ({what}), but method={method.name} needs a {method.quantizer_kind}"
            f" quantizer, one of: {', '.join(fitting)}; type quantizer={_best(method, 'quantizer', fitting)}"
        )
    elif method.quantizes and weight == activation == 32:
        yield (
            "quantizer.weight.bits and quantizer.activation.bits: got 32 for both, nothing to quantize for "
            f"method={method.name}; type quantizer.weight.bits=4"
        )
    elif method.opens_run and method.run is not None:
        return  # the quantizer is that run's
    elif not method.quantizes and not weight == activation == quantizer.gradient.bits == 32:
        instead = ", or method.run=DIR for what a finished run quantized" if method.opens_run else ""
        yield f"quantizer: got '{quantizer.name}', but method={method.name} takes none; type quantizer=none{instead}"


def _diffusion_ptq(method: DiffusionPTQ, model: Section | None) -> Iterator[str]:
    calibration, regularizer = method.calibration, method.rounding_regularizer
    yield from _at_most(
        "method.calibration.range_samples",
        calibration.range_samples,
        "method.calibration.trajectories",
        calibration.trajectories,
    )
    yield from _at_most(
        "method.batch_size", method.batch_size, "method.calibration.trajectories", calibration.trajectories
    )
    if regularizer.beta_end > regularizer.beta_start:
        yield (
            f"method.rounding_regularizer.beta_end: got {regularizer.beta_end}, allowed: up to beta_start "
            f"({regularizer.beta_start}); type method.rounding_regularizer.beta_end={regularizer.beta_start}"
        )
    if isinstance(model, Model) and model.kind == "denoiser":
        yield from _at_most("method.group_size", method.group_size, "model.sampler.steps", model.sampler.steps)


def _qat(method: QAT, quantizer: Section | None) -> Iterator[str]:
    if (
        method.schedule == "transition_rate"
        and quantizer is not None
        and quantizer.weight.bits == 32 != quantizer.activation.bits
    ):
        yield (
            "quantizer.weight.bits: got 32, but method.schedule=transition_rate schedules the transitions of quantized "
            "weights; type quantizer.weight.bits=2, or method.schedule=learning_rate"
        )
    if method.nesterov and method.optimizer == "sgd" and method.momentum == 0:
        yield (
            "method.nesterov: got true, but method.momentum=0 leaves nothing to look ahead with, allowed: false; type"
            " method.nesterov=false or method.momentum=0.9"
        )


def _teacher(method: QAT, task: Section | None) -> Iterator[str]:
    teacher = method.teacher
    if teacher.architecture is None and teacher.weights is None:
        return
    if isinstance(task, Section) and task.kind != "classification":
        yield (
            f"method.teacher: predicts classes, but task={task.name} is {task.kind}, allowed: null; type"
            " method.teacher.architecture=null method.teacher.weights=null"
        )
    if teacher.architecture == "start":
        if teacher.weights is not None:
            yield (
                f"method.teacher.weights: got '{teacher.weights}' beside architecture=start, which has its own,"
                " allowed: null; type method.teacher.weights=null"
            )
        if method.start is not None:
            yield (
                "method.teacher.architecture: got start, but method.start begins with a quantized network, allowed: one"
                " of timm's; type method.teacher.architecture=null method.teacher.weights=DIR, the run of"
                " method=pretrain it came from"
            )


def _supernet(method: Supernet) -> Iterator[str]:
    if method.sampler == "fsnas" and method.momentum_separation and method.split == method.fsnas_split:
        yield (
            f"method.split: got {method.split}, the decision that sampler=fsnas fixes (method.fsnas_split): one"
            " operation is left there, and momentum needs several to separate by; type method.split=null"
        )
    if method.sampler == "fairnas" and method.flops_bins is not None:
        yield (
            "method.flops_bins: got bins, but sampler=fairnas draws subnets that have every operation once together,"
            " whatever their FLOPs, allowed: null; type method.flops_bins=null, or method.sampler=spos"
        )
    ranking = method.ranking
    for key in ("column", "subset"):
        if getattr(ranking, key) is not None and ranking.truth is None:
            yield (
                f"method.ranking.{key}: got '{getattr(ranking, key)}' of a table, but method.ranking.truth is null,"
                f" allowed: null; type method.ranking.truth=FILE.npz or method.ranking.{key}=null"
            )


def _gradient(gradient: Gradient, trainer: Trainer | None) -> Iterator[str]:
    if gradient.gamma_min > gradient.gamma_max:
        yield (
            f"quantizer.gradient.gamma_min: got {gradient.gamma_min}, allowed: up to gamma_max ({gradient.gamma_max}); "
            f"type quantizer.gradient.gamma_min={gradient.gamma_max}"
        )
    if gradient.interval == "piecewise" and gradient.bits == 2:
        yield (
            "quantizer.gradient.bits: got 2, but interval=piecewise gives each of its two ranges one bit less, allowed:"
            " 3 to 16; type quantizer.gradient.bits=3"
        )
    precision = "no" if trainer is None else trainer.mixed_precision
    most = MOST_GRADIENT_BITS.get(precision, 16)
    if most < gradient.bits != 32:
        yield (
            f"quantizer.gradient.bits: got {gradient.bits}, but trainer.mixed_precision={precision} cannot tell so many"
            f" levels apart, allowed: 2 to {most}; type trainer.mixed_precision=no"
        )


def _deviation_scaling(gradient: Gradient) -> Iterator[str]:
    if gradient.interval != "dsgc" or gradient.bits == 32:
        got = f"interval={gradient.interval}" if gradient.interval != "dsgc" else "bits=32"
        yield (
            f"method.deviation_scaling: got true, but quantizer.gradient.{got} measures no deviation, allowed: false;"
            " type method.deviation_scaling=false, or quantizer.gradient.interval=dsgc with bits from 2 to 16"
        )


def _integer_check(quantizer: Section | None) -> Iterator[str]:
    if isinstance(quantizer, TrainedQuantizer):
        if not isinstance(quantizer, (LSQ, FixedPoint)):
            yield (
                f"method.integer_check: quantizer={quantizer.name} has no one scale for its integers, allowed:"
                " learned_clipping, lsq, fixed_point; type quantizer=learned_clipping"
            )
        if (
            32 in (quantizer.weight.bits, quantizer.activation.bits, quantizer.gradient.bits)
            or quantizer.gradient.interval == "piecewise"
        ):
            yield (
                "method.integer_check: needs weights and activations in 2 to 8 bits, gradients in 2 to 16, and an"
                " interval of one range; type method.integer_check=false"
            )


def space_of(model: Searchable) -> SearchSpace:
    """The space whose encodings `model.subnet` takes; the sizes of the task do not matter to it."""
    if isinstance(model, NasBench201):
        return nas_bench_201.NasBench201(model.width, model.cells)
    return MobileNetSpace([Stage(stage.channels, stage.layers, stage.stride) for stage in model.stages])


def _wrong_subnet(method: Method, model: Searchable) -> Iterator[str]:
    """A supernet where a single network is wanted, and the other way round."""
    kinds = method.model_kinds or ("classifier",)
    if model.kind == "supernet" and "classifier" in kinds and "supernet" not in kinds:
        yield (
            f"model.subnet: got null, the supernet model={model.name}, but method={method.name} takes a single network,"
            f" allowed: the encoding of one; type model.subnet={space_of(model).example}, or method=supernet"
        )
    elif model.kind == "classifier" and "supernet" in kinds and "classifier" not in kinds:
        yield (
            f"model.subnet: got '{model.subnet}', a single network, but method={method.name} takes a supernet, allowed:"
            " null; type model.subnet=null"
        )


def _subnet(model: Searchable) -> Iterator[str]:
    try:
        space_of(model).decode(model.subnet, key="model.subnet")
    except RequestError as error:
        yield from error.problems


def _ddim(model: DDIM) -> Iterator[str]:
    unet, schedule = model.unet, model.noise_schedule
    yield from _at_most(
        "model.sampler.steps", model.sampler.steps, "model.noise_schedule.train_timesteps", schedule.train_timesteps
    )
    if schedule.beta_start > schedule.beta_end:
        yield (
            f"model.noise_schedule.beta_start: got {schedule.beta_start}, allowed: up to beta_end "
            f"({schedule.beta_end}); type model.noise_schedule.beta_start={schedule.beta_end}"
        )
    if len(unet.attention) != len(unet.block_out_channels):
        switches = ",".join(["false"] * len(unet.block_out_channels))
        yield (
            f"model.unet.attention: got {len(unet.attention)} entries, allowed: one per entry of block_out_channels "
            f"({len(unet.block_out_channels)}); type model.unet.attention=[{switches}]"
        )
    for channels in unet.block_out_channels:
        if channels % unet.norm_num_groups:
            yield (
                f"model.unet.block_out_channels: got {channels}, allowed: multiples of norm_num_groups "
                f"({unet.norm_num_groups}); type model.unet.norm_num_groups=1 or other channels"
            )
    for channels, attends in zip(unet.block_out_channels, unet.attention):
        if attends and channels % unet.attention_head_dim:
            yield (
                f"model.unet.attention_head_dim: got {unet.attention_head_dim}, allowed: divisors of the channels "
                f"that attend ({channels}); type model.unet.attention_head_dim={channels}"
            )


def _detector(model: Detector) -> Iterator[str]:
    pyramid, sizes = model.pyramid, model.anchor_sizes
    yield from _at_most("model.min_size", model.min_size, "model.max_size", model.max_size)
    if pyramid.levels != sorted(set(pyramid.levels)):
        yield (
            f"model.pyramid.levels: got {pyramid.levels}, allowed: each once, finest first; "
            f"type model.pyramid.levels={_typed(sorted(set(pyramid.levels)))}"
        )
    levels = len(pyramid.levels) + EXTRA_LEVELS[pyramid.extra_levels]
    if len(sizes) != levels:
        fitting = [[2 ** (pyramid.levels[0] + 2 + level)] for level in range(levels)]
        yield (
            f"model.anchor_sizes: got {len(sizes)} lists, allowed: one per level of the pyramid, {len(pyramid.levels)}"
            f" of levels and {levels - len(pyramid.levels)} of extra_levels={pyramid.extra_levels}; type"
            f" model.anchor_sizes={_typed(fitting)}"
        )
    elif len({len(one) for one in sizes}) > 1:
        yield (
            f"model.anchor_sizes: got {_typed(sizes)}, allowed: as many sizes at every level, whose head they share; "
            f"type model.anchor_sizes={_typed([one[:1] for one in sizes])}"
        )
    if isinstance(model, RetinaNet) and model.head_norm == "group" and pyramid.channels % 8:
        yield (
            f"model.pyramid.channels: got {pyramid.channels}, allowed with head_norm=group: multiples of 8; "
            f"type model.pyramid.channels={8 * max(round(pyramid.channels / 8), 1)}"
        )


def _digit_scenes(task: DigitScenes) -> Iterator[str]:
    yield from _at_most(
        "task.scales", max(task.scales), "task.image_size / 8, a digit's pixels", max(task.image_size // 8, 1)
    )
    low, high = task.digits_per_scene
    if low > high:
        yield (
            f"task.digits_per_scene: got [{low}, {high}], allowed: the smaller first; type"
            f" task.digits_per_scene=[{high},{low}]"
        )
    if task.test_fraction + task.validation_fraction > 0.9:
        yield (
            f"task.test_fraction: got {task.test_fraction} beside validation_fraction={task.validation_fraction},"
            " allowed: together up to 0.9 of the digits; type task.test_fraction=0.2 task.validation_fraction=0.1"
        )


def _typed(value: list) -> str:
    """A list of numbers, or of lists of them, as one types it."""
    return str(value).replace(" ", "")


def _at_most(key: str, value: int, bound_key: str, bound: int) -> Iterator[str]:
    if value > bound:
        yield f"{key}: got {value}, allowed: 1 to {bound} ({bound_key}); type {key}={bound}"
