"""The plan of the house: the contracts of `pyproject.toml` are kept and can be broken, and what they cannot say."""

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import grimp
import pytest
from shared import ROOT

import dit_lab

PACKAGE = ROOT / "dit_lab"
SOURCES = sorted(PACKAGE.rglob("*.py"))
EVERYTHING = [*SOURCES, *sorted({*ROOT.glob("*.py"), *ROOT.glob("tests/**/*.py"), *ROOT.glob("notebooks/**/*.py")})]
NOTEBOOKS = sorted(ROOT.glob("notebooks/**/*.ipynb"))
WINGS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
MODELS = sorted((PACKAGE / "models").rglob("*.py"))
# The paper's core; the rest of these wings is U-DiT's, flow matching's and what stands around.
PAPER = [
    *(PACKAGE / "models" / name for name in ("layers.py", "dit.py")),
    *sorted((PACKAGE / "models" / "blocks").glob("*.py")),
    *(PACKAGE / "diffusion" / name for name in ("process.py", "gaussian.py", "sampling.py")),
]
PUBLIC = [
    *("DiT", "DiTConfig", "Diffusion", "TrainOptions", "Trajectory", "UDiT", "UDiTConfig", "build", "count", "fold"),
    *("generate", "load", "open_data", "preset", "record", "sample", "save", "train", "watch"),
]
# The contracts that the cases below break, by name.
FLOORS = "A wing knows the wings below it, and none beside it"
ONE_FILE = "A new block is one file: nobody imports a concrete one"
LAYERS_ALONE = "DiT and its blocks know layers alone: no grids, no machines"
NO_SHORT_CUT = "Nobody below takes a name from the package itself, which hands out those of all wings"
PURE = "models and diffusion read and write no files"
IN_MODELS = "models: from layers to what they cost"
COMMANDS_APART = "One command knows no other, and nor does one recipe of the zoo"


def short(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def lint(folder: Path) -> tuple[int, str]:
    """What import-linter says of the package in a folder: its exit code and its words, unbroken."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as lint; lint()"]
    told = subprocess.run([*command, "--no-cache", "--no-logo"], cwd=folder, capture_output=True, text=True)
    return told.returncode, " ".join((told.stdout + told.stderr).split())


def python(code: str, folder: Path = ROOT) -> list[str]:
    """The words that a piece of Python prints in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.split()


@pytest.fixture
def copy(tmp_path):
    """A folder with a copy of the package's sources and of the contracts."""
    for source in [*SOURCES, ROOT / "pyproject.toml"]:
        place = tmp_path / source.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, place)
    return tmp_path


def test_every_contract_is_kept():
    code, told = lint(ROOT)
    assert code == 0 and "0 broken" in told, told


@pytest.mark.parametrize(
    ("path", "line", "broken"),
    [
        ("models/dit.py", "from dit_lab.diffusion import sample", FLOORS),
        ("diffusion/flow.py", "import dit_lab.models.layers", FLOORS),
        ("training/state.py", "def late():\n    from dit_lab.evaluation import judge", FLOORS),
        ("files.py", "from dit_lab.checkpoints import load", FLOORS),
        ("annexe/__init__.py", "", FLOORS),
        ("models/dit.py", "from dit_lab import load", NO_SHORT_CUT),
        ("files.py", "import dit_lab", NO_SHORT_CUT),
        ("models/blocks/adaln.py", "from dit_lab.files import checksum", PURE),
        ("diffusion/process.py", "import dit_lab.files", PURE),
        ("models/newcomer.py", "", IN_MODELS),
        ("models/udit.py", "from dit_lab.models.blocks.adaln import AdaLN", ONE_FILE),
        ("models/blocks/fifth.py", "from dit_lab.models.blocks.adaln import AdaLN", ONE_FILE),
        ("models/blocks/fifth.py", "from dit_lab.models.grid_layers import Grid", LAYERS_ALONE),
        ("commands/count.py", "from dit_lab.commands.train import follow", COMMANDS_APART),
    ],
)
def test_a_contract_fails_where_it_is_broken(path, line, broken, copy):
    changed = copy / "dit_lab" / path
    changed.parent.mkdir(exist_ok=True)
    changed.write_text(f"{changed.read_text() if changed.exists() else ''}\n{line}\n")
    code, told = lint(copy)
    assert code == 1 and f"{broken} BROKEN" in told, told


