"""--dry-run: what each job would cost, as far as similar runs say it."""

import json
from pathlib import Path


def with_cost(run, seconds):
    path = Path(run) / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"cost": {"seconds": seconds}}))


def test_jobs_cost_what_similar_runs_cost(command, runner):
    command("-m", "seed=0,1", "method.group_size=4", "output_dir=sweep")
    with_cost("sweep/seed=0", 60)
    with_cost("sweep/seed=1", 100)
    runner.configs.clear()
    words = ("-m", "seed=1,2", "method.group_size=4,5", "output_dir=other", "hydra/launcher=processes")
    code, out, _ = command(*words, "hydra.launcher.workers=2", "--dry-run")
    assert code == 0 and runner.configs == [] and not Path("other").exists()
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[1] == "seed=1 method.group_size=4 to run 1:20 min 2 alike but for the seed, 1:00 min to 1:40 min"
    assert lines[2].startswith("seed=1 method.group_size=5 to run 1:20 min 2 alike but for what is swept")
    assert lines[-1].startswith(
        "4 jobs, 0 completed, 4 to run: 5:20 min one after the other, at least 2:40 min by 2 workers; in "
    )


def test_what_is_done_costs_nothing_and_what_is_unlike_is_unknown(command, runner):
    command("-m", "seed=0,1", "output_dir=sweep")
    with_cost("sweep/seed=0", 60)
    (Path("sweep/seed=1") / "results.json").unlink()
    _, out, _ = command("-m", "seed=0,1", "output_dir=sweep", "--dry-run")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[1] == "seed=0 completed - -"
    assert lines[2] == "seed=1 goes on 1:00 min 1 alike but for the seed"
    _, out, _ = command("-m", "seed=0,1", "method=ptq", "output_dir=sweep2", "--dry-run")
    assert out.count("unknown") == 3 and "2 of unknown cost" in out


def test_one_run_has_no_jobs_to_show(command, runner, tmp_path):
    code, _, err = command("seed=0", "--dry-run")
    assert code == 2 and "--dry-run: is of sweeps; type quantlab -m" in err and list(tmp_path.iterdir()) == []
