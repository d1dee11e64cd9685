"""The official benchmark files, imitated here: every cell gets its index, and nothing in them is executed."""

import bz2
import os
import pickle
import random
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from quantlab.errors import RequestError
from quantlab.search.nas_bench_201 import OPERATIONS, NasBench201
from quantlab.search.nats_bench import SOURCES, mean_accuracy, parse_cell, read_benchmark
from quantlab.search.released_tables import FILES, LIST, read_list, read_released
from quantlab.search.truth import TruthTable

SPACE = NasBench201()
SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_nats_bench.py"


def convert(*words):
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, words)], capture_output=True, text=True)


def text_of(number):
    names = [OPERATIONS[operation] for operation in SPACE.subnet(number)]
    return f"|{names[0]}~0|+|{names[1]}~0|{names[2]}~1|+|{names[3]}~0|{names[4]}~1|{names[5]}~2|"


def expected(number, name):
    return 100 * (number + 1_000 * list(SOURCES).index(name)) / 25_000


def results_of(number):
    """As in the authors' ArchResults: two seeds, one point above and below; a bad first epoch."""
    all_results, seeds = {}, {}
    for name, (data, part) in SOURCES.items():
        for seed, shift in ((777, 1.0), (888, -1.0)):
            trial = all_results.setdefault(
                (data, seed), {"epochs": 2, "eval_acc1es": OrderedDict(), "net_state_dict": None}
            )
            trial["eval_acc1es"] |= {f"{part}@0": 0.0, f"{part}@1": expected(number, name) + shift}
        seeds[data] = [777, 888]
    return {
        "arch_index": number,
        "arch_str": text_of(number),
        "all_results": all_results,
        "dataset_seed": seeds,
        "clear_net_done": True,
    }


def benchmark(training, numbers=range(SPACE.size)):
    """In another order, as in the official files."""
    order = list(numbers)
    random.Random(0).shuffle(order)
    return {
        "meta_archs": [text_of(number) for number in order],
        "evaluated_indexes": set(range(len(order))),
        "arch2infos": {place: {training: results_of(number)} for place, number in enumerate(order)},
    }


def write(path, content):
    with bz2.open(path, "wb", compresslevel=1) as stream:
        pickle.dump(content, stream, protocol=4)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """All cells, as in NATS-Bench."""
    return write(tmp_path_factory.mktemp("benchmark") / "NATS-tss-v1_0-3ffb9.pickle.pbz2", benchmark("200"))


@pytest.mark.parametrize("form", ["pth", "pbz2"])
def test_every_cell_finds_its_number(tmp_path, whole, form):
    path = whole
    if form == "pth":
        path = tmp_path / "NAS-Bench-201-v1_1-096897.pth"
        torch.save(benchmark("full"), path)
    table = read_benchmark(path)
    for name in SOURCES:
        np.testing.assert_allclose(table.accuracies[name], [expected(number, name) for number in range(SPACE.size)])
    table.save(tmp_path / "table.npz")
    saved = TruthTable.load(tmp_path / "table.npz", SPACE)
    assert saved.lookup("cifar10_test", [11_718])[0] == pytest.approx(expected(11_718, "cifar10_test"))


def test_a_folder_is_read_cell_by_cell_and_a_missing_cell_is_named(tmp_path):
    write(tmp_path / "meta.pickle.pbz2", {"meta_archs": []})
    for place, number in enumerate((11_718, 3)):
        write(tmp_path / f"{place:06d}.pickle.pbz2", {"12": {}, "200": results_of(number)})
    with pytest.raises(RequestError, match="15623 of 15625 cells have no cifar10_test"):
        read_benchmark(tmp_path)


def test_seeds_are_averaged_and_numpy_numbers_read(tmp_path):
    results = results_of(5)
    results["all_results"]["cifar10", 777]["eval_acc1es"]["ori-test@1"] = np.float64(50)
    results["all_results"]["cifar10", 888]["eval_acc1es"]["ori-test@1"] = np.float64(60)
    write(tmp_path / "000000.pickle.pbz2", {"200": results})
    assert mean_accuracy(results, "cifar10", "ori-test") == 55 and np.isnan(mean_accuracy(results, "svhn", "ori-test"))
    with pytest.raises(RequestError, match="15624 of 15625"):
        read_benchmark(tmp_path)


class Malice:
    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize("name", ["evil.pickle.pbz2", "evil.pth"])
