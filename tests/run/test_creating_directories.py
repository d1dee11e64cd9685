"""A run's directory is created once, whoever creates it too, and holds one run."""

import errno
import os

import pytest
import yaml
from run_files import CONFIG

from quantlab.errors import RequestError
from quantlab.run.atomic_files import claim_directory, create_whole
from quantlab.run.directory import RunDirectory


def test_directory_that_holds_a_run_is_refused(run):
    with pytest.raises(RequestError, match=f"already holds a run.*resume={run.path}"):
        RunDirectory.create(run.path, {"seed": 1}, [])
    assert run.read_config() == CONFIG


def test_run_killed_while_it_was_being_made_can_be_started_again(run):
    run.config_path.unlink()
    assert RunDirectory.create(run.path, CONFIG, []).read_config() == CONFIG


def together(count, work, tmp_path):
    """Exit codes of `work(number)` in `count` forked processes that start as one."""
    start, wait = os.pipe()[::-1]
    children = []
    for number in range(count):
        if (pid := os.fork()) == 0:
            code = 99
            try:
                os.close(start)
                os.read(wait, 1)  # returns in all of them when the parent closes its end
                code = work(number)
            finally:
                os._exit(code)
        children.append(pid)
    os.close(wait)
    os.close(start)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]


@pytest.mark.parametrize("stands", [False, True])
def test_of_processes_that_create_one_directory_together_one_wins_and_the_others_touch_nothing(stands, tmp_path):
    for attempt in range(20):
        path = tmp_path / f"run{attempt}"
        if stands:
            path.mkdir()  # an empty directory that the user made

        def create(number, path=path):
            try:
                RunDirectory.create(path, {"seed": number}, [f"seed={number}"])
            except RequestError as error:
                return 2 if "already holds a run" in str(error) and "\n" not in str(error) else 3
            return 0

        codes = together(4, create, tmp_path)
        assert sorted(codes) == [0, 2, 2, 2]
        run, winner = RunDirectory(path), codes.index(0)
        assert (
            run.read_config() == {"seed": winner}
            and run.read_typed() == [f"seed={winner}"]
            and run.state() == "running"
        )
        assert sorted(file.name for file in path.rglob("*")) == [
            ".hydra",
            ".lock",
            "config.yaml",
            "config.yaml",
            "overrides.yaml",
            "status.json",
        ]


def test_of_threads_that_create_one_directory_together_one_wins(tmp_path):
    from concurrent.futures import ThreadPoolExecutor
    from threading import Barrier

    barrier = Barrier(8)

    def create(number):
        barrier.wait()
        try:
            return RunDirectory.create(tmp_path / "run", {"seed": number}, []) and "won"
        except RequestError:
            return "refused"

    with ThreadPoolExecutor(8) as threads:
        assert sorted(threads.map(create, range(8))) == ["refused"] * 7 + ["won"]


def test_a_file_system_without_hard_links_has_one_winner_too(tmp_path, monkeypatch):
    def link(source, target):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    assert RunDirectory.create(tmp_path / "run", CONFIG, []).read_config() == CONFIG
    with pytest.raises(FileExistsError):
        create_whole(tmp_path / "run" / "config.yaml", "other")
    assert [*tmp_path.rglob(".*.tmp")] == []


def test_directories_named_by_the_time_never_meet(tmp_path):
    path = tmp_path / "outputs" / "12-00-00"

    def claim(number):
        (tmp_path / f"got{number}").write_text(claim_directory(path).name)
        return 0

    assert together(6, claim, tmp_path) == [0] * 6
    names = {(tmp_path / f"got{number}").read_text() for number in range(6)}
    assert (
        names
        == {"12-00-00", *(f"12-00-00-{number}" for number in range(2, 7))}
        == {folder.name for folder in path.parent.iterdir()}
    )


def test_directory_without_a_run_cannot_be_resumed(tmp_path):
    with pytest.raises(RequestError, match="holds no run.*config.yaml is missing"):
        RunDirectory.open(tmp_path)


def test_unwritable_place_is_a_wrong_request(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RequestError, match="cannot write to .*output_dir="):
        RunDirectory.create(tmp_path / "file" / "run", CONFIG, [])


def test_checkpoints_whose_config_is_gone_are_not_taken_for_a_new_run(run):
    run.checkpoints.mkdir()
    (run.checkpoints / "step-00000010.json").write_text("{}")
    run.config_path.unlink()
    with pytest.raises(RequestError, match="checkpoints of a run whose config.yaml is gone"):
        RunDirectory.create(run.path, CONFIG, [])


def edited(run, **changed):
    run.config_path.write_text(yaml.safe_dump({**yaml.safe_load(run.config_path.read_text()), **changed}))
    return RunDirectory(run.path)


def test_a_file_of_another_run_or_another_config_is_refused(run, tmp_path):
    facts, file = {"bound": run.bound}, run.checkpoints / "step-00000010.json"
    edited(run, data_dir="/elsewhere", device="cuda").require_own(facts, file)  # moved, not changed
    run.require_own({}, file)  # of an earlier version
    with pytest.raises(RequestError, match=r"made with another config .* now \(seed: 0 then, 1 now\)") as caught:
        edited(run, seed=1).require_own(facts, file)
    assert len(str(caught.value).splitlines()) == 1
    other = RunDirectory.create(tmp_path / "other", CONFIG, [])
    with pytest.raises(RequestError, match="step-00000010.json belongs to another run"):
        other.require_own(facts, file)
