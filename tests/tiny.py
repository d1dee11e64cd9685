"""Overrides that make a whole run take seconds."""

# 6 denoising steps in 2 groups, a UNet of 8 and 16 channels, everything else as small as it goes.
TINY = (
    "model.unet.block_out_channels=[8,16]",
    "model.unet.norm_num_groups=4",
    "model.pretrain.steps=12",
    "model.pretrain.batch_size=16",
    "model.sampler.steps=6",
    "task.feature_network.pretrain.steps=4",
    "task.feature_network.width=8",
    "task.evaluation.samples=24",
    "task.evaluation.step_error_samples=8",
    "device=cpu",
)
TINY_PTQ = (
    *TINY,
    "method.calibration.trajectories=12",
    "method.calibration.range_samples=4",
    "method.batch_size=4",
    "method.group_size=3",
    "trainer.log_every=1",
    "trainer.checkpoint_every=4",
)
# For runs that look neither at how ranges are searched nor at checkpoints: both take most of the time of a tiny one
PLAIN = (
    "quantizer.weight.scale_search=min_max",
    "quantizer.activation.scale_search=min_max",
    "trainer.checkpoint_every=1000",
)
TINY_ACCUQUANT = ("method=accuquant", *TINY_PTQ, "method.initialization.iterations=6", "method.iterations=12")

# 20 steps of a ResNet-8 of width 4 on digits
TINY_CLASSIFIER = (
    "model.depth=8",
    "model.width=4",
    "model.pretrain.steps=20",
    "method.epochs=2",
    "method.batch_size=128",
    "device=cpu",
    "trainer.log_every=1",
    "trainer.checkpoint_every=5",
)
TINY_QAT = ("method=qat", *TINY_CLASSIFIER)
TINY_LOW_BIT = ("method=low_bit", *TINY_CLASSIFIER, "method.integer_check=true", "quantizer.gradient.alpha=0.01")

# Of a pipeline of `tiny_pipelines`, with model.path
TINY_PIPELINE = (
    "model=pipeline",
    "model.sampler.steps=2",
    "task.evaluation.samples=2",
    "task.evaluation.step_error_samples=2",
    "method.calibration.trajectories=2",
    "method.calibration.range_samples=2",
    "method.batch_size=2",
)
