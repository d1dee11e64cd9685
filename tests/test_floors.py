"""The floors of docs/architecture.md: what a part imports lies below it, and no two modules import each other."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
FLOORS = (
    ("errors", "conf"),
    ("run", "optional"),
    ("config", "progress", "seeding"),
    ("devices", "report"),
    ("quantizers", "metrics", "optim", "search", "diffusion"),
    ("tasks", "models", "families"),
    ("methods",),
    ("step_batches", "results", "loading", "registration"),
    ("trainer",),
    ("full_precision",),
    ("runner",),
    ("cli",),
)
FLOOR = {part: number for number, parts in enumerate(FLOORS) for part in parts}
WITHOUT_TORCH = ("config", "report", "errors", "run.directory", "cli")


def modules() -> dict[str, Path]:
    """Every module by its name below quantlab; a package has its own name."""
    found = {}
    for folder, prefix in ((ROOT / "quantlab", ()), (ROOT / "cli", ("cli",))):
        for file in folder.rglob("*.py"):
            parts = (*prefix, *file.relative_to(folder).with_suffix("").parts)
            found[".".join(part for part in parts if part != "__init__")] = file
    return found


MODULES = modules()


def imports(file: Path, at_import_only: bool = False) -> Iterator[tuple[str, ...]]:
    """What a file imports, `module` or `module, name`; not what only a type checker sees."""
    stack: list[ast.AST] = [ast.parse(file.read_text())]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if at_import_only and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name,) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)
        stack += ast.iter_child_nodes(node)


def ours(imported: tuple[str, ...]) -> str | None:
    """The module of quantlab's that an import names."""
    name = ".".join(imported).removeprefix("quantlab").removeprefix(".")
    if not imported[0].startswith("quantlab") or not name:
        return None
    return name if name in MODULES else imported[0].removeprefix("quantlab").removeprefix(".") or None


def test_every_part_stands_on_a_floor_and_imports_from_below_it():
    wrong = []
    for name, file in MODULES.items():
        part = name.split(".")[0]
        for imported in imports(file):
            target = (ours(imported) or "").split(".")[0]
            if part and target and target != part and FLOOR[target] >= FLOOR[part]:
                wrong.append(f"{name} imports {'.'.join(imported)}")
    assert wrong == []


def test_no_modules_import_each_other():
    graph = {}
    for name, file in MODULES.items():
        targets = {ours(imported) for imported in imports(file, at_import_only=True)}
        # a package's own file names what its modules are; that a module lies in it makes no circle
        graph[name] = {one for one in targets if one and one != name and not name.startswith(f"{one}.")}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names them


def test_torch_is_not_imported_where_an_answer_must_be_quick():
    for name, file in MODULES.items():
        if name in WITHOUT_TORCH or name.startswith(tuple(f"{one}." for one in WITHOUT_TORCH)):
            found = {imported[0].split(".")[0] for imported in imports(file, at_import_only=True)}
            assert not found & {"torch", "torchvision", "diffusers", "timm"}, name