def test_a_new_block_is_one_new_file_and_breaks_no_contract(copy):
    text = (PACKAGE / "models" / "blocks" / "adaln.py").read_text().replace('"adaln"', '"fifth"')
    (copy / "dit_lab" / "models" / "blocks" / "fifth.py").write_text(text)
    assert lint(copy)[0] == 0
    ask = "from dit_lab.models import BLOCKS, build; print(build('DiT-nano/4', block='fifth').config.block, *BLOCKS)"
    built, *there = python(ask, copy)
    assert built == "fifth" and len(there) == 5


def test_at_the_packages_top_are_the_wings_and_the_ground_alone():
    ground = {"files.py", "program.py"}
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py", *ground}


@pytest.mark.parametrize("wing", WINGS)
def test_a_wing_says_what_lives_there_and_hands_out_what_it_names(wing):
    module = importlib.import_module(f"dit_lab.{wing}")
    assert module.__doc__.splitlines()[0].endswith(".")
    assert wing == "zoo" or module.__all__  # which holds checkpoints, and recipes that are run
    for name in getattr(module, "__all__", ()):
        assert not isinstance(getattr(module, name), ModuleType), f"{name} is a module"


def test_the_packages_public_names_are_the_wings_own():
    wings = [importlib.import_module(f"dit_lab.{wing}") for wing in WINGS]
    assert sorted(dit_lab.__all__) == PUBLIC and {*PUBLIC} <= {*dir(dit_lab)}
    for name in dit_lab.__all__:
        assert any(getattr(dit_lab, name) is getattr(wing, name, None) for wing in wings), name
    with pytest.raises(AttributeError, match="dit_lab has no 'bild'; its public names are build"):
        dit_lab.bild  # noqa: B018


def test_importing_the_package_imports_nothing_else():
    ask = "import importlib, sys; before = set(sys.modules); import dit_lab; print(*set(sys.modules) - before)"
    assert python(ask) == ["dit_lab"]


def test_opening_the_core_takes_no_more_than_its_five_packages():
    """What must be there, and what people wait for: whatever else a wing needs, it imports where it needs it."""
    ask = (
        "import sys, torch, einops, numpy, safetensors.torch, tqdm.auto\n"
        "roots = lambda: {name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names\n"
        "before = roots()\n"
        "from dit_lab import checkpoints, data, diffusion, inside, models, training\n"
        "print(*roots() - before)"
    )
    assert python(ask) == ["dit_lab"]


def imported_by(package: str) -> set[str]:
    """The packages that any room of a package imports, Python's own left out."""
    graph = grimp.build_graph("dit_lab", include_external_packages=True, cache_dir=None)
    rooms = {package, *graph.find_descendants(package)}
    names = {name.partition(".")[0] for room in rooms for name in graph.find_modules_directly_imported_by(room)}
    return names - sys.stdlib_module_names


def test_models_import_torch_and_einops_alone():
    assert imported_by("dit_lab.models") == {"dit_lab", "torch", "einops"}


def test_nothing_in_the_package_imports_the_app_a_notebook_or_a_test():
    assert not imported_by("dit_lab") & {"app", "notebooks", "tests", "shared", "conftest"}


@pytest.mark.parametrize("path", [*EVERYTHING, *NOTEBOOKS], ids=short)
def test_no_file_imports_torchvision_or_timm(path):
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code")
    assert not re.search(r"^\s*(import .*|from )\b(torchvision|timm)\b", text, flags=re.MULTILINE)


def test_only_presets_and_what_stands_above_know_the_blocks_by_name():
    below = (
        "files.py",
        "models/layers.py",
        "models/dit.py",
        "models/udit.py",
        "diffusion/gaussian.py",
        "diffusion/sampling.py",
    )
    for name in below:
        assert "BLOCKS" not in (PACKAGE / name).read_text(encoding="utf-8"), name


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_no_file_is_longer_than_280_lines(path):
    assert lines_of(path) <= 280, f"{short(path)} has {lines_of(path)} lines: split it"


def test_the_papers_core_can_be_read_in_one_sitting():
    """About 900 lines together, and what a process is to both diffusions and flows, which is one file beside them."""
    assert sum(map(lines_of, PAPER)) <= 1000


@pytest.mark.parametrize("path", MODELS, ids=short)
def test_models_change_shapes_in_einops_alone(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not used & {"view", "permute", "unsqueeze"}


def test_beside_other_test_processes_this_one_computes_in_one_thread():
    """More would wait for each other's cores, some hundred times as long where a test is many small products."""
    others = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    threads = subprocess.run(
        [sys.executable, "-c", "import conftest, torch; print(torch.get_num_threads())"], cwd=ROOT / "tests",
        env=others | {"PYTEST_XDIST_WORKER": "gw0", "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert threads.stdout == "1\n", threads.stderr
