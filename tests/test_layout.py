"""The rules of the house that a machine can check."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("*.py", "lib/**/*.py", "models/**/*.py", "experiments/*.py", "benchmarks/*.py")
SOURCES = sorted(path for pattern in FOLDERS for path in ROOT.glob(pattern))


def name_of(path: Path) -> str:
    """A file as the tests name it."""
    return str(path.relative_to(ROOT))


SCRIPTS = [path for path in SOURCES if path.parent == ROOT]

# Layers from the ground up. A module imports from its own package, and from packages of the layers below.
LAYERS = [
    {"lib.errors"},
    {"lib.files", "lib.provenance", "lib.flags", "lib.kitti"},
    {"lib.ops", "lib.camera", "lib.boxes"},
    {"lib.features"},
    {"lib.tasks.task"},  # the contract
    {"models"},
    {"lib.losses", "lib.metrics", "lib.datasets"},
    {"lib.show", "lib.clouds"},
    {"lib.training"},
    {"lib.evaluation", "lib.tables", "lib.predict"},
    {"lib.tasks"},
    {"lib.cli"},
    {"lib.cli_training"},
    {"benchmarks", "experiments"},
    {"scripts"},
]
LAYER = {package: number for number, packages in enumerate(LAYERS) for package in packages}
OUTSIDE_OF_OPS = {"torch", "numpy", "llvmlite", "numba"}


def package_of(path: Path) -> str:
    """The package of LAYERS that a file belongs to; lib/__init__.py belongs to none."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] == "lib":
        return ".".join(parts[: 3 if parts[:3] == ("lib", "tasks", "task") else 2])
    return parts[0] if len(parts) > 1 else "scripts"


def top_imports(path: Path) -> list[ast.Import | ast.ImportFrom]:
    return [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names if node.module in ("lib", "models")}
    return found


def ours(module: str) -> str | None:
    """The package of LAYERS that a module belongs to, or None."""
    parts = module.split(".")
    if parts[0] == "lib":
        length = 3 if parts[:3] == ["lib", "tasks", "task"] else 2
        return ".".join(parts[:length]) if len(parts) > 1 else None
    if parts[0] in ("models", "benchmarks", "experiments"):
        return parts[0]
    return "scripts" if parts[0] in {path.stem for path in SCRIPTS} else None


@pytest.mark.parametrize("path", [p for p in SOURCES if p != ROOT / "lib/__init__.py"], ids=name_of)
def test_imports_go_one_way(path):
    package = package_of(path)
    above = {p for p in {ours(m) for m in imports(path)} - {None, package} if LAYER[p] >= LAYER[package]}
    assert not above, f"{package} may not import from {', '.join(sorted(above))}"


OPS = sorted([*ROOT.glob("lib/ops/*.py"), *ROOT.glob("lib/ops/cpu/*.py")])


@pytest.mark.parametrize("path", OPS, ids=name_of)
def test_ops_need_few_libraries(path):
    assert {module.split(".")[0] for module in imports(path)} <= OUTSIDE_OF_OPS | sys.stdlib_module_names | {"lib"}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_scripts_set_up_openmp_before_torch_reads_its_environment(path):
    modules = [node.names[0].name if isinstance(node, ast.Import) else node.module for node in top_imports(path)]
    ours = [module.split(".")[0] in ("lib", "models", "benchmarks") for module in modules]
    assert True in ours and "torch" not in modules[: ours.index(True)]


@pytest.mark.parametrize("path", sorted(ROOT.glob("models/**/*.py")), ids=lambda p: p.name)
def test_models_know_no_device_and_no_flags(path):
    text = path.read_text()
    assert ".cuda(" not in text and "argparse" not in text


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_files_are_short(path):
    assert path.read_text().count("\n") <= (250 if path in SCRIPTS else 350)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_public_names_are_documented_and_typed(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "the module has no docstring"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") and path not in SCRIPTS:
            assert ast.get_docstring(node) or node.name == "main", f"{node.name} has no docstring"
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            untyped = [a.arg for a in arguments if a.annotation is None]
            assert not untyped and node.returns is not None, f"{node.name}: no type for {untyped or 'what it returns'}"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_unpickles_or_hides_errors(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, "a bare except"
            catches_all = isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")
            last = node.body[-1]
            raises_again = isinstance(last, ast.Raise) and last.exc is None
            hands_over = isinstance(last, ast.Assign) and getattr(last.value, "id", "") == node.name  # to be raised
            assert not catches_all or raises_again or hands_over
        if isinstance(node, ast.keyword) and node.arg in ("strict", "allow_pickle", "weights_only"):
            value = getattr(node.value, "value", None)
            assert (node.arg, value) in {("strict", True), ("allow_pickle", False), ("weights_only", True)}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "load":
            owner = getattr(node.func.value, "id", None)
            needed = {"torch": "weights_only", "np": "allow_pickle"}.get(owner)
            assert needed is None or needed in {k.arg for k in node.keywords}
