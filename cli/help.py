"""The page of `quantlab --help`, read from the YAMLs: an option is described by its first comment line."""

import re
from collections import Counter
from collections.abc import Sequence

from quantlab.config.catalog import groups, headline, options, root_config, table_rows

ORDER = ("method", "model", "task", "quantizer", "trainer", "logger", "experiment")

MANY = 3  # options in one folder of a group: more are listed on demand

USAGE = """\
quantlab: compose a task, a model, a quantizer and a method into one run with metrics and figures.

usage: quantlab [GROUP=OPTION ...] [KEY=VALUE ...]
       quantlab -m KEY=VALUE,VALUE ...     a sweep: one job per combination, one table at the end
       quantlab resume=DIR                 continue a stopped run

examples:
  quantlab method=accuquant model=ddim
  quantlab method=ptq method.reconstruction=block quantizer.weight.bits=3 output_dir=outputs/w3
  quantlab method=qat quantizer.weight.bits=1 quantizer.activation.bits=1
  quantlab -m method=accuquant,ptq quantizer.activation.bits=6,8 seed=0,1,2"""

END = """\
options:
  -m, --multirun      sweep over values: seed=0,1 'model=glob(resnet*)' 'seed=range(0,5)'; skips finished jobs
  --dry-run           with -m: the jobs, and what each would cost by what similar runs cost; nothing is run
  hydra/launcher=processes, slurm, ray   jobs side by side; hydra/sweeper=optuna searches: see docs/sweeps.md
  --config-dir DIR    your own options: DIR/model/mine.yaml is model=mine; also 'hydra.searchpath=[file://DIR]'
  --config-name NAME  DIR/NAME.yaml as the root config, whose defaults begin with '- config'
  -h, --help [GROUP]  this page, or all options of a group
  --version, --yes    the version; start a sweep of more than 1,000 jobs
  --cfg job           the whole config, as YAML; --resolve fills in interpolations, --package model shows a part
  --hydra-help, --info, --shell-completion: Hydra's own

exit codes: 0 done; 1 the run, or a job of a sweep, failed; 2 invalid request, nothing was done;
            130, 143 interrupted by SIGINT, SIGTERM: saved, and the resume command is printed
more: README.md; the YAML under conf/ explains every key; HYDRA_FULL_ERROR=1 shows a traceback"""


def help_page(words: Sequence[str] = ()) -> str:
    """The whole page, or for groups among `words` all their options; without a trailing newline."""
    present = groups()
    asked = [word.rstrip("=") for word in words if word.rstrip("=") in present]
    if asked:
        return "\n\n".join(_group(group, whole=True) for group in asked)
    ordered = [group for group in ORDER if group in present] + [group for group in present if group not in ORDER]
    return "\n\n".join([USAGE, *filter(None, map(_group, ordered)), _root_keys(), END])


def _group(group: str, whole: bool = False) -> str:
    named = options(group)
    folders = Counter(name.rpartition("/")[0] for name in named)
    lines, said = [f"{group}="], set()
    for name, path in named.items():
        folder = name.rpartition("/")[0]
        if whole or not folder or folders[folder] <= MANY:
            lines.append(_line(name, headline(path)))
        elif folder not in said:
            said.add(folder)
            lines.append(
                _line(f"{folder}/...", f"{folders[folder]} of them, all listed by quantlab --help {group}; one is")
            )
            lines.append(_line(f"  {name}", headline(path)))
    if whole and group == "experiment":
        lines += _rows()
    return "\n".join(lines) if named else ""


def _rows() -> list[str]:
    """The rows of the papers' tables that are not options themselves."""
    listed = table_rows()
    lines = [
        "",
        (
            "rows of the papers' tables that are an experiment with one more override (add data_dir=DIR), their columns"
            " as a sweep:"
        ),
    ]
    for paper, rows in listed["with_a_word"].items():
        lines.append(f"  {paper}:")
        for one in rows:
            sweep = "-m " if "," in one["type"] else ""
            lines += [f"    {one['row']}", f"        quantlab {sweep}{one['type']}"]
    lines += ["", "rows that no experiment expresses yet, and what they need:"]
    for paper, rows in listed["not_yet"].items():
        lines.append(f"  {paper}:")
        lines += [line for one in rows for line in (f"    {one['row']}", f"        {one['needs']}")]
    return lines


def _root_keys() -> str:
    lines = re.findall(r"^(\w+): +([^#\n]*?) +# (.+)$", root_config(), flags=re.MULTILINE)
    # defaults that Hydra computes are not shown
    shown = [(key if "${" in value else f"{key}={value}", text) for key, value, text in lines]
    return "\n".join(["other keys, with their defaults:"] + [_line(name, text) for name, text in shown])


def _line(name: str, text: str) -> str:
    return f"  {name:<24} {text}".rstrip()
