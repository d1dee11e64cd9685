"""The sections of a run's config, and how one finds its schema: by `_target_`, or by group and name without one.

`BY_TARGET` is the allowlist of all that a config may instantiate: a config cannot name anything else.
"""

from typing import Literal, get_args

from quantlab.config import methods, models, quantizers, tasks
from quantlab.config.fields import Count, CountFromZero, Name, OrNull, Section, Switch

GROUPS = ("task", "model", "quantizer", "method", "trainer", "logger")


class Trainer(Section):
    group = "trainer"
    epochs: OrNull[Count]
    max_steps: OrNull[Count]
    checkpoint_every: Count
    log_every: Count
    mixed_precision: Literal["no", "fp16", "bf16"]
    drop_last: Switch
    num_workers: OrNull[CountFromZero]
    compile: Switch


class Logger(Section):
    group = "logger"
    name: Literal["none", "tensorboard"]


class WandbLogger(Section):
    group = "logger"
    name: Literal["wandb"]
    project: Name
    mode: Literal["offline", "online"]


BY_TARGET: dict[str, type[Section]] = {
    target: section
    for section in (
        models.DDIM,
        models.PretrainedDenoiser,
        models.TaskClassifier,
        models.CifarResNet,
        models.TimmClassifier,
        models.ReActNet,
        models.FasterRCNN,
        models.RetinaNet,
        models.EDSR,
        models.NasBench201,
        models.MobileNetSupernet,
        tasks.DigitsGeneration,
        tasks.TorchvisionGeneration,
        tasks.ImageFolderGeneration,
        tasks.Digits,
        tasks.TorchvisionClassification,
        tasks.ImageFolder,
        tasks.ImageNet,
        tasks.DigitScenes,
        tasks.Coco,
        tasks.Voc,
        tasks.SamplePhotos,
        tasks.PhotoFolders,
        quantizers.UniformAffine,
        quantizers.FixedPoint,
        quantizers.LSQ,
        quantizers.LearnedClipping,
        quantizers.EWGS,
        quantizers.DSQ,
        quantizers.Binary,
        quantizers.ReActNet,
        methods.AccuQuant,
        methods.StepByStepPTQ,
        methods.Pretrain,
        methods.Evaluate,
        methods.Sample,
        methods.QAT,
        methods.LowBit,
        methods.Supernet,
    )
    for target in get_args(section.model_fields["target"].annotation)
}
WITHOUT_TARGET: dict[tuple[str, str | None], type[Section]] = {
    ("quantizer", "none"): quantizers.NoQuantizer,
    ("trainer", None): Trainer,
    ("logger", "none"): Logger,
    ("logger", "tensorboard"): Logger,
    ("logger", "wandb"): WandbLogger,
}
