"""Any file of a run or of its cache, cut, emptied, removed or with some bytes changed: the run is resumed, or another
one made from it, with the right numbers, or it is refused in one line. What a warning or a note says is seen: a lost
best checkpoint, a lost line of metrics.jsonl. (That file only describes: a digit of it that changed is not noticed.)
"""

import random
import shutil
from pathlib import Path

from small_runs import SMALL, quantlab, same_numbers, whole

from quantlab.run.directory import RunDirectory

DAMAGES = ("flip a bit", "change bytes", "cut", "empty", "remove", "append")
CACHED = ("qat", "accuquant", "ptq", "supernet", "pretrain_classifier")


def trial(seed: int, folder: Path, shared: Path) -> str:
    draw = random.Random(seed)
    name = draw.choice(list(SMALL))
    reference = whole(name, shared)
    run = RunDirectory(shutil.copytree(reference, folder / "run"))
    if name in CACHED and draw.random() < 0.3:
        return _damaged_cache(draw, name, reference, folder, shared)
    interrupted = draw.random() < 0.7
    if interrupted:
        run.results_path.unlink()
        for suffix in (".json", ".safetensors"):
            run.model_path.with_suffix(suffix).unlink()
        run.write_status("running")
    file, damage = _damage(draw, [file for file in run.path.rglob("*") if file.is_file()])
    what = f"{damage} {file.relative_to(run.path)} of {name}"
    if interrupted:
        code, said = quantlab(f"resume={run}")
        if code == 0:
            difference = same_numbers(run.path, reference)
            if file.name == "metrics.jsonl" and difference == "rows":
                return "resumed to the same numbers, a line of metrics.jsonl changed or taken out"
            if difference == "best" and "may be lost" in str(RunDirectory(run).read_results().get("notes")):
                return "resumed to the same numbers but those of the best checkpoint, which a note says"
            assert difference == "", f"{what}: {difference}"
            return "resumed to the same numbers"
        return _refused(what, code, said)
    code, said = quantlab("method=evaluate", f"method.run={run}", f"output_dir={folder / 'out'}", *_cache(shared))
    if name == "supernet" or code != 0:
        return _refused(what, code, said)
    found = RunDirectory(folder / "out").read_results()["metrics"]
    expected = RunDirectory(reference).read_results()["metrics"]
    assert all(found[key] == expected[key] for key in found if key in expected), f"{what}: {found}, not {expected}"
    return "evaluated to the same numbers"


def _damaged_cache(draw: random.Random, name: str, reference: Path, folder: Path, shared: Path) -> str:
    cache = Path(shutil.copytree(shared / "cache", folder / "cache"))
    file, damage = _damage(draw, [file for file in cache.rglob("*") if file.is_file() and file.name != "lock"])
    words = (*SMALL[name], f"output_dir={folder / 'again'}", f"cache_dir={cache}")
    code, said = quantlab(*words)
    what = f"{damage} {file.relative_to(cache)}, then {name}"
    assert code == 0, f"{what}: exit {code}: {said[-500:]}"
    assert (difference := same_numbers(folder / "again", reference, "metrics")) == "", f"{what}: {difference}"
    return "made again from a damaged cache, to the same numbers"


def _damage(draw: random.Random, files: list[Path]) -> tuple[Path, str]:
    """Any kind of file is as likely as any other, however many there are of it."""
    kinds: dict[str, list[Path]] = {}
    for file in sorted(files):
        kinds.setdefault(f"{file.parent.name}/{file.suffix or file.name}", []).append(file)
    file, damage = draw.choice(kinds[draw.choice(sorted(kinds))]), draw.choice(DAMAGES)
    data = bytearray(file.read_bytes())
    if damage == "remove":
        file.unlink()
        return file, damage
    if damage == "flip a bit" and data:
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif damage == "change bytes" and data:
        start = draw.randrange(len(data))
        data[start : start + 8] = draw.randbytes(len(data[start : start + 8]))
    elif damage == "cut":
        del data[draw.randrange(len(data)) if data else 0 :]
    elif damage == "empty":
        data.clear()
    else:
        data += draw.randbytes(16)
    file.write_bytes(data)
    return file, damage


def _refused(what: str, code: int, said: str) -> str:
    errors = [line for line in said.splitlines() if line.startswith("quantlab: error")]
    assert code in (1, 2) and len(errors) == 1, f"{what}: exit {code}, {len(errors)} lines: {said[-500:]}"
    assert "Traceback" not in said and "HYDRA_FULL_ERROR" not in said, f"{what}: {errors[0]}"
    return "refused in one line"


def _cache(shared: Path) -> tuple[str, ...]:
    return (f"cache_dir={shared / 'cache'}",)
