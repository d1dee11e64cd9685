"""What is wrong with how a sweep is to be started: one line, before anything is written."""

import pytest

SWEEP = ("-m", "hydra/launcher=processes", "method=ptq", "seed=0,1")


@pytest.mark.parametrize(
    "words, said",
    [
        ((*SWEEP, "hydra.launcher.workers=0"), "hydra.launcher.workers: got 0, allowed: an integer from 1"),
        ((*SWEEP, "hydra.launcher.gpus=[-1]"), "hydra.launcher.gpus: got [-1], allowed: a list of the numbers of GPUs"),
        ((*SWEEP, "hydra.launcher.wrokers=2"), "hydra.launcher.wrokers: no such key; did you mean 'hydra.launcher.wor"),
        ((*SWEEP, "+hydra.launcher.jobs=2"), "hydra.launcher.jobs: no such key"),
        (("-m", "hydra/launcher=proceses", "seed=0,1"), "did you mean 'processes'? Type hydra/launcher=processes"),
        (("hydra/launcher=processes", "seed=0"), "hydra/launcher=processes: is of sweeps only; type quantlab -m"),
        (("-m", "hydra/launcher=slurm", "seed=0,1"), "there is no SLURM here (no command sbatch)"),
        (
            (
                "-m",
                "hydra/launcher=slurm",
                "hydra.launcher.cluster=local",
                "hydra.launcher.options={a: [1]}",
                "seed=0,1",
            ),
            "hydra.launcher.options: got {a: [1]}, allowed: a mapping, or null; type hydra.launcher.options={",
        ),
        (("-m", "seed=0,1,0"), "seed: got 0 twice, allowed: each value once; type seed=0,1"),
    ],
)
def test_one_line_says_what_to_type(command, runner, tmp_path, words, said):
    code, out, err = command(*words)
    assert (code, out, runner.configs, list(tmp_path.iterdir())) == (2, "", [], [])
    assert said in err and err.count("\n") == 1


@pytest.mark.parametrize("word, got", [("hydra.launcher=1_000", "1000"), ("hydra.sweeper=null", "null")])
def test_a_node_that_is_no_mapping(command, runner, word, got):
    node = word.partition("=")[0]
    code, out, err = command("-m", word, "seed=0,1")
    said = f"quantlab: error: {node}: got {got}, allowed: a mapping; type {node.replace('.', '/')}=basic\n"
    assert (code, out, err, runner.configs) == (2, "", said, [])
