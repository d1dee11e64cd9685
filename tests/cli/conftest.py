"""A runner that does no work: what the command makes of a run's end can be seen without torch."""

import json
import sys
import types

import pytest

from quantlab.cli.main import main
from quantlab.config import to_plain
from quantlab.errors import Pruned
from quantlab.run.directory import RunDirectory


class StubRunner:
    """Stands in for `quantlab.runner`: `fails[seed]` is raised by the run with that seed; `configs` saw every run."""

    def __init__(self):
        self.fails, self.configs, self.typed = {}, [], []
        self.wrong = {}  # problems, by seed, that are found before the first job

    def run(self, config, typed):
        self.configs.append(config)
        self.typed.append(typed)
        if config.resume is None:
            directory = RunDirectory.create(config.output_dir, to_plain(config), typed)
        else:
            directory = RunDirectory.open(config.resume)
        directory.close()
        if config.seed in self.fails:
            error = self.fails[config.seed]
            code = getattr(error, "exit_code", 1)
            state = "pruned" if isinstance(error, Pruned) else "interrupted" if code > 2 else "failed"
            directory.write_status(state, str(error), code)
            raise error
        metrics = {"psnr": 20.0, "fid_to_fp32": 1.25 + config.seed}
        directory.results_path.write_text(
            json.dumps({"method": "", "task": "", "model": "", "bits": {}, "metrics": metrics})
        )
        directory.write_status("completed", exit_code=0)


@pytest.fixture
def runner(monkeypatch, tmp_path):
    stub = StubRunner()
    module = types.ModuleType("quantlab.runner")
    module.run = stub.run
    module.problems_of = lambda configs: [stub.wrong.get(config.seed, []) for config in configs]
    monkeypatch.setitem(sys.modules, "quantlab.runner", module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    return stub


@pytest.fixture
def command(runner, capsys):
    """`command("seed=1", ...)` -> (exit code, stdout, stderr) of `quantlab seed=1 ...`."""

    def call(*words):
        code = main(words)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
