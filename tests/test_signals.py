"""Signals are real here: the process sends them to itself."""

import os
import signal
import threading

import pytest

from quantlab import signals
from quantlab.errors import Interrupted


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_interrupts_at_once_and_gives_the_shells_exit_code(number, exit_code):
    with pytest.raises(Interrupted) as caught, signals.interruptible():
        send(number)
        pytest.fail("the block went on")
    assert caught.value.exit_code == exit_code


def test_deferred_block_finishes_first():
    done = []
    with pytest.raises(Interrupted), signals.interruptible():
        with signals.deferred():
            assert not signals.pending()
            send(signal.SIGTERM)
            assert signals.pending()
            with signals.deferred():
                done.append("inner")
            done.append("outer")
        pytest.fail("the signal was lost")
    assert done == ["inner", "outer"]
    assert not signals.pending()


def test_second_signal_does_not_lose_the_first():
    with pytest.raises(Interrupted) as caught, signals.interruptible(), signals.deferred():
        send(signal.SIGTERM)
        send(signal.SIGINT)
    assert caught.value.exit_code == 143


def test_error_in_a_deferred_block_goes_first_and_the_signal_waits():
    with signals.interruptible():
        with pytest.raises(OSError, match="disk"), signals.deferred():
            send(signal.SIGINT)
            raise OSError("disk")
        assert signals.pending()
    assert not signals.pending()


def test_handlers_come_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted), signals.interruptible():
        send(signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_other_threads_are_left_alone():
    seen = []

    def work():
        with signals.interruptible(), signals.deferred():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]
