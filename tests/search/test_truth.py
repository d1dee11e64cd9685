"""Truth tables: what is read, and what is refused."""

import os
from pathlib import Path

import numpy as np
import pytest

from quantlab.errors import RequestError
from quantlab.search.nas_bench_201 import NasBench201
from quantlab.search.ranking import kendall_tau
from quantlab.search.truth import TruthTable

DATA = Path(os.environ.get("QUANTLAB_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
SPACE = NasBench201()


@pytest.fixture
def benchmark():
    path = DATA / "nas_bench_201.npz"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return TruthTable.load(path, SPACE)


def write(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_ranking_by_parameters_gives_the_dossiers_baselines(benchmark):
    cells = benchmark.subset("kendall_indices")
    parameters = [SPACE.complexity(SPACE.subnet(int(index))) for index in cells]
    assert len(cells) == 327
    for name, tau in (("cifar10_test", 0.637), ("cifar100_test", 0.634), ("imagenet16_120_test", 0.584)):
        assert kendall_tau(parameters, benchmark.lookup(name, cells)) == pytest.approx(tau, abs=5e-4)
    assert benchmark.lookup("cifar10_test", [11_663])[0] == pytest.approx(94.37)


def test_unknown_names_and_subnets_are_refused(benchmark):
    with pytest.raises(RequestError, match="got 'cifar10_tests', allowed: .*did you mean 'cifar10_test'"):
        benchmark.lookup("cifar10_tests", [0])
    with pytest.raises(RequestError, match="got the list 'kendal', allowed: null"):
        benchmark.subset("kendal")
    with pytest.raises(RequestError, match="got index 15625"):
        benchmark.lookup("cifar10_test", [15_625])


def test_a_table_of_a_sample_goes_round(tmp_path):
    sample = TruthTable(np.array([7, 15_624, 3]), {"digits_test": np.array([90.0, 50.0, 70.0])})
    sample.save(tmp_path / "sample.npz")
    read = TruthTable.load(tmp_path / "sample.npz", SPACE)
    assert read.lookup("digits_test", [3, 7]).tolist() == [70.0, 90.0] and read.subset(None).tolist() == [7, 15_624, 3]
    with pytest.raises(RequestError, match="got index 8, allowed: the 3 subnets of the table"):
        read.lookup("digits_test", [8])


@pytest.mark.parametrize(
    "arrays, said",
    [
        (
            {"accuracy": np.zeros(15_624)},
            "accuracy of .* has 15624 entries, allowed: 15625, one per subnet of nas_bench_201",
        ),
        ({"accuracy": np.zeros((15_625, 2))}, "has 15625 x 2 entries"),
        ({"accuracy": np.full(15_625, np.nan)}, "allowed: 0 to 100 percent"),
        ({"accuracy": np.full(15_625, 101.0)}, "allowed: 0 to 100 percent"),
        ({"counts": np.zeros(15_625, int)}, "holds no accuracies"),
        (
            {"accuracy": np.zeros(15_625), "kendall_indices": np.array([0, 15_625])},
            "kendall_indices of .* numbers from 0 to 15624",
        ),
        ({"accuracy": np.zeros(2), "indices": np.array([4, 4])}, "no list of different subnets"),
        (
            {"accuracy": np.zeros(3), "indices": np.array([4, 5])},
            "has 3 entries, allowed: 2, one per subnet of its indices",
        ),
        ({"accuracy": np.array([object()])}, "not a sound .npz"),
    ],
)
def test_what_is_no_table_of_the_space_is_refused_in_one_line(tmp_path, arrays, said):
    with pytest.raises(RequestError, match=said) as caught:
        TruthTable.load(write(tmp_path / "table.npz", **arrays), SPACE, key="method.truth")
    assert str(caught.value).startswith("method.truth: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"text"])
def test_a_damaged_file_names_itself(tmp_path, content):
    (tmp_path / "table.npz").write_bytes(content)
    with pytest.raises(RequestError, match="table.npz is not a sound"):
        TruthTable.load(tmp_path / "table.npz", SPACE)
    with pytest.raises(RequestError, match="no such file"):
        TruthTable.load(tmp_path / "nothing.npz", SPACE)


def test_a_single_array_is_no_table(tmp_path):
    np.save(tmp_path / "array.npy", np.zeros(15_625))
    with pytest.raises(RequestError, match="not a sound .npz"):
        TruthTable.load(tmp_path / "array.npy", SPACE)
