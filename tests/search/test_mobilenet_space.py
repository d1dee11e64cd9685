"""The MobileNet space: what is legal, its size, its numbering, its complexity."""

import numpy as np
import pytest

from quantlab.errors import RequestError
from quantlab.search.mobilenet import IDENTITY, MobileNetSpace, Stage

SPACE = MobileNetSpace()


def test_size_and_legal_operations():
    assert len(SPACE.decisions) == 21 and SPACE.size == 6**6 * 7**15
    sizes = [len(SPACE.choices(layer)) for layer in range(21)]
    assert sizes == [6, 7, 7, 7] * 5 + [6]
    assert SPACE.decisions[4] == "stage2.layer1"


def test_numbers_encodings_and_draws_round_trip():
    rng = np.random.default_rng(0)
    for _ in range(200):
        subnet = SPACE.sample(rng)
        assert SPACE.subnet(SPACE.index(subnet)) == subnet == SPACE.decode(SPACE.encode(subnet))
    assert SPACE.index((0,) * 21) == 0 and SPACE.index(SPACE.subnet(SPACE.size - 1)) == SPACE.size - 1
    small = MobileNetSpace([Stage(8, 2, 2)])
    assert [small.subnet(number) for number in range(small.size)] == [
        (one, two) for one in range(6) for two in range(7)
    ]
    assert len(SPACE.neighbours((0,) * 21)) == 6 * 5 + 15 * 6


def test_an_identity_that_is_not_legal_is_refused():
    with pytest.raises(
        RequestError, match="operation 6 at stage1.layer1, where 0, 1, 2, 3, 4, 5 are legal.*type subnet=5-6-6"
    ):
        SPACE.decode("-".join(["6"] * 21))


def test_complexity_by_hand():
    tiny = MobileNetSpace(
        [Stage(8, 2, 2)], stem=4, first=6, last=10, stem_stride=1, image_size=7, channels=1, classes=3
    )
    # Stem 3x3, depthwise 3x3, 1x1; the last 1x1 and the classifier
    assert tiny.fixed_cost("parameters") == 9 * 4 + 9 * 4 + 4 * 6 + 8 * 10 + 10 * 3
    assert tiny.complexity((3, IDENTITY)) - tiny.fixed_cost("parameters") == 6 * 36 + 25 * 36 + 36 * 8
    # 7x7 images, 4x4 after the first layer
    assert tiny.complexity((3, IDENTITY), "flops") == 49 * 96 + 49 * 6 * 36 + 16 * (25 * 36 + 36 * 8) + 16 * 80 + 30
    assert tiny.complexity_range() == (tiny.complexity((0, IDENTITY)), tiny.complexity((5, 5)))


def test_the_imagenet_space_has_the_sizes_of_the_paper():
    # Found subnets: 4.5 to 4.7 M parameters, 459 to 472 M FLOPs; they lie between the extremes, which are theirs too.
    for measure, found in (("parameters", 4.6e6), ("flops", 465e6)):
        least, largest = SPACE.complexity_range(measure)
        assert least < found < largest
    identities = tuple(IDENTITY if IDENTITY in SPACE.choices(layer) else 0 for layer in range(21))
    assert SPACE.complexity_range() == (SPACE.complexity(identities), SPACE.complexity((5,) * 21))
