"""Sweeps whose jobs run in other processes, as with any Hydra launcher: outcomes are read from the jobs'
directories.
"""

import pytest

from quantlab.cli.main import main

CLASSIFIER = (
    "method=pretrain",
    "task=digits",
    "model=resnet20",
    "model.depth=8",
    "model.width=2",
    "model.pretrain.steps=1",
    "device=cpu",
)


@pytest.mark.parametrize("launcher, workers", [("joblib", "n_jobs"), ("processes", "workers")])
def test_jobs_in_other_processes_are_told_by_their_directories(launcher, workers, tmp_path, capfd):
    # A rate that ends in NaN: that job fails, and the other is not hidden
    words = (
        "-m",
        f"hydra/launcher={launcher}",
        f"hydra.launcher.{workers}=2",
        *CLASSIFIER,
        "model.pretrain.learning_rate=0.01,1e+30",
        "model.pretrain.steps=4",
        f"output_dir={tmp_path / 'sweep'}",
        f"cache_dir={tmp_path / 'cache'}",
    )
    assert main(words) == 1
    out, err = capfd.readouterr()
    lines = {
        line.split()[0]: line.split()[1]
        for line in out.splitlines()
        if line.startswith("model.pretrain.learning_rate=")
    }
    assert lines == {"model.pretrain.learning_rate=0.01": "completed", "model.pretrain.learning_rate=1e+30": "failed"}
    assert "IndexError" not in err
