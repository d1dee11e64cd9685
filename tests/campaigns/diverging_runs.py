"""A run that diverges, in a step, in its last update or where it is measured, has failed with one line that says since
when; nothing of it is cached, and what it kept is finite.
"""

import random
from pathlib import Path

from small_runs import SMALL, quantlab

from quantlab.run.directory import RunDirectory
from quantlab.run.state import first_not_finite, load_state

RATES = {
    "pretrain_classifier": "model.pretrain.learning_rate",
    "pretrain_denoiser": "model.pretrain.learning_rate",
    "full_precision": "model.pretrain.learning_rate",  # of a run that fetches its weights
    "qat": "method.learning_rate.sgd",
    "low_bit": "method.learning_rate.sgd",
    "supernet": "method.learning_rate",
    "accuquant": "method.learning_rate.activation_scales",
    "ptq": "method.learning_rate.activation_scales",
}
MORE = {
    "pretrain_classifier": ("model.pretrain.optimizer=sgd", "model.pretrain.gradient_clip=null"),
    "full_precision": ("model.pretrain.optimizer=sgd", "model.pretrain.gradient_clip=null"),
    "qat": ("method.schedule=learning_rate",),
}
WORDS = ("NaN", "overflow")


def trial(seed: int, folder: Path, shared: Path) -> str:
    draw = random.Random(seed)
    name = draw.choice(list(RATES))
    rate, steps, every = 10 ** draw.uniform(25, 37), draw.randint(1, 4), draw.randint(1, 3)
    words = (
        *SMALL.get(name, SMALL["qat"]),
        *MORE.get(name, ()),
        f"trainer.max_steps={steps}",
        f"trainer.checkpoint_every={every}",
        f"{RATES[name]}={rate:.3g}",
        f"output_dir={folder / 'run'}",
        f"cache_dir={folder / 'cache' if 'pretrain' in RATES[name] else shared / 'cache'}",
    )
    code, said = quantlab(*words)
    run = RunDirectory(folder / "run")
    if code == 0:  # large, but never NaN
        written = run.results_path.read_text() + run.metrics.path.read_text()
        assert "NaN" not in written and "Infinity" not in written and "null" not in run.metrics.path.read_text()
        return "completed, its numbers large but finite"
    errors = [line for line in said.splitlines() if line.startswith("quantlab: error")]
    assert code == 1 and run.state() == "failed", f"exit {code}, {run.state()}: {' '.join(words)}"
    assert len(errors) == 1 and any(word in errors[0] for word in WORDS), f"{errors}: {' '.join(words)}"
    assert not run.results_path.exists() and not run.model_path.exists()
    for file in [*run.checkpoints.glob("step-*.json"), *(folder / "cache").rglob("*.json")]:
        if file.with_suffix(".safetensors").exists():
            state = load_state(file.with_suffix(""))[0]
            assert (bad := first_not_finite(state.get("method", state))) is None, f"{file.name} holds NaN in {bad}"
    return "in " + next(word for word in ("walks", "overflow", "weights", "validation", "loss") if word in errors[0])
