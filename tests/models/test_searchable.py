"""Models whose networks are encoded: what their sections show of a space, and encodings that are of no space."""

import pytest
from composed import composed

from quantlab.models.searchable import space_of


@pytest.mark.parametrize("model", ["nas_bench_201", "nas_bench_201_small", "mobilenet_supernet_small"])
def test_the_example_that_a_section_shows_is_its_spaces(model):
    section = composed("method=supernet", f"model={model}").model
    assert section.example == space_of(section).example


@pytest.mark.parametrize(
    "words, said",
    [
        (
            ("model=nas_bench_201_small", "model.subnet=3-3-3-3-3-5"),
            "model.subnet: got 3-3-3-3-3-5 (operation 5 at 3<-2, where 0, 1, 2, 3, 4 are legal)",
        ),
        (
            ("model=mobilenet_supernet_small", "model.subnet=6-0-0-0-0-0-0"),
            "model.subnet: got 6-0-0-0-0-0-0 (operation 6 at stage1.layer1",
        ),
        (("model=nas_bench_201_small", "model.subnet=best"), "model.subnet: got 'best', allowed in nas_bench_201"),
    ],
)
def test_an_encoding_of_no_network_is_refused_before_any_work(words, said, quantlab, tmp_path):
    code, _, err = quantlab("method=pretrain", "task=digits", *words, f"output_dir={tmp_path / 'run'}")
    assert code == 2 and err.count("\n") == 1 and err.startswith(f"quantlab: error: {said}")
    assert not (tmp_path / "run").exists()
