"""Processes that load data die while nobody waits for them."""

import multiprocessing
import signal
from types import SimpleNamespace

import pytest
import torch

from quantlab.step_batches import StepBatches, _Collate


@pytest.fixture
def batches():
    """Two processes that load the batches of eight steps, and those processes."""
    others = set(multiprocessing.active_children())
    data = torch.arange(8.0).reshape(8, 1)
    method = SimpleNamespace(dataset=data, collate=torch.stack, batch_indices=lambda step: [step % 8])
    accelerator = SimpleNamespace(process_index=0, num_processes=1, device=torch.device("cpu"))
    made = StepBatches(method, 0, 8, accelerator, workers=2)
    return made, [process for process in multiprocessing.active_children() if process not in others]


@pytest.fixture
def deaths():
    """How often the handler that was there before has heard of a process's end."""
    heard = []
    before = signal.signal(signal.SIGCHLD, lambda number, frame: heard.append(number))
    yield heard
    signal.signal(signal.SIGCHLD, before)


def test_nothing_is_said_of_a_process_that_ends_after_the_loop_has_failed(deaths):
    def fails():
        raise OSError("no such file")
        yield

    batches = StepBatches.__new__(StepBatches)
    batches.batches, batches.waiting = fails(), False
    with batches.no_death_inside_a_step():
        with pytest.raises(OSError, match="no such file"):
            list(batches)
        signal.raise_signal(signal.SIGCHLD)  # as the other processes end, while the run is saved
        assert not deaths
    signal.raise_signal(signal.SIGCHLD)
    assert len(deaths) == 1


def test_the_processes_end_before_their_deaths_are_heard_again(batches):
    batches, processes = batches
    with batches.no_death_inside_a_step():
        for step, _ in enumerate(batches):
            if step == 2:
                processes[0].kill()  # it has nothing left that the loop will ask for
                break
    assert not set(processes) & set(multiprocessing.active_children())
    signal.raise_signal(signal.SIGCHLD)


def test_a_pinned_batch_keeps_what_is_no_tensor(monkeypatch):
    """torch's own pinning, as on a GPU, would make a list of the range that says which denoising steps."""
    from torch.utils.data._utils.pin_memory import pin_memory

    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    batch = {"steps": range(2, 5), "noise": [None, torch.ones(2)], "condition": {"class": torch.zeros(1)}}
    found = pin_memory(_Collate(lambda items: items)(batch)).content
    assert found["steps"] == range(2, 5) and found["noise"][0] is None and len(pinned) == 2
