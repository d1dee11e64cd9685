"""A run in two processes that torchrun starts, as a user types it."""

import json
import sys

from run_files import results, status
from tiny import TINY


def test_two_processes_train_together(process, tmp_path):
    launcher = (
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        "29617",
        "-m",
        "quantlab.cli",
    )
    # The last batch of the first epoch has 23 images: 12 for one process, 11 for the other
    running = process(
        "method=pretrain",
        *TINY,
        "model.pretrain.batch_size=145",
        "trainer.drop_last=false",
        "seed=5",
        "trainer.log_every=1",
        "output_dir=two",
        launcher=launcher,
    )
    _, err = running.communicate(timeout=300)
    assert running.returncode == 0, err
    rows = [json.loads(line) for line in (tmp_path / "two/metrics.jsonl").read_text().splitlines()]
    # one line per step, not one per process
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 13))
    assert results(tmp_path / "two")["metrics"]["loss"] > 0 and status(tmp_path / "two")["state"] == "completed"
