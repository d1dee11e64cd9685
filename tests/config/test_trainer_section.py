"""Keys of the trainer that do nothing in a method."""

import pytest
from composed import composed

from quantlab.errors import RequestError


@pytest.mark.parametrize(
    "words, key",
    [
        (["trainer.epochs=3"], "trainer.epochs"),
        (["method=ptq", "trainer.epochs=3"], "trainer.epochs"),
        (["trainer.mixed_precision=bf16"], "trainer.mixed_precision"),
        (["trainer.drop_last=false"], "trainer.drop_last"),
        (["trainer.compile=true"], "trainer.compile"),
        (["method=supernet", "trainer.compile=true"], "trainer.compile"),
        *(
            (["method=sample", "method.run=x", f"trainer.{word}"], f"trainer.{word.partition('=')[0]}")
            for word in ("epochs=1", "max_steps=1", "num_workers=2", "mixed_precision=fp16", "compile=true")
        ),
    ],
)
def test_a_trainers_key_that_does_nothing_is_refused(words, key):
    with pytest.raises(RequestError) as caught:
        composed(*words)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{key}: got ") and f"type {key}=" in problem
