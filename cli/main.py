"""The command `quantlab`: checks the arguments as a whole, then starts a run, a sweep, or a resumed run."""

import argparse
import gc
import signal
import sys
from collections.abc import Callable, Sequence

from quantlab.errors import Interrupted
from quantlab.run.signals import SIGNALS, interruptible, signal_that_came

USUAL = gc.get_threshold()


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the words `argv` (default: the shell's) ask for; return the exit code: 0, 1, 2, 130 or 143."""
    words = list(sys.argv[1:] if argv is None else argv)
    # While a request is read and checked, many objects come and few go: rarely looking for garbage is a twentieth less.
    gc.set_threshold(100_000)
    code = answered(lambda: _answer(words))
    gc.set_threshold(*USUAL)
    if argv is None:
        # Nothing is left to save: a signal that comes while Python packs up ends the process, without a traceback.
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
    return code


def answered(answer: Callable[[], int]) -> int:
    """The exit code that `answer` returns, or that of what it raises, which is said on stderr."""
    code = 0
    with interruptible():
        # Modules are loaded from here on, where a signal is answered.
        try:
            from quantlab.cli.outcome import ends_with_its_reader
            from quantlab.run.log import unstoppable_stderr

            with unstoppable_stderr(), ends_with_its_reader():
                code = answer()
        except (Exception, KeyboardInterrupt, Interrupted) as error:
            from quantlab.cli.outcome import outcome_of

            code = outcome_of(error).tell().exit_code
        if (number := signal_that_came()) is not None:
            code = 128 + number  # whatever became of it on the way here
    return code


def _answer(words: list[str]) -> int:
    from quantlab.cli.arguments import read_arguments

    arguments = read_arguments(words)
    if arguments.version:
        from quantlab import __version__

        print(f"quantlab {__version__}")
        return 0
    if not arguments.help and any(
        word.startswith("resume=") and word not in ("resume=", "resume=null") for word in arguments.overrides
    ):
        from quantlab.cli.resume import resume

        gc.set_threshold(*USUAL)
        return resume(words).exit_code

    from quantlab.cli.folders import own_folders

    with own_folders(arguments):
        return _help(arguments) if arguments.help else _start(arguments)


def _help(arguments: argparse.Namespace) -> int:
    from quantlab.cli.help import help_page

    print(help_page(arguments.overrides))
    return 0


def _start(arguments: argparse.Namespace) -> int:
    from quantlab.cli.arguments import question
    from quantlab.cli.request import check_request

    if question(arguments):
        from quantlab.cli.jobs import let_hydra_answer

        return let_hydra_answer(arguments)
    request = check_request(arguments)
    gc.set_threshold(*USUAL)
    if arguments.dry_run:
        from quantlab.cli.dry_run import dry_run

        return dry_run(request)

    from quantlab.cli.jobs import run_alone, sweep  # what a wrong request does without

    if not request.multirun:
        return run_alone(request).exit_code

    if request.search is not None:
        from quantlab.cli.search import search

        return search(request)

    from quantlab.cli.multirun import finish

    return finish(request, sweep(request))


if __name__ == "__main__":
    sys.exit(main())
