"""Training from nothing, its cache, and weights from a file."""

from run_files import results
from tiny import PLAIN, TINY, TINY_ACCUQUANT


def test_pretrain_is_found_in_the_cache(quantlab, tmp_path):
    words = ("method=pretrain", *TINY, "model.pretrain.steps=5", "seed=3")
    assert quantlab(*words, f"output_dir={tmp_path / 'first'}")[0] == 0
    code, _, err = quantlab(*words, f"output_dir={tmp_path / 'second'}")
    assert code == 0 and "found in the cache" in err
    first, second = results(tmp_path / "first"), results(tmp_path / "second")
    assert first["metrics"] == second["metrics"]
    assert (first["cost"]["steps"], second["cost"]["steps"]) == (5, 0)


def test_training_from_nothing_gives_the_same_bits(quantlab, tmp_path):
    # Caches of their own: a shared one would hand the first run's weights to the second
    weights = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        code, _, err = quantlab(
            "method=pretrain",
            *TINY,
            "model.pretrain.steps=3",
            f"seed={seed}",
            f"cache_dir={tmp_path / name / 'cache'}",
            f"output_dir={tmp_path / name / 'run'}",
        )
        assert code == 0, err
        weights.append((tmp_path / name / "run/checkpoints/model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_weights_from_a_file_and_of_another_architecture(quantlab, tmp_path):
    words = ("method=pretrain", *TINY, "model.pretrain.steps=5", "seed=3")
    assert quantlab(*words, f"output_dir={tmp_path / 'p'}")[0] == 0
    weights = tmp_path / "p/checkpoints/model.safetensors"
    code, _, err = quantlab(
        *TINY_ACCUQUANT, *PLAIN, "method.iterations=2", f"model.weights={weights}", f"output_dir={tmp_path / 'a'}"
    )
    assert code == 0, err
    code, _, err = quantlab(
        *TINY_ACCUQUANT,
        "model.unet.block_out_channels=[16,16]",
        f"model.weights={weights}",
        f"output_dir={tmp_path / 'b'}",
    )
    assert code == 2 and "another architecture" in err and "Traceback" not in err
