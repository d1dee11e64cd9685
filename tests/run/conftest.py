"""A directory that holds a run."""

import pytest
from run_files import CONFIG

from quantlab.run.directory import RunDirectory


@pytest.fixture
def run(tmp_path):
    """A run that another process began, as it were."""
    run = RunDirectory.create(tmp_path / "outputs" / "run", CONFIG, ["method=accuquant", "method.learning_rate=1e-5"])
    run.close()
    return run
