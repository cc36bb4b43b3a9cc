"""The plan of the house, held by reading the source: files stay short, the core stays bare."""

import ast
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "dit_lab"

MODELS = PACKAGE / "models"
BANNED = {"torchvision", "timm"}

SOURCES = sorted(PACKAGE.rglob("*.py"))
EVERYTHING = sorted({*SOURCES, *ROOT.glob("*.py"), *ROOT.glob("tests/**/*.py"), *ROOT.glob("notebooks/**/*.py")})


def short(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix() if path.is_relative_to(PACKAGE) else path.relative_to(ROOT).as_posix()


def imported(path: Path, *, when_loaded: bool = False) -> set[str]:
    """Full names of the modules that a file imports, anywhere in it or only those that loading it imports."""
    found, waiting = set(), [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= from_import(node, path)
        late = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        type_only = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        if not (when_loaded and (late or type_only)):
            waiting.extend(ast.iter_child_nodes(node))
    return found


def from_import(node: ast.ImportFrom, path: Path) -> set[str]:
    """`from dit_lab import layers` and `from . import layers` name a module of the house; others, what they say."""
    base = node.module or ""
    if node.level:
        folder = path.parents[node.level - 1].relative_to(ROOT)
        base = ".".join([*folder.parts, *([node.module] if node.module else [])])
    names = {alias.name for alias in node.names}
    place = ROOT / base.replace(".", "/")
    modules = {name for name in names if (place / f"{name}.py").exists() or (place / name).is_dir()}
    if not base.startswith("dit_lab") or not modules:
        return {base}
    return {f"{base}.{name}" for name in modules} | ({base} if names - modules else set())


@pytest.mark.parametrize("path", EVERYTHING, ids=short)
def test_no_file_imports_torchvision_or_timm(path):
    assert not {module.split(".")[0] for module in imported(path)} & BANNED


@pytest.mark.parametrize("path", sorted(ROOT.glob("notebooks/**/*.ipynb")), ids=short)
def test_no_notebook_imports_torchvision_or_timm(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    lines = [
        line.split() for cell in cells if cell["cell_type"] == "code" for line in "".join(cell["source"]).split("\n")
    ]
    assert not {words[1].split(".")[0] for words in lines if len(words) > 1 and words[0] in ("import", "from")} & BANNED


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_nothing_in_the_package_imports_the_app_a_notebook_or_a_test(path):
    assert not {module.split(".")[0] for module in imported(path)} & {"app", "notebooks", "tests"}


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_no_file_is_longer_than_280_lines(path):
    assert lines_of(path) <= 280, f"{short(path)} has {lines_of(path)} lines: split it"


def test_the_papers_core_can_be_read_in_one_sitting():
    """About 900 lines together, and what a process is to both diffusions and flows, which is one file beside them."""
    paper = [*MODELS.glob("blocks/*.py"), *(MODELS / name for name in ("layers.py", "dit.py"))]
    paper += [PACKAGE / "diffusion" / name for name in ("process.py", "gaussian.py", "sampling.py")]
    assert sum(map(lines_of, paper)) <= 1000


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("path", sorted(MODELS.rglob("*.py")), ids=short)
def test_models_change_shapes_in_einops_alone(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not used & {"view", "permute", "unsqueeze"}


def test_the_reader_of_imports_sees_late_and_submodule_imports_and_tells_them_apart(tmp_path):
    path = tmp_path / "imaginary.py"
    path.write_text("import os.path\nfrom dit_lab.models import layers\ndef f():\n    import timm.models\n")
    assert imported(path) == {"os.path", "dit_lab.models.layers", "timm.models"}
    assert imported(path, when_loaded=True) == {"os.path", "dit_lab.models.layers"}
