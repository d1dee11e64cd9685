"""What conf/model/*.yaml may hold. The values' meaning is said there; `kind` is what a method asks for."""

from typing import Annotated, Literal

from pydantic import Field

from quantlab.config.fields import (
    ClosedFraction,
    Count,
    CountFromTwo,
    CountFromZero,
    File,
    Fraction,
    ModelPath,
    Name,
    NotNegative,
    OpenFraction,
    OrNull,
    Positive,
    Section,
    Seed,
    Strict,
    Stride,
    Switch,
    UpToOne,
    files_in,
)


class PretrainRecipe(Strict):
    seed: Seed
    steps: Count
    batch_size: Count
    optimizer: Literal["adamw", "sgd"]
    learning_rate: Positive
    weight_decay: NotNegative
    warmup_steps: CountFromZero
    gradient_clip: OrNull[Positive]
    ema_decay: Fraction


class Model(Section):
    group = "model"
    name: Name
    weights: OrNull[File]
    pretrain: PretrainRecipe


class KindBySubnet:
    """`kind` of a searchable model: a supernet, or with a subnet chosen the classifier that it is."""

    def __get__(self, section: "Searchable | None", owner: type) -> str:
        return "supernet" if section is None or section.subnet is None else "classifier"


class Searchable(Model):
    kind = KindBySubnet()
    subnet: OrNull[Name]


class UNet(Strict):
    block_out_channels: Annotated[list[Count], Field(min_length=1)]
    attention: list[Switch]
    layers_per_block: Count
    attention_head_dim: Count
    norm_num_groups: Count
    dropout: Fraction


class NoiseSchedule(Strict):
    train_timesteps: CountFromTwo
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
    beta_start: OpenFraction
    beta_end: OpenFraction


SamplerName = Literal[files_in("diffusion/samplers", "base")]


class Sampler(Strict):
    name: SamplerName
    steps: Count
    eta: ClosedFraction
    spacing: Literal["uniform", "trailing", "quadratic"]
    clip_sample: Switch


class Guidance(Strict):
    scale: NotNegative
    batched: Switch


class DDIM(Model):
    kind = "denoiser"
    target: Literal["quantlab.models.diffusers_denoiser.build_ddim"] = Field(alias="_target_")
    unet: UNet
    noise_schedule: NoiseSchedule
    prediction: Literal["epsilon", "v", "sample"]
    class_conditional: Switch
    class_dropout: ClosedFraction
    sampler: Sampler
    guidance: Guidance


class PretrainedDenoiser(Model):
    kind = "denoiser"
    target: Literal["quantlab.models.diffusers_denoiser.load_pretrained"] = Field(alias="_target_")
    path: ModelPath
    sampler: Sampler
    guidance: Guidance


class TaskClassifier(Model):
    kind = "classifier"
    target: Literal["quantlab.models.task_classifier.build_task_classifier"] = Field(alias="_target_")
    width: Count
    features: Count


class CifarResNet(Model):
    kind = "classifier"
    target: Literal["quantlab.models.resnet_cifar.build_resnet_cifar"] = Field(alias="_target_")
    depth: Count
    width: Count
    final_batch_norm: Switch


class TimmClassifier(Model):
    kind = "classifier"
    target: Literal["quantlab.models.timm_classifier.build_timm_classifier"] = Field(alias="_target_")
    architecture: Name
    pretrained: Switch


class NasBench201(Searchable):
    target: Literal["quantlab.models.nas_bench_201.build_nas_bench_201"] = Field(alias="_target_")
    width: Count
    cells: Count


class MobileNetStage(Strict):
    channels: Count
    layers: Count
    stride: Stride


class MobileNetSupernet(Searchable):
    target: Literal["quantlab.models.mobilenet_supernet.build_mobilenet_supernet"] = Field(alias="_target_")
    stem: Count
    stem_stride: Stride
    first: Count
    stages: Annotated[list[MobileNetStage], Field(min_length=1)]
    last: Count
    initialization: Literal["torch", "he_fan_out"]
    dropout: Fraction


class ReActNet(Model):
    kind = "classifier"
    target: Literal["quantlab.models.reactnet.build_reactnet"] = Field(alias="_target_")
    small_images: Switch


class Backbone(Strict):
    library: Literal["torchvision", "timm"]
    architecture: Name
    norm: Literal["batch", "frozen_batch"]


class Pyramid(Strict):
    levels: Annotated[list[Count], Field(min_length=1)]
    channels: Count
    norm: Literal["none", "batch"]
    extra_levels: Literal["none", "pool", "p6p7"]


class Detector(Model):
    kind = "detector"
    backbone: Backbone
    pyramid: Pyramid
    min_size: Count
    max_size: Count
    anchor_sizes: Annotated[list[Annotated[list[Count], Field(min_length=1)]], Field(min_length=1)]
    anchor_ratios: Annotated[list[Positive], Field(min_length=1)]
    score_threshold: Fraction
    nms_threshold: OpenFraction
    detections: Count


class Proposals(Strict):
    train: Count
    test: Count


class Sampled(Strict):
    anchors: CountFromTwo
    proposals: CountFromTwo


class RegionsOfInterest(Strict):
    size: Count
    features: Count


class FasterRCNN(Detector):
    target: Literal["quantlab.models.detectors.build_faster_rcnn"] = Field(alias="_target_")
    proposals: Proposals
    sampled: Sampled
    roi: RegionsOfInterest


class RetinaNet(Detector):
    target: Literal["quantlab.models.detectors.build_retinanet"] = Field(alias="_target_")
    head_norm: Literal["none", "group"]


class EDSR(Model):
    kind = "super_resolver"
    target: Literal["quantlab.models.edsr.build_edsr"] = Field(alias="_target_")
    blocks: Count
    channels: Count
    residual_scale: UpToOne
