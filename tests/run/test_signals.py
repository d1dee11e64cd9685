"""Signals, real ones: the process sends them to itself."""

import contextlib
import os
import signal
import threading

import pytest

from quantlab.errors import Interrupted
from quantlab.run import signals


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


def test_omegaconf_makes_no_error_of_its_own_of_a_signal():
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("signalled", lambda: send(signal.SIGTERM), replace=True)
    config = OmegaConf.create({"trainer": "${signalled:}"})
    with pytest.raises(Interrupted), signals.interruptible():
        config.trainer  # noqa: B018
    OmegaConf.clear_resolver("signalled")


def swallow():
    with contextlib.suppress(BaseException):
        send(signal.SIGTERM)


def test_a_swallowed_signal_is_raised_again():
    with pytest.raises(Interrupted) as caught, signals.interruptible():
        swallow()
        assert signals.pending()
        signals.check()
    assert caught.value.exit_code == 143
    with pytest.raises(Interrupted), signals.interruptible():
        swallow()
        with signals.deferred():
            signals.check()  # not here
            done = True
        pytest.fail("the signal was lost")
    assert done


def test_an_error_behind_which_a_signal_stands_is_the_signal():
    with signals.interruptible():
        try:
            try:
                send(signal.SIGINT)
            except BaseException as cause:
                raise TypeError("remade") from cause
        except TypeError as error:
            found = signals.as_interrupted(error)
        assert isinstance(found, Interrupted) and found.exit_code == 130 and found.__cause__ is None
        full = OSError("the disk is full")  # it came while the signal was answered
        assert isinstance(signals.as_interrupted(full), Interrupted) and signals.as_interrupted(full).__cause__ is full
    assert signals.as_interrupted(full) is full


def test_blocks_nest_and_the_outermost_forgets():
    with signals.interruptible():
        with pytest.raises(Interrupted), signals.interruptible():
            send(signal.SIGTERM)
        assert signals.signal_that_came() == signal.SIGTERM
        with pytest.raises(Interrupted):
            send(signal.SIGINT)
    assert signals.signal_that_came() is None


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
