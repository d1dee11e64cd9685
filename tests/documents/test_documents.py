"""What README.md and docs/ say can be typed: their Python runs, their commands are sound requests, their keys, names
and files exist.
"""

import random
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from documents import LINES, OWN_FILES, PROGRAMS, ROOT, SPANS, TEXT, commands
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from section_keys import SECTIONS, dotted

from quantlab.cli.arguments import read_arguments
from quantlab.cli.overrides import parse
from quantlab.cli.report import _parser
from quantlab.cli.search_space import dimension_of
from quantlab.cli.sweep import SEARCHING, corners, expand
from quantlab.config import validate
from quantlab.config.catalog import groups, options, with_folders
from quantlab.quantizers.fixed_point import FixedPointWeight
from quantlab.report.table_definition import cells, load_definition, table_names
from quantlab.search.nas_bench_201 import NasBench201

sys.path.insert(0, str(ROOT / "scripts"))
import reproduce  # noqa: E402

# Keys and choices that the pages' own parts add
OWN_OPTIONS = {tuple(Path(block.file).with_suffix("").parts[1:]) for block in OWN_FILES if block.language == "yaml"}
OWN_KEYS = {
    f"{Path(block.file).parts[1]}.{key}"
    for block in OWN_FILES
    if block.language == "yaml"
    for key in OmegaConf.create(block.code)
}


def surroundings() -> dict:
    """What the programs take as given: someone's layers, network and loss."""
    conv, head, space = torch.nn.Conv2d(2, 3, 3), torch.nn.Linear(3, 2), NasBench201()
    quantizer = FixedPointWeight(2, learn_scale=False)
    quantizer.calibrate(conv.weight.detach())
    supernet = torch.nn.ParameterList([torch.nn.Parameter(torch.ones(2)) for _ in range(5)])
    return {
        "torch": torch,
        "conv": conv,
        "quantizer": quantizer,
        "others": list(head.parameters()),
        "supernet": supernet,
        "edge": 3,
        "steps": 4,
        "draw": lambda: space.subnet(random.randrange(space.size)),
        "complexity": space.complexity,
        "loss": lambda subnet: supernet[subnet[3]].square().sum(),
    }


@pytest.mark.parametrize("program", PROGRAMS, ids=[program.splitlines()[0] for program in PROGRAMS])
def test_a_program_runs_and_its_optimizer_moves_weights(program):
    random.seed(0)
    names = surroundings()
    exec(compile(program, "document", "exec"), names)
    optimizer = names["optimizer"]
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    before = [weight.detach().clone() for weight in weights]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert not any(torch.equal(weight, old) for weight, old in zip(weights, before))


@pytest.fixture(scope="module")
def folders(own_parts):
    """What a compose is told of the YAML of the pages' own parts."""
    with with_folders([own_parts]), initialize_config_module("quantlab.conf", version_base="1.3"):
        yield [f"hydra.searchpath=[file://{own_parts}]"]


@pytest.mark.parametrize("command", commands())
def test_a_command_is_a_sound_request(command, folders):
    arguments = read_arguments(shlex.split(command)[1:])
    searching = SEARCHING in arguments.overrides
    parsed, problems = parse(arguments.overrides, arguments.multirun, searching)
    dimensions = [dimension_of(one) for one in parsed if one.is_sweep_override()] if searching else []
    jobs = corners(parsed, dimensions, problems) if searching else expand(parsed)
    assert not problems and (len(jobs) > 1) == arguments.multirun
    for job in (jobs[0], jobs[-1])[: len(jobs)]:
        mapping = OmegaConf.to_container(compose("config", [*job, *folders]), resolve=True)
        validate({key: value for key, value in mapping.items() if key != "experiment"})


def test_there_is_something_to_test():
    assert len(PROGRAMS) >= 3 and len(commands()) >= 50


def test_keys_and_choices_exist():
    known = {part for section in SECTIONS for key in dotted(section, section.group) for part in (key, f"{key}.")}
    assigned = [word.partition("=") for span in SPANS for word in span.split() if re.match(r"[a-z_.]+=", word)]
    named = [
        span
        for span in SPANS
        if re.fullmatch(rf"({'|'.join(groups())})\.[a-z_.0-9]+", span) and not span.endswith(".safetensors")
    ]
    wrong = {
        key
        for key in [*named, *(key for key, _, _ in assigned if "." in key)]
        if key not in known | OWN_KEYS and not key.startswith("hydra.")
    }
    wrong |= {
        f"{key}={value}"
        for key, _, value in assigned
        if key in groups() and value not in ("", "NAME", *options(key)) and (key, value) not in OWN_OPTIONS
    }
    assert wrong == set()


def test_files_and_options_of_scripts_exist():
    scripts = "".join(script.read_text() for script in ROOT.glob("scripts/*"))
    words = [word for text in [*LINES, *SPANS] for word in text.partition("#")[0].split()]
    files = {
        word
        for word in [*words, *re.findall(r"\]\(([^)#:]+)\)", TEXT)]
        if re.match(r"(scripts|results|conf|quantlab|tests)/[\w./]+$", word)
    }
    files -= {block.file for block in OWN_FILES}
    missing = {file for file in files if "NAME" not in file and not (ROOT / file).exists()}
    lines = [text.partition("#")[0] for text in [*LINES, *SPANS] if "scripts/" in text.partition("#")[0]]
    missing |= {
        flag
        for line in lines
        for flag in re.findall(r"--[a-z-]+", line)
        if f'"{flag}"' not in scripts and flag != "--help"
    }
    assert missing == set()


def typed(program: str) -> list[list[str]]:
    """The words behind `program` of every line that types it, without placeholders."""
    lines = [part.strip() for text in [*LINES, *SPANS] for part in text.split(" && ")]
    found = [shlex.split(line, comments=True) for line in lines if line.startswith(f"{program} ")]
    return [words[len(program.split()) :] for words in found if "--help" not in words and "TABLE" not in words]


def test_reports_and_tables_can_be_asked_for():
    asked = [_parser().parse_args([word.rstrip(".") for word in words]) for words in typed("quantlab-report")]
    assert len(asked) >= 4
    tables = [reproduce.parse(words) for words in typed("python scripts/reproduce.py")]
    assert len(tables) >= 10
    for one in tables:
        names = table_names() if one.table == reproduce.ALL_TABLES else [one.table]
        for table in [] if one.list else map(load_definition, names):
            assert cells(table, one.profile or next(iter(table.profiles)), one.rows, one.columns)
