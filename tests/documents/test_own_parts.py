"""A model, data and a method of one's own, as README.md and docs/ show them, make a run whose model loads."""

import ast
from collections import defaultdict

from documents import BLOCKS, OWN_FILES


def test_they_run_together_and_the_model_loads(own_parts, quantlab, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("method=bounded", "method.limit=0.01", "model=mine", "task=stripes", "trainer.max_steps=2", "device=cpu")
    code, table, problems = quantlab("--config-dir", str(own_parts), *words, "output_dir=outputs/DATE/TIME")
    assert code == 0 and "bounded" in table, problems

    (program,) = [block.code for block in BLOCKS if block.language == "py" and block.page == "results.md"]
    names = {}
    exec(compile(program, "results.md", "exec"), names)
    largest = max(weight.abs().max() for name, weight in names["network"].named_parameters() if name.endswith("weight"))
    assert largest > 0


def test_a_file_is_the_same_in_every_page():
    shown = defaultdict(set)
    for block in OWN_FILES:
        shown[block.file].add(ast.dump(ast.parse(block.code)) if block.language == "python" else block.code)
    assert len(shown) == 7 and all(len(texts) == 1 for texts in shown.values())
