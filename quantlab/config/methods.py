"""What conf/method/*.yaml may hold, and what each method works on. The values' meaning is said there."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from quantlab.config.fields import (
    AboveOne,
    BinEdges,
    Count,
    CountFromZero,
    Directory,
    File,
    Fraction,
    Name,
    NotNegative,
    OpenFraction,
    OrNull,
    Positive,
    Section,
    Strict,
    Switch,
    TableFile,
    UpToOne,
    files_in,
    says,
)


class Method(Section):
    """`model_kinds`, `task_kinds`, `quantizer_kind`: what the method works with (empty: anything); `quantizes`: whether
    it needs bits; `trains_network`: whether it trains the network as a whole: torchrun may start it, trainer.compile
    compile it, and an epoch is a walk through the task's images; `makes_steps`: whether it has a loop at all;
    `loads_data`: whether other processes can load for it;
    `judges_samples`: whether it measures the FID of a denoiser's samples, so that it needs a feature network;
    `opens_run`: whether it
    acts on the finished run that its key `run` names."""

    group = "method"
    model_kinds: ClassVar[tuple[str, ...]] = ()
    task_kinds: ClassVar[tuple[str, ...]] = ()
    quantizer_kind: ClassVar[str | None] = None
    quantizes: ClassVar[bool] = False
    trains_network: ClassVar[bool] = False
    makes_steps: ClassVar[bool] = True
    loads_data: ClassVar[bool] = True
    judges_samples: ClassVar[bool] = False
    opens_run: ClassVar[bool] = False
    name: Name


class Calibration(Strict):
    trajectories: Count
    range_samples: Count


class Learn(Strict):
    rounding: Switch
    activation_scales: Switch


class LearningRates(Strict):
    rounding: Positive
    activation_scales: Positive


class RoundingRegularizer(Strict):
    weight: NotNegative
    beta_start: Positive
    beta_end: Positive
    warmup: Fraction


class DiffusionPTQ(Method):
    model_kinds = ("denoiser",)
    task_kinds = ("generation",)
    quantizer_kind = "post-training"
    quantizes = True
    judges_samples = True
    group_size: Count
    batch_size: Count
    calibration: Calibration
    learn: Learn
    learning_rate: LearningRates
    rounding_regularizer: RoundingRegularizer
    bias_correction: Literal["none", "channel", "pixel"]


class Initialization(Strict):
    iterations: CountFromZero
    learning_rate: LearningRates


class AccuQuant(DiffusionPTQ):
    target: Literal["quantlab.methods.accuquant.AccuQuant"] = Field(alias="_target_")
    iterations: Count
    initialization: Initialization
    gradient: Literal["copy", "exact", "bptt"]
    group_order: Literal["random", "sequential"]
    loss: Literal["mse", "l1"]


class StepByStepPTQ(DiffusionPTQ):
    target: Literal["quantlab.methods.ptq.build_ptq"] = Field(alias="_target_")
    reconstruction: Literal[files_in("methods/ptq", "method", "objective", "quantized_denoiser")]
    network_evaluations: Count
    step_loss: Literal["state", "output"]


class Pretrain(Method):
    trains_network = True
    target: Literal["quantlab.methods.pretrain.Pretrain"] = Field(alias="_target_")


class Evaluate(Method):
    makes_steps = False
    model_kinds = ("classifier", "denoiser", "detector", "super_resolver")
    judges_samples = True
    opens_run = True
    target: Literal["quantlab.methods.evaluate.Evaluate"] = Field(alias="_target_")
    run: OrNull[Directory]
    part: Literal["test", "validation"]


class Sample(Method):
    model_kinds = ("denoiser",)
    task_kinds = ("generation",)
    makes_steps = loads_data = False
    judges_samples = True
    opens_run = True
    target: Literal["quantlab.methods.sample.Sample"] = Field(alias="_target_")
    run: OrNull[Directory]
    samples: Count


class LearningRateByOptimizer(Strict):
    sgd: Positive
    adam: Positive
    adamw: Positive


class LearningRateOfQAT(LearningRateByOptimizer):
    nadam: Positive
    adamax: Positive
    rmsprop: Positive
    adagrad: Positive


class QuantizedTraining(Method):
    model_kinds = ("classifier", "detector", "super_resolver")
    task_kinds = ("classification", "detection", "super_resolution")
    quantizer_kind = "training"
    quantizes = True
    trains_network = True
    optimizer: Literal["sgd", "adam", "adamw"]
    epochs: Count
    batch_size: Count
    decay: Literal["cosine", "step", "constant"]
    decay_every: Literal["epoch", "step"]
    milestones: Annotated[list[OpenFraction], Field(min_length=1)]
    decay_factor: OpenFraction
    learning_rate: LearningRateByOptimizer
    scale_learning_rate: Positive
    momentum: Fraction
    weight_decay: NotNegative
    batch_norm_batches: CountFromZero


class LowBit(QuantizedTraining):
    target: Literal["quantlab.methods.low_bit.LowBit"] = Field(alias="_target_")
    initialization: Literal["scratch", "full_precision"]
    deviation_scaling: Switch
    deviation_alpha: Positive
    deviation_beta: UpToOne
    integer_check: Switch


class Dampening(Strict):
    weight: NotNegative
    start: Fraction
    aggregation: Literal["kernel_mean", "sum", "mean"]


class Freezing(Strict):
    threshold_start: Positive
    threshold_end: Positive
    start: Fraction
    mean_from: Literal["start_of_freezing", "start_of_run"]
    max_bits: Count


class Teacher(Strict):
    architecture: OrNull[Name]
    weights: OrNull[File]


class QAT(QuantizedTraining):
    target: Literal["quantlab.methods.qat.QAT"] = Field(alias="_target_")
    start: OrNull[Directory]
    teacher: Teacher
    schedule: Literal["transition_rate", "learning_rate"]
    optimizer: Literal["sgd", "adam", "adamw", "nadam", "adamax", "rmsprop", "adagrad"]
    learning_rate: LearningRateOfQAT
    nesterov: Switch
    target_transition_rate: UpToOne
    target_bits: Literal["layer", "section"]
    rule: Literal["additive", "multiplicative", "momentum_multiplicative"]
    m: Fraction
    eta: Positive
    oscillation: Literal["none", "dampening", "freezing"]
    m_o: OpenFraction
    dampening: Dampening
    freezing: Freezing


class StandAlone(Strict):
    subnets: CountFromZero
    steps: Count


class Ranking(Strict):
    truth: OrNull[TableFile]
    column: OrNull[Name]
    subset: OrNull[Name]
    subnets: OrNull[Count]
    images: OrNull[Count]
    batches: Literal["whole", "random"]
    batch_size: Count
    batch_norm: Literal["batch", "recalibrated"]
    calibration_images: Count
    stand_alone: StandAlone


Complexity = Annotated[Literal["parameters", "flops"], says("parameters, flops", "flops")]


class Search(Strict):
    strategy: Literal["evolutionary", "random", "exhaustive"]
    complexity_limit: OrNull[Positive]
    complexity: OrNull[Complexity]
    population: Count
    generations: Count
    parents: Count
    crossover: Count
    mutation: Count
    mutation_probability: UpToOne


class Supernet(Method):
    model_kinds = ("supernet",)
    task_kinds = ("classification",)
    trains_network = True
    target: Literal["quantlab.methods.supernet.Supernet"] = Field(alias="_target_")
    sampler: Literal["spos", "fairnas", "fsnas"]
    fsnas_split: CountFromZero
    flops_bins: OrNull[BinEdges]
    epochs: Count
    batch_size: Count
    learning_rate: Positive
    momentum: Fraction
    weight_decay: NotNegative
    gradient_clip: OrNull[Positive]
    calr: Switch
    gamma_max: AboveOne
    complexity: Complexity
    decay: Literal["cosine", "uniform", "constant"]
    momentum_separation: Switch
    split: OrNull[CountFromZero]
    inactive_parameters: Literal["frozen", "decayed"]
    ranking: Ranking
    search: Search
