"""A few trials of every campaign; `python scripts/campaigns.py` makes all of them."""

import pytest
import torch
from campaign import CONFIG, seeds, try_one
from undrawn import undrawn


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in forked runs
    with undrawn():
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("campaigns")


@pytest.mark.parametrize("name", CONFIG)
def test_a_few_trials(name, shared, capfd):
    trials = [try_one(name, seed, shared) for seed in seeds(name, "small")]
    assert [trial for trial in trials if trial.fault] == []
