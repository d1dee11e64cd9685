"""The command `quantlab`: the typed words are checked as a whole, then one run, a sweep, or a resumed run happens."""

import signal
import sys
from collections.abc import Sequence

from quantlab.errors import Interrupted, RequestError, did_you_mean
from quantlab.signals import SIGNALS, interruptible, signal_that_came

OWN_FLAGS = ("-h", "--help", "--version", "-m", "--multirun")
HYDRA_FLAGS = ("--hydra-help", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc")


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the words `argv` (default: the shell's) ask for; return the exit code: 0, 1, 2, 130 or 143."""
    words = list(sys.argv[1:] if argv is None else argv)
    with interruptible():
        try:
            code = _answer(words)
        except (Exception, KeyboardInterrupt, Interrupted) as error:
            from quantlab.cli.outcome import outcome_of     # late: only from here on is a signal answered, while modules are loaded too

            code = outcome_of(error).tell().exit_code
        if (number := signal_that_came()) is not None:
            code = 128 + number     # whatever became of it on the way here
    if argv is None:
        # Nothing is left to save: a signal that comes while Python packs up ends the process, without a traceback.
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
    return code


def _answer(words: list[str]) -> int:
    if "--help" in words or "-h" in words:
        from quantlab.cli.help import help_page

        print(help_page(words))
        return 0
    if "--version" in words:
        from quantlab import __version__

        print(f"quantlab {__version__}")
        return 0
    if any(word.split("=")[0] in HYDRA_FLAGS for word in words):
        from quantlab.cli.jobs import let_hydra_answer

        return let_hydra_answer(words)

    multirun, overrides = _split(words)
    if any(word.startswith("resume=") and word not in ("resume=", "resume=null") for word in overrides):
        from quantlab.cli.resume import resume

        return resume(words).exit_code

    from quantlab.cli.jobs import start
    from quantlab.cli.request import check_request

    request = check_request(overrides, multirun)
    outcomes = start(request)
    if not multirun:
        return outcomes[0].exit_code

    from quantlab.cli.multirun import finish

    return finish(request, outcomes)


def _split(words: list[str]) -> tuple[bool, list[str]]:
    """Whether it is a sweep, and the overrides. Raises `RequestError` for options that do not exist, all at once."""
    flags = [word for word in words if word.startswith("-")]
    unknown = [flag for flag in flags if flag not in OWN_FLAGS]
    if unknown:
        options = (*OWN_FLAGS, *HYDRA_FLAGS)
        raise RequestError(*(f"{flag}: no such option{did_you_mean(flag, options) or ';'} Type quantlab --help for all"
                             for flag in unknown))
    return bool(flags), [word for word in words if word not in flags]


if __name__ == "__main__":
    sys.exit(main())
