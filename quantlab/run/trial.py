"""A run that is a trial of a search: after each validation Optuna's pruner says whether the run is worth its time.

The trial itself asks, so that it stops at that validation and not some steps later, whichever process or machine it
runs on; all that it needs there is the search's storage.
"""

import inspect
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantlab.errors import RequestError, did_you_mean

logger = logging.getLogger("quantlab")

PRUNERS = {"median": "MedianPruner", "halving": "SuccessiveHalvingPruner", "hyperband": "HyperbandPruner"}

# Of the job that this process carries out: its trial belongs to the process, as its signals do.
_current: "Trial | None" = None


@dataclass(frozen=True)
class Trial:
    """directory: of the run; storage: a database's URL, or the file of a journal; pruner: of `PRUNERS`, and its
    options; metrics: by which it is pruned, of these the first that its validation measures.
    """

    directory: str
    storage: str
    study: str
    number: int
    pruner: str
    options: dict[str, Any] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()

    def why_pruned(self, step: int, validated: Mapping[str, float]) -> str | None:
        """Report what was validated after `step`; why the run is to end here, or None. Raises LookupError where nothing
        was validated by which it could be pruned, and whatever the storage raises.
        """
        name = next((name for name in self.metrics if name in validated), None)
        if name is None:
            raise LookupError(
                f"its validation measures {', '.join(validated) or 'nothing'}, not {' or '.join(self.metrics)}"
            )
        import optuna

        storage = storage_of(self.storage)
        study = optuna.load_study(study_name=self.study, storage=storage)
        number = storage.get_study_id_from_name(self.study)
        trial = storage.get_trial_id_from_study_id_trial_number(number, self.number)
        storage.set_trial_intermediate_value(trial, step, validated[name])
        if pruner_of(self.pruner, self.options).prune(study, storage.get_trial(trial)):
            return f"pruned after step {step} (validation_{name}={validated[name]:.4g}, {self.pruner} of the search)"
        return None


@contextmanager
def carried_out(trial: Trial | None) -> Iterator[None]:
    """Within the block, the run in the trial's directory is that trial."""
    global _current
    before, _current = _current, trial
    try:
        yield
    finally:
        _current = before


def trial_in(directory: Path) -> Trial | None:
    """What the run in `directory` is a trial of, if it is one."""
    return _current if _current is not None and Path(_current.directory) == Path(directory) else None


def storage_of(said: str) -> Any:
    """Optuna's storage: of a database's URL, or the journal in a file."""
    from optuna import storages

    if "://" in said:
        return storages.get_storage(said)
    return storages.JournalStorage(storages.journal.JournalFileBackend(said))


def pruner_of(name: str, options: Mapping[str, Any]) -> Any:
    """Raises RequestError for options that it does not have."""
    from optuna import pruners

    kind = getattr(pruners, PRUNERS[name])
    allowed = [one for one in inspect.signature(kind).parameters if one != "self"]
    if unknown := [one for one in options if one not in allowed]:
        raise RequestError(
            f"hydra.sweeper.pruner_options: got {unknown[0]}, allowed of {name}: {', '.join(allowed)}"
            f"{did_you_mean(unknown[0], allowed)}"
        )
    try:
        return kind(**options)
    except (TypeError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise RequestError(f"hydra.sweeper.pruner_options: not of {name} ({said}); type other values") from None
