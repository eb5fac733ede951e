"""The shape of the code: what imports what, and that a name means one thing."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import ROOT

from harness.methods import REGISTRY

# `harness/analysis` is a link, which rglob does not follow.
FILES = {
    ".".join((*above, *p.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): p
    for folder, above in (("harness", ()), ("analysis", ("harness",)))
    for p in sorted((ROOT / folder).rglob("*.py"))
}
REGISTRIES = (
    *("methods", "distill", "train.methods", "networks", "data.sets", "track.mirrors"),
    "analysis.figures",
)
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}


def imported(node: ast.stmt, by: str) -> Iterator[str]:
    """Yield the modules of this project that an import statement names."""
    if isinstance(node, ast.Import):
        yield from (a.name for a in node.names if a.name in FILES)
    if isinstance(node, ast.ImportFrom) and node.module:
        for alias in node.names:
            below = f"{node.module}.{alias.name}"
            if below in FILES or node.module in FILES:
                yield below if below in FILES else node.module


def statements(tree: ast.Module, everywhere: bool) -> Iterator[ast.stmt]:
    """Yield the import statements of a module, except those for type checkers.

    everywhere: also those inside functions.
    """
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        is_typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if is_typing or (isinstance(node, ast.FunctionDef) and not everywhere):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        pending.extend(ast.iter_child_nodes(node))


def arrows(everywhere: bool) -> dict[str, set[str]]:
    """Return module -> modules of this project that it imports."""
    return {
        name: {m for s in statements(tree, everywhere) for m in imported(s, name)} - {name}
        for name, tree in TREES.items()
    }


def reachable(start: str, graph: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    pending = [start]
    while pending:
        for module in graph[pending.pop()] - seen:
            seen.add(module)
            pending.append(module)
    return seen


def test_every_docstring_begins_with_a_verb_or_its_subject() -> None:
    folders = ("harness", "analysis", "benchmarks", "release", "tests", "website")
    for path in (p for folder in folders for p in sorted((ROOT / folder).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node) or ""
                assert not text.startswith(("What ", "Of ", "The same ")), f"{path}: {text}"


def test_no_circles() -> None:
    graph = arrows(everywhere=True)
    assert not [name for name in graph if name in reachable(name, graph)]


# From the bottom up (docs/design.md): a package imports only packages of the lines before its own.
FLOORS = [
    {"harness.common", "harness.distill"},
    {"harness.networks", "harness.data"},
    {"harness.methods"},
    {"harness.experiment"},
    {"harness.cell"},
    {"harness.plan", "harness.store"},
    {"harness.train"},
    {"harness.execute", "harness.trained"},
    {"harness.track"},
    {"harness.run"},
    {"harness.tune"},
    {"harness.analysis"},
    {"harness.api", "harness.cli"},
    {"harness", "harness.__main__"},
]


def package(module: str) -> str:
    """Return the package of a module: one directly below `harness`."""
    return ".".join(module.split(".")[:2])


def test_packages_import_only_what_is_below_them() -> None:
    floor = {name: i for i, names in enumerate(FLOORS) for name in names}
    wrong = {
        (name, target)
        for name, targets in arrows(everywhere=True).items()
        for target in targets
        if package(name) != package(target) and floor[package(target)] >= floor[package(name)]
    }
    assert not wrong


def test_analysis_is_imported_by_commands_alone() -> None:
    def users(everywhere: bool) -> set[str]:
        return {n for n, imports in arrows(everywhere).items()
                if package(n) != "harness.analysis"
                and any(package(m) == "harness.analysis" for m in imports)}  # fmt: skip

    assert users(everywhere=False) == set()  # only inside functions, when it is needed
    assert users(everywhere=True) == {
        "harness.api",
        "harness.cli.files",
        "harness.cli.results",
        "harness.cli.training",
    }


@pytest.mark.parametrize("start", ["harness.plan", "harness.cli", "harness.methods"])
def test_planning_needs_no_torch(start: str) -> None:
    """A call that has nothing to do answers at once. (Tried in a real process by test_cli.)"""
    graph = arrows(everywhere=False)
    modules = {start, *reachable(start, graph)}
    heavy = {"torch", "torchvision", "mlflow", "optuna", "matplotlib"}
    imports = {
        (name, alias.name if isinstance(node, ast.Import) else str(node.module))
        for name in modules
        for node in statements(TREES[name], everywhere=False)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert not [(n, m) for n, m in imports if m.partition(".")[0] in heavy]


def test_analysis_has_one_name() -> None:
    """`import analysis` would load every module a second time, and a wheel has no such package."""
    for path in (*FILES.values(), *(ROOT / "tests").glob("*.py"), *ROOT.glob("benchmarks/*.py")):
        assert not re.search(r"^\s*(from|import) analysis\b", path.read_text(), re.MULTILINE), path


def test_distillation_stands_alone() -> None:
    """harness.distill serves anybody's training loop."""
    graph = arrows(everywhere=True)
    for name in (n for n in graph if n.startswith("harness.distill")):
        assert all(m.startswith("harness.distill") for m in graph[name]), name


def test_a_methods_name_stands_in_its_own_module_alone() -> None:
    """Everything else follows from the registry.

    Sections and stages may have the name of a method; only its name as a string is forbidden.
    """
    for method in REGISTRY.values():
        word = re.compile(rf"""["']{re.escape(method.name)}["']""")
        homes = {
            name
            for name, path in FILES.items()
            for line in path.read_text().splitlines()
            if word.search(line) and "center_images" not in line  # "plain" ones
        }
        own = {name.rpartition(".")[2] for name in homes if name.startswith("harness.methods.")}
        assert len(own) <= 1, method.name
        # Its modules of description, loss and training have the same name.
        assert {name.rpartition(".")[2] for name in homes} <= own, method.name


def test_a_package_names_its_modules() -> None:
    """`make docs` shows what lies where. Modules of registries are found by scanning."""
    by_package: dict[str, set[str]] = {}
    for name in FILES:
        above, _, module = name.rpartition(".")
        by_package.setdefault(above, set()).add(module)
    registries = tuple(f"harness.{n}" for n in REGISTRIES)
    for name, modules in by_package.items():
        if name and not name.startswith(registries):
            text = ast.get_docstring(TREES[name]) or ""
            assert modules - {"__main__"} <= set(re.findall(r"`(\w+)`", text)), name


def test_files_of_the_user_are_written_in_one_place() -> None:
    """`write_user_file`, or a full disk would cut them. A summary goes into a temporary folder."""
    packages = ("analysis", "cli", "experiment", "run", "trained", "tune")
    writers = {"write_text", "write_bytes", "write_atomically", "savefig"}
    found = {
        name
        for name, tree in TREES.items()
        if name.startswith(tuple(f"harness.{package}." for package in packages))
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in writers
    }
    assert found == {
        "harness.analysis.mlflow_summary",
        "harness.run.repair",
        "harness.trained.import_checkpoint",
    }


def test_every_file_is_short() -> None:
    long = {n: len(p.read_text().splitlines()) for n, p in FILES.items()}
    assert not {name: n for name, n in long.items() if n > 400}


def test_files_are_where_this_test_looks() -> None:
    assert "harness.plan" in FILES and "harness.analysis.bundle" in FILES and len(FILES) > 80
    assert Path("harness/methods/base.py") in {p.relative_to(ROOT) for p in FILES.values()}
