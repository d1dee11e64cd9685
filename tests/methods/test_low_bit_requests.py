"""Requests of method=low_bit that make no sense, and rates that follow from the start."""

import pytest
import yaml


def test_rates_follow_the_start_unless_they_are_typed(quantlab):
    def rates(*words):
        from quantlab.config import validate

        _, out, _ = quantlab("method=low_bit", *words, "--cfg", "job", "--resolve")
        found = validate(yaml.safe_load(out) | {"output_dir": "x"}).method.learning_rate
        return found.sgd, found.adam, found.adamw

    assert rates() == (0.1, 1e-3, 3e-4)
    assert rates("method.initialization=full_precision") == (0.01, 1e-4, 3e-5)
    assert rates("method.learning_rate.sgd=0.05", "method.initialization=full_precision") == (0.05, 1e-4, 3e-5)


def test_given_weights_are_no_start_from_scratch(quantlab, tmp_path):
    for words in (("model.weights=some.safetensors",), ("model=resnet18", "model.pretrained=true")):
        code, _, err = quantlab("method=low_bit", *words, f"output_dir={tmp_path / 'run'}")
        assert (
            code == 2
            and err.count("type method.initialization=full_precision") == 1
            and not (tmp_path / "run").exists()
        )


@pytest.mark.parametrize(
    "words, says",
    [
        (("quantizer.gradient.bits=1",), "allowed: 2 to 16"),
        (("quantizer.gradient.alpha=1",), "allowed: a number between 0 and 1"),
        (("quantizer.gradient.interval=large_gradients",), "large_gradient"),
        (("quantizer.gradient.gamma_min=0.9", "quantizer.gradient.gamma_max=0.5"), "allowed: up to gamma_max (0.5)"),
        (("quantizer.gradient.interval=piecewise", "quantizer.gradient.bits=2"), "allowed: 3 to 16"),
        (
            ("quantizer.gradient.bits=10", "trainer.mixed_precision=bf16"),
            "allowed: 2 to 9; type trainer.mixed_precision=no",
        ),
        (("method.deviation_scaling=true",), "interval=large_gradient measures no deviation"),
        (
            ("method.deviation_scaling=true", "quantizer.gradient.bits=32", "quantizer.gradient.interval=dsgc"),
            "bits=32 measures no deviation",
        ),
        (("quantizer.gradient.granularity=row",), "channel"),
        (("method.integer_check=true", "quantizer=ewgs"), "allowed: learned_clipping, fixed_point, lsq"),
        (("method.integer_check=true", "quantizer.gradient.bits=32"), "type method.integer_check=false"),
        (("quantizer=uniform_affine",), "this quantizer quantizes no gradient"),
        (("quantizer.weight.bits=32", "quantizer.activation.bits=32"), "nothing to quantize"),
    ],
)
def test_requests_that_make_no_sense(words, says, quantlab, tmp_path):
    code, _, err = quantlab("method=low_bit", *words, f"output_dir={tmp_path / 'run'}")
    assert code == 2 and says in err, err
    assert not (tmp_path / "run" / "config.yaml").exists()
