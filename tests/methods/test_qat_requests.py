"""Requests of method=qat that make no sense."""

import pytest


@pytest.mark.parametrize(
    "words, says",
    [
        (
            ("quantizer.weight.bits=32",),
            "method.schedule=transition_rate schedules the transitions of quantized weights",
        ),
        (("quantizer.weight.bits=0",), "allowed: 1, 2, 3"),
        (
            ("quantizer.policy=[{modules: ., weight_bits: 32, activation_bits: 2}]",),
            "leaves the weights of every layer in full precision",
        ),
        (
            ("quantizer.policy=[{modules: downsmple, weight_bits: 8, activation_bits: 8}]",),
            "'downsmple' is found in no layer's name, allowed: a part of one of conv1, layer1.0.conv1",
        ),
        (("method.target_transition_rate=0",), "allowed: a number above 0, up to 1"),
        (("method.target_transition_rate=1.5",), "allowed: a number above 0, up to 1"),
        (
            ("method.target_transition_rate=0.9",),
            (
                "asks for 1.27 of a layer's weights per update, allowed: at most 1; type"
                " method.target_transition_rate=0.707"
            ),
        ),
        (
            ("method.target_transition_rate=0.5", "quantizer.last_layer={weight_bits: 8, activation_bits: 8}"),
            "type method.target_transition_rate=0.353",
        ),
        (("method.optimizer=lion",), "allowed: sgd, adam, adamw, nadam, adamax, rmsprop, adagrad"),
        (("method.nesterov=true", "method.momentum=0"), "type method.nesterov=false or method.momentum=0.9"),
        (
            ("method.oscillation=freezing", "method.freezing.max_bits=1"),
            "below the bits of every layer, so that nothing would be frozen; type method.freezing.max_bits=2",
        ),
        (
            (
                "model=timm",
                "model.architecture=vit_tiny_patch16_224",
                "task.image_size=16",
                "method.batch_norm_batches=5",
            ),
            "has no BatchNorm with running statistics",
        ),
        (
            ("quantizer=uniform_affine",),
            (
                "needs a training quantizer, one of: binary, dsq, ewgs, fixed_point, learned_clipping, lsq, reactnet;"
                " type quantizer=fixed_point"
            ),
        ),
        (("quantizer=lsq", "quantizer.weight.bits=1"), "allowed: 2, 3, 4"),
        (("quantizer=binary", "quantizer.weight.bits=2"), "allowed: 1, or 32"),
        (
            ("quantizer=none",),
            (
                "needs a training quantizer, one of: binary, dsq, ewgs, fixed_point, learned_clipping, lsq, reactnet;"
                " type quantizer=fixed_point"
            ),
        ),
        (
            ("method=ptq", "trainer.compile=true"),
            "trainer.compile: got true, but method=ptq trains no network as a whole",
        ),
        (("task=digits_generation",), "needs a classification or detection or super_resolution task"),
        (("model=ddim",), "needs a classifier or detector or super_resolver model"),
        (("model.depth=21",), "allowed: 6 n + 2"),
        (("task=cifar10", "data_dir=no_such_place"), "CIFAR-10 was not found"),
    ],
)
def test_requests_that_make_no_sense(words, says, quantlab, tmp_path):
    code, _, err = quantlab("method=qat", *words, f"output_dir={tmp_path / 'run'}")
    assert code == 2 and says in err, err
    assert not (tmp_path / "run" / "config.yaml").exists()
