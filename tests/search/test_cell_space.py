"""The cell space against the benchmark's table and the paper's formula."""

import os
from pathlib import Path

import numpy as np
import pytest

from quantlab.errors import RequestError
from quantlab.search.nas_bench_201 import EDGES, NasBench201, live_edges, reaching_edges

DATA = Path(os.environ.get("QUANTLAB_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
TABLE = DATA / "nas_bench_201.npz"
SPACE = NasBench201()


def test_numbers_and_encodings_of_all_cells_agree_with_base_five():
    seen = set()
    for number in range(15_625):
        subnet = SPACE.subnet(number)
        assert subnet == tuple(int(digit) for digit in np.base_repr(number, 5).zfill(6))
        assert SPACE.index(subnet) == number and SPACE.decode(SPACE.encode(subnet)) == subnet
        seen.add(SPACE.encode(subnet))
    assert len(seen) == SPACE.size == 15_625
    assert SPACE.index((3,) * 6) == 11_718 and SPACE.subnet(0) == (0,) * 6


def test_cells_that_cannot_learn_are_the_ones_that_the_table_knows_at_chance():
    if not TABLE.is_file():
        pytest.skip(f"{TABLE} is not there")
    accuracy = np.load(TABLE)["cifar10_test"]
    cut_off = np.array([not live_edges(SPACE.subnet(number)) for number in range(SPACE.size)])
    assert cut_off.sum() > 100 and (accuracy[cut_off] == 10).all() and (accuracy[~cut_off] > 10).all()
    # the best cells, by their encoding
    table = np.load(TABLE)
    for name, encoding in (
        ("cifar10_test", "3-3-3-1-2-3"),
        ("cifar100_test", "3-3-3-1-3-3"),
        ("imagenet16_120_test", "2-2-3-1-3-3"),
    ):
        assert SPACE.encode(SPACE.subnet(int(table[name].argmax()))) == encoding


def test_parameters_are_the_dossiers_formula():
    for number in range(0, SPACE.size, 7):
        subnet = SPACE.subnet(number)
        assert SPACE.complexity(subnet) == 72_752 + 26_880 * (subnet.count(2) + 9 * subnet.count(3))
    assert SPACE.complexity_range() == (72_752, 1_524_272)
    assert len({SPACE.complexity(SPACE.subnet(number)) for number in range(SPACE.size)}) == 28


def test_edges_that_matter():
    # 1<-0 is a convolution, but nothing leads on from node 1; the output comes by 2.
    subnet = SPACE.decode("3-1-0-0-0-3")
    assert [EDGES[edge] for edge in live_edges(subnet)] == [(0, 2), (2, 3)]
    # Node 1 gets nothing, so that what leads on from it is fed zeros: of no use to the supernet, a constant in a
    # network of its own.
    subnet = SPACE.decode("0-1-0-0-3-3")
    assert [EDGES[edge] for edge in live_edges(subnet)] == [(0, 2), (2, 3)]
    assert [EDGES[edge] for edge in reaching_edges(subnet)] == [(0, 2), (1, 3), (2, 3)]
    assert live_edges((0,) * 6) == live_edges(SPACE.decode("3-3-3-0-0-0")) == ()


def test_cells_that_compute_the_same_have_one_canonical_cell():
    canonical = [SPACE.canonical(SPACE.subnet(number)) for number in range(SPACE.size)]
    assert len(set(canonical)) == 9_445 and all(SPACE.canonical(one) == one for one in set(canonical))
    assert SPACE.encode(SPACE.canonical(SPACE.decode("3-1-0-0-0-3"))) == "0-1-0-0-0-3"


def test_size_of_the_network_follows_width_cells_and_task():
    small = NasBench201(width=4, cells=1, image_size=8, channels=1, classes=10)
    reductions = 9 * (4 * 8 + 64) + 32 + 9 * (8 * 16 + 256) + 128
    assert small.complexity((0,) * 6) == 9 * 4 + reductions + 160
    assert small.complexity((3, 0, 0, 2, 0, 1)) - small.complexity((0,) * 6) == 10 * (16 + 64 + 256)
    assert small.pixels == (64, 16, 4) and NasBench201(image_size=7).pixels == (49, 16, 4)


@pytest.mark.parametrize(
    "text, said",
    [
        (
            "3-3-9-1-2-3",
            (
                "operation 9 at 2<-1, where 0, 1, 2, 3, 4 are legal), allowed in nas_bench_201: 6 operations (0 none, 1"
                " skip_connect"
            ),
        ),
        ("3-3-9-1-2-3", "type subnet=3-3-4-1-2-3"),
        ("3-3", "2 operations for 6 decisions"),
        ("3-3", "type subnet=3-3-0-0-0-0"),
        ("3-3-3-3-3-3-3", "type subnet=3-3-3-3-3-3"),
        ("conv", "type subnet=2-2-2-2-2-2"),
        ("", "got ''"),
    ],
)
def test_an_illegal_encoding_is_one_line_with_a_legal_one(text, said):
    with pytest.raises(RequestError) as caught:
        SPACE.decode(text)
    (line,) = caught.value.problems
    assert said in line and "\n" not in line
    SPACE.decode(line.split("type subnet=")[1])


@pytest.mark.parametrize("index, nearest", [(-1, 0), (15_625, 15_624)])
def test_an_index_outside_the_space_is_refused(index, nearest):
    with pytest.raises(
        RequestError, match=f"index: got {index}, allowed in nas_bench_201: 0 to 15624; type {nearest}$"
    ):
        SPACE.subnet(index)


def test_neighbours_and_draws():
    subnet = SPACE.decode("3-3-3-1-2-3")
    neighbours = SPACE.neighbours(subnet)
    assert len(set(neighbours)) == 24
    assert all(sum(one != other for one, other in zip(subnet, neighbour)) == 1 for neighbour in neighbours)
    rng = np.random.default_rng(0)
    drawn = np.array([SPACE.sample(rng) for _ in range(5_000)])
    counts = np.array([np.bincount(drawn[:, edge], minlength=5) for edge in range(6)])
    assert np.abs(counts - 1_000).max() < 5 * np.sqrt(1_000 * 0.8)
    assert type(SPACE.sample(rng)[0]) is int
