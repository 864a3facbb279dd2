"""Imports go down only, and answering --help needs no TensorFlow."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tfx_finetune"
COMPONENTS = {
    "sources",
    "modalities",
    "augments",
    "backbones",
    "adapters",
    "fusions",
    "necks",
    "objectives",
    "tasks",
    "compressions",
    "exports",
}
SHARED = {"contracts", "deployed", "learning", "batches", "dataset", "naming", "sound", "splits", "vision", "graphs"}
COMMANDS = {"train", "tune", "predict", "evaluate", "inspect", "benchmark", "export", "serve", "data", "doctor"}
STATIONS_THAT_ARE_COMMANDS = {"evaluate"}  # any station may score predictions


def layer(module: str) -> int:
    """0 core, 1 what all share, 2 components, 3 stations and the steps behind them, 4 commands."""
    part = module.split(".")[1] if "." in module else ""
    if part in ("core", ""):  # the package itself imports none of its modules before they are asked for
        return 0
    if part in SHARED:
        return 1
    if part in COMPONENTS:
        return 2
    return 4 if part in COMMANDS - STATIONS_THAT_ARE_COMMANDS else 3


def imports(path: Path) -> set[str]:
    """Modules of this package that a file imports anywhere in it, except for type checking."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tfx_finetune"):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("tfx_finetune")}
    return found


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path):
    """No component imports a station or another folder's component, no station a command."""
    module = ".".join(("tfx_finetune", *path.relative_to(PACKAGE).with_suffix("").parts))
    for other in imports(path):
        assert layer(other) <= layer(module), f"{module} imports {other}, which is above it"
        if layer(module) == layer(other) == 2:
            assert module.split(".")[1] == other.split(".")[1], f"{module} imports {other} of another component folder"


def test_stations_do_not_import_in_circles():
    """A station that needs another one stands after it on the path."""
    graph = {}
    for path in FILES:
        module = ".".join(("tfx_finetune", *path.relative_to(PACKAGE).with_suffix("").parts))
        graph[module] = imports(path)
    names = set(graph)
    edges = {m: {o if o in names else o.rpartition(".")[0] for o in others} & names for m, others in graph.items()}
    done: set[str] = set()
    while left := {m for m in names - done if edges[m] <= done}:
        done |= left
    assert done == names, f"a circle among {sorted(names - done)}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_are_small(path):
    """A file that grows past 300 lines is two files."""
    assert len(path.read_text().splitlines()) <= 300


@pytest.mark.parametrize("module", ["tfx_finetune", *(f"tfx_finetune.{name}" for name in sorted(COMMANDS))])
def test_importing_a_command_loads_no_tensorflow(module):
    """--help answers at once only while nothing above TensorFlow is imported."""
    code = (
        f"import sys, {module}; print(sorted({{'tensorflow', 'keras', 'sklearn', 'numpy.random'}} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "tensorflow" not in found
    assert "keras" not in found
    assert "sklearn" not in found