def test_nothing_is_executed(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    content = benchmark("200", range(3)) | {"extra": Malice()}
    torch.save(content, name) if name.endswith("pth") else write(tmp_path / name, content)
    with pytest.raises(RequestError, match=f"{name}: not readable") as caught:
        read_benchmark(name)
    assert "\n" not in str(caught.value) and not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "content, said",
    [
        (b"no bzip2", "not readable"),
        (bz2.compress(pickle.dumps([1, 2])), "is no NAS-Bench-201 or NATS-Bench file"),
        (bz2.compress(pickle.dumps({"arch2infos": {0: {"12": {}}}})), "a cell has no training of 200 epochs"),
    ],
)
def test_other_files_are_refused(tmp_path, content, said):
    (tmp_path / "file.pickle.pbz2").write_bytes(content)
    with pytest.raises(RequestError, match=said):
        read_benchmark(tmp_path / "file.pickle.pbz2")
    with pytest.raises(RequestError, match="nothing.pth: not readable"):
        read_benchmark(tmp_path / "nothing.pth")
    with pytest.raises(RequestError, match="holds no cells"):
        (tmp_path / "empty").mkdir()
        read_benchmark(tmp_path / "empty")


@pytest.mark.parametrize(
    "text", ["", "|none~0|", text_of(0).replace("none~2", "none~1"), text_of(0).replace("none~2", "dil_conv~2")]
)
def test_invalid_cells_are_refused(text):
    assert parse_cell(text_of(11_663)) == (3, 3, 3, 1, 2, 3)
    with pytest.raises(RequestError, match="cell: got"):
        parse_cell(text)


def test_the_script_writes_a_table_with_the_lists_of_another(tmp_path, whole):
    np.savez(tmp_path / "other.npz", accuracy=np.zeros(SPACE.size), kendall_indices=np.array([4, 2]))
    done = convert(whole, tmp_path / "table.npz", "--lists", tmp_path / "other.npz")
    assert done.returncode == 0, done.stderr
    assert "cifar10_test: 0.00 to 62.50 percent, best cell 4-4-4-4-4-4" in done.stdout
    assert TruthTable.load(tmp_path / "table.npz", SPACE).subset("kendall_indices").tolist() == [4, 2]
    done = convert(tmp_path / "nothing", "x.npz")
    assert (
        done.returncode == 2 and done.stderr.startswith("convert_nats_bench: error: ") and done.stderr.count("\n") == 1
    )


def released(folder):
    """The files that the supernet paper's code ships, imitated here."""
    folder.mkdir()
    for number, file in enumerate(FILES.values()):
        (folder / file).write_bytes(pickle.dumps([float((cell * 7 + number) % 100) for cell in range(SPACE.size)]))
    (folder / LIST).write_bytes(pickle.dumps([15_624, 0, 11_663]))
    return folder


def test_the_paper_s_own_tables_are_read_with_their_list(tmp_path):
    folder = released(tmp_path / "benchmark_data")
    done = convert(folder, tmp_path / "data" / "table.npz")
    assert done.returncode == 0 and "kendall_indices: 3 cells" in done.stdout
    table = TruthTable.load(tmp_path / "data" / "table.npz", SPACE)
    assert set(table.accuracies) == set(FILES) and table.subset("kendall_indices").tolist() == [15_624, 0, 11_663]
    assert (
        table.lookup("imagenet16_120_test", [11_663])[0]
        == (11_663 * 7 + list(FILES).index("imagenet16_120_test")) % 100
    )


def test_a_table_without_the_list_is_reported_and_the_list_can_be_brought(tmp_path):
    folder = released(tmp_path / "benchmark_data")
    (folder / LIST).rename(tmp_path / LIST)
    done = convert(folder, tmp_path / "table.npz")
    assert done.returncode == 0 and "no kendall_indices" in done.stdout and "--lists" in done.stdout
    with pytest.raises(
        RequestError,
        match="got the list 'kendall_indices', allowed: null.*method.ranking.subset=null, or bring it .* --lists",
    ):
        TruthTable.load(tmp_path / "table.npz", SPACE).subset("kendall_indices")
    assert convert(folder, tmp_path / "table.npz", "--lists", tmp_path / LIST).returncode == 0
    assert len(TruthTable.load(tmp_path / "table.npz", SPACE).subset("kendall_indices")) == 3


@pytest.mark.parametrize(
    "content, said",
    [
        (b"text", "not readable"),
        (pickle.dumps(Malice()), "only plain containers and numbers"),
        (pickle.dumps([1, 1]), "holds no list of different cells"),
        (pickle.dumps([0, 15_625]), "0 to 15624"),
        (pickle.dumps([]), "holds no list"),
        (pickle.dumps([0.5]), "holds no list"),
        (pickle.dumps(["0"]), "holds no list"),
    ],
)
def test_an_invalid_list_is_refused_and_nothing_executed(tmp_path, monkeypatch, content, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / LIST).write_bytes(content)
    with pytest.raises(RequestError, match=said):
        read_list(tmp_path / LIST)
    assert not (tmp_path / "executed").exists()


def test_accuracies_of_another_space_are_refused(tmp_path):
    folder = released(tmp_path / "benchmark_data")
    (folder / "cifar100_accs.pkl").write_bytes(pickle.dumps([50.0] * 100))
    with pytest.raises(RequestError, match="cifar100_accs.pkl: holds no list of 15625 accuracies"):
        read_released(folder)
