"""Going on: with one run by `resume=DIR`, or with the jobs of a sweep that was started again in the same directory."""

from pathlib import Path

from quantlab.cli.outcome import Outcome, outcome_of
from quantlab.config import RunConfig, config_hash, load_config
from quantlab.errors import RequestError
from quantlab.run_directory import RunDirectory

# Where a run lies, and what it runs on, do not make it another experiment.
NOT_THE_EXPERIMENT = ("output_dir", "resume", "device")


def resume(words: list[str]) -> Outcome:
    """Answer `resume=DIR`, typed alone. Raises `RequestError` where there is nothing to go on with."""
    others = [word for word in words if not word.startswith("resume=")]
    if others:
        raise RequestError(f"resume= goes on with a run as it was configured; drop {' '.join(others)}")
    # Not Hydra's grammar: the names of sweep jobs hold "=" and ",", and a shell completes them unquoted.
    directory = Path(words[-1].removeprefix("resume=").strip("'\"")).expanduser().absolute()
    if not directory.is_dir():
        raise RequestError(f"resume: no such directory: {directory}; type the directory of an earlier run")
    if not RunDirectory(directory).holds_a_run():
        raise RequestError(f"resume: {directory} holds no run (no config.yaml); type the directory of an earlier run")
    if state_of(directory) == "completed":
        raise RequestError(f"resume: {directory} already completed; results in {directory / 'results.json'}")
    # The directory may have been moved since.
    config = load_config(directory).model_copy(update={"output_dir": str(directory), "resume": str(directory)})
    try:
        _run(config, typed=RunDirectory(directory).read_typed())
    except (Exception, KeyboardInterrupt) as error:
        return outcome_of(error, directory).tell()
    return Outcome(directory=directory)


def run_or_go_on(config: RunConfig, typed: list[str], may_stand: bool) -> None:
    """Run `config` in its directory. Where that run stands there already (`may_stand`): skip it, or go on with it.

    Raises `RequestError` where another experiment stands there, and whatever the run raises.
    """
    directory = Path(config.output_dir)
    if may_stand and RunDirectory(directory).holds_a_run():
        if _experiment(load_config(directory)) != _experiment(config):
            raise RequestError(f"{directory} holds another experiment; type another output_dir")
        if state_of(directory) == "completed":
            return
        config = config.model_copy(update={"resume": str(directory)})
    _run(config, typed)


def state_of(directory: Path) -> str | None:
    """The `state` in status.json; None where the file is missing or torn."""
    try:
        return RunDirectory(directory).read_status()["state"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _experiment(config: RunConfig) -> str:
    return config_hash(config, without=NOT_THE_EXPERIMENT)


def _run(config: RunConfig, typed: list[str]) -> None:
    from quantlab.runner import run

    run(config, typed)
