"""What runs share is what its place says, or is made again."""

import shutil

import pytest
import torch

from quantlab.run.cache import Cache

FACTS = {"steps": 10, "kept": (1, 2), "by": {3: "c", 20: "t"}}
OTHER = FACTS | {"steps": 11}


@pytest.fixture
def cache(tmp_path):
    cache = Cache(tmp_path)
    cache.save("weights", FACTS, {"weight": torch.ones(3)})
    cache.save("weights", OTHER, {"weight": torch.zeros(3)})
    return cache


def test_tensors_come_back(cache):
    assert torch.equal(cache.load("weights", FACTS)["weight"], torch.ones(3))
    assert cache.load("weights", {"steps": 12}) is None


def test_tensors_put_in_the_place_of_others_are_made_again(cache, caplog):
    for suffix in ("json", "safetensors"):
        shutil.copy(
            cache.folder("weights", OTHER) / f"tensors.{suffix}", cache.folder("weights", FACTS) / f"tensors.{suffix}"
        )
    made = cache.fetch("weights", FACTS, lambda: {"weight": torch.ones(3)})
    assert torch.equal(made["weight"], torch.ones(3))
    assert "holds something else than its place says" in caplog.text


def test_files_put_in_the_place_of_others_are_made_again(cache):
    def make(text):
        return lambda folder: (folder / "file").write_text(text)

    one, other = (cache.fetch_files("walks", facts, make(str(facts))) for facts in (FACTS, OTHER))
    shutil.rmtree(one.parent)
    shutil.copytree(other.parent, one.parent)
    assert (cache.fetch_files("walks", FACTS, make("again")) / "file").read_text() == "again"
    assert (cache.fetch_files("walks", FACTS, make("never")) / "file").read_text() == "again"
