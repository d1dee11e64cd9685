"""A command with one word that is wrong, drawn from every key of every method: refused in a moment, with exit code 2,
and each line names the key, and says what is allowed and what to type. No line is Hydra's, and none is a list of names.

What the words come to is judged up to where a run would start: a word that happens to be sound is counted as such.
Commands that choose the same options share Hydra's composition of these, as jobs of a sweep do; one in ten does not.
"""

import contextlib
import io
import json
import os
import random
import re
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from unittest.mock import patch

from quantlab.cli.compositions import Compositions
from quantlab.cli.main import main
from quantlab.cli.overrides import dotted_keys

METHODS = {
    "accuquant": (),
    "ptq": (),
    "qat": (),
    "low_bit": (),
    "supernet": (),
    "pretrain": (),
    "evaluate": ("task=digits", "model=resnet20"),
    "sample": (),
}
MODELS = {
    "pretrain": (
        "model=retinanet_small task=detection",
        "model=edsr_small task=super_resolution",
        "model=timm task=digits",
    ),
    "accuquant": ("model=ddpm_cifar10 task=cifar10_generation",),
    "qat": ("quantizer=lsq", "quantizer=reactnet", "task=image_folder", "model=mobilenetv2 task=imagenet"),
    "supernet": ("model=mobilenet_supernet_small",),
}  # fmt: skip
VALUES = (
    "", "null", "[]", "{}", "x", "-1", "0", "1e30", "1e400", "-1e-400", "nan", "inf", "10000000000000000000000", "1.5",
    "true", "'3'", "[1]", "[[1]]", "[x]", "{a: 1}", "{a: {b: [null]}}", "{_target_: os.mkdir}", "é", "'a b'", "a.b",
    "${nope}", "${seed}", "${model}", "${oc.env:NOPE}", "${nope:1}", "${", "???", "../..", "/", "~", "2026-01-01",
    "1_000", "0x10", "[1,null,x,{}]", "'\\0'", "[0,-1]", "[1e30]", "x" * 300,
)  # fmt: skip
SWEPT = ("1,x", "range(1,0)", "range(0,5,0)", "range(0,1e9)", "choice()", "interval(0,1)", "glob(*)", "glob(zzz*)",
         "shuffle(1,x)", "sort(x,1)", "choice(1,[])", "null,x", ",", "1,")  # fmt: skip
ROOTS = ("seed", "device", "data_dir", "cache_dir", "output_dir", "resume")
GROUPS = ("task", "model", "quantizer", "method", "trainer", "logger", "experiment")
HYDRAS_WORDS = re.compile(
    r"Could not|Error merging|Interpolation key|full_key|object_type|HYDRA_FULL_ERROR|Traceback|ConfigKeyError|"
    r"ConfigTypeError|OmegaConf|pydantic|\bNone\b|\bdict\b|In '"
)
# method=sample alone; nothing else is wrong
WITHOUT_A_RUN = (
    "quantlab: error: method.run: got null, allowed: the directory of a finished run of a denoiser; type method.run=DIR"
)
LONGEST = 420  # characters of a line without the words typed


@cache
def keys_of(words: tuple[str, ...]) -> tuple[str, ...]:
    """Every dotted key of the config that these words compose to."""
    from hydra import compose
    from omegaconf import OmegaConf

    from quantlab.cli.hydra_context import hydra_context

    with hydra_context(None):
        return tuple(dotted_keys(OmegaConf.to_container(compose("config", list(words)))))


