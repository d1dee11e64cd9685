"""A run's directory that somebody else hands over: going on with it writes inside it, and into one's own cache."""

import json

import pytest


def interrupt(run):
    (run / "results.json").unlink()
    (run / "status.json").write_text(json.dumps({"state": "interrupted"}))


@pytest.fixture
def stopped(command, runner, tmp_path):
    """The directory of a run of this config that was interrupted."""

    def make(*words):
        assert command(f"output_dir={tmp_path / 'run'}", *words)[0] == 0
        interrupt(tmp_path / "run")
        runner.configs.clear()
        return tmp_path / "run"

    return make


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "run.log", "results.json", "checkpoints", ".hydra", "figures/training.png", "samples/x"]
)
def test_nothing_is_written_through_a_link(name, stopped, command, runner, tmp_path):
    run, outside = stopped(), tmp_path / "outside"
    outside.write_text("mine")
    link = run / name
    link.parent.mkdir(exist_ok=True)
    if link.is_dir():
        link.rename(run / "moved")
    link.symlink_to(outside)
    code, out, err = command(f"resume={run}")
    assert code == 2 and f"{link} is a link to {outside}, and a run writes only into its own directory" in err
    assert outside.read_text() == "mine"


def test_nor_by_a_run_that_begins_in_a_directory_with_links(command, runner, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.log").symlink_to(tmp_path / "outside")
    code, out, err = command(f"output_dir={tmp_path / 'run'}")
    assert code == 2 and "run.log is a link" in err and not (tmp_path / "outside").exists()


def test_the_cache_is_ones_own_unless_it_is_typed_or_one_is_there(stopped, command, runner, tmp_path, monkeypatch):
    theirs, own = tmp_path / "theirs", tmp_path / "own"
    monkeypatch.setenv("QUANTLAB_CACHE", str(own))
    run = stopped(f"cache_dir={theirs}")
    command(f"resume={run}")  # where it was started it has its own, made or not
    assert runner.configs[-1].cache_dir == str(theirs)
    run = run.rename(tmp_path / "handed_over")
    interrupt(run)
    theirs.mkdir()
    (theirs / "precious" / "file").mkdir(parents=True)
    code, out, err = command(f"resume={run}", "trainer.num_workers=0")
    assert runner.configs[-1].cache_dir == str(own) and f"cache_dir of this run, {theirs}, holds no cache" in err

    interrupt(run)
    command(f"resume={run}", f"cache_dir={theirs}")
    assert runner.configs[-1].cache_dir == str(theirs)

    (theirs / "full_precision" / "0123456789abcdef").mkdir(parents=True)
    (theirs / "full_precision" / "0123456789abcdef" / "lock").touch()
    interrupt(run)
    code, out, err = command(f"resume={run}")
    assert runner.configs[-1].cache_dir == str(theirs) and "holds no cache" not in err