def drawn(seed: int) -> tuple[list[str], str]:
    """The words of a command, and the one of them that was mutated."""
    draw = random.Random(seed)
    method = draw.choice(list(METHODS))
    words = [f"method={method}", *METHODS[method]]
    if method in MODELS and draw.random() < 0.4:
        words = [f"method={method}", *draw.choice(MODELS[method]).split()]
    keys = keys_of(tuple(words))
    key, value = draw.choice(keys), draw.choice(VALUES)
    leaf = key.rpartition(".")[2]
    at = draw.randrange(len(leaf))
    misspelled = key[: len(key) - len(leaf)] + leaf[:at] + draw.choice("xyz_") + leaf[at + draw.randint(0, 1) :]
    group = draw.choice(GROUPS)
    word = draw.choices(
        [
            f"{key}={value}",
            f"{misspelled}={draw.choice(('1', value))}",
            f"~{draw.choice((key, misspelled, group))}{draw.choice(('', '=1'))}",
            f"{draw.choice(['+', '++'])}{draw.choice((key, misspelled, f'{key}.x', group))}={value}",
            f"{draw.choice((group, f'{group}@x', f'/{group}'))}={draw.choice((value, 'ddimm', 'none', '[a,b]'))}",
            f"{draw.choice((key, *ROOTS, group))}={draw.choice(SWEPT)}",
            f"{draw.choice(ROOTS)}={value}",
            f"{key}.{draw.choice(('x', '0', '_target_', ''))}={value}",
            draw.choice((key, f"={value}", f"{key}==1", f"--{key}", f"{key}=1=2", "", "=", ".=1", "a..b=1", "@=1")),
            f"{key}._target_={draw.choice(('os.mkdir', '[]', 'null', '1', 'quantlab.methods.qat.QAT'))}",
            f"hydra.{draw.choice(('launcher', 'callbacks', 'run', 'job', 'sweep.subdir', 'x', 'mode'))}={value}",
        ],
        weights=(10, 3, 2, 3, 2, 3, 2, 2, 1, 1, 1),
    )[0]
    words.insert(draw.randint(0, len(words)), word)
    return (["-m", *words] if draw.random() < 0.15 or draw.random() < 0.6 and "," in word else words), word


@contextlib.contextmanager
def composing_once() -> Iterator[None]:
    def compositions(root: str, naming: list[str]) -> Compositions:
        one = Compositions(root, naming)
        one._shared = composed_before((root, *naming))
        return one

    with patch("quantlab.cli.request.Compositions", compositions):
        yield


@cache
def composed_before(of: tuple[str, ...]) -> dict:
    return {}


@contextlib.contextmanager
def stopped_at_the_start() -> Iterator[list]:
    """While the block runs, a command that is sound ends where its run would begin."""
    started: list = []

    class Done:
        exit_code = 0

    with (
        patch("quantlab.cli.jobs.run_alone", lambda request: started.append(request) or Done),
        patch("quantlab.cli.jobs.sweep", lambda request: started.append(request)),
        patch("quantlab.cli.multirun.finish", lambda request, interrupted: 0),
    ):
        yield started


def trial(seed: int, folder: Path, shared: Path) -> str:
    words, word = drawn(seed)
    said, start = io.StringIO(), time.process_time()
    os.chdir(folder)
    with contextlib.ExitStack() as stack:
        if seed % 10:
            stack.enter_context(composing_once())
        started = stack.enter_context(stopped_at_the_start())
        stack.enter_context(contextlib.redirect_stdout(said))
        stack.enter_context(contextlib.redirect_stderr(said))
        code = main([*words])
    os.chdir(shared)
    seconds, typed = time.process_time() - start, f"quantlab {json.dumps(words, ensure_ascii=False)}"
    lines = said.getvalue().splitlines()
    assert seconds < 5, f"{seconds:.1f} s: {typed}"
    if started and code == 0 or lines == [WITHOUT_A_RUN]:
        return "sound"
    assert code == 2 and lines, f"exit {code}: {typed}: {said.getvalue()[-300:]}"
    assert not (left := list(folder.rglob("*"))), f"{typed} left {left[:3]}"
    fault = next(filter(None, (fault_of(line, word) for line in lines)), "")
    key = key_of(word)
    names = [part for part in (word, key, key.rpartition(".")[2], key.split(".")[0]) if part]
    if names and not any(name in line for line in lines for name in names):
        fault = fault or f"names no key: {lines[0]}"
    assert not fault, f"{fault} <- {typed}"
    return "refused"


def key_of(word: str) -> str:
    return re.split("[=@]", word.lstrip("+~-"))[0]


def fault_of(line: str, word: str) -> str:
    """What a line of stderr does wrong, or nothing."""
    rest = line.replace(word, "").replace(key_of(word) or "\0", "").replace("x" * 300, "")
    fault = ""
    if not line.startswith("quantlab: error: "):
        fault = "no error line"
    elif found := HYDRAS_WORDS.search(rest):
        fault = f"Hydra's word {found[0]!r}"
    elif not re.search(r"[Tt]ype |[Dd]rop |[Rr]emove|[Mm]end|[Gg]ive ", line):
        fault = "says nothing to type"
    elif len(rest) > LONGEST:
        fault = f"{len(rest)} characters"
    return fault and f"{fault}: {line[:260]}"
