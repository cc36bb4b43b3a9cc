"""The plan of the house, held by reading the source: imports point down only, files stay short, the core stays bare."""

import ast
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "dit_lab"

# From the ground up: a room may import the rooms before it. Rooms on one line are built together.
FLOORS = """
files program unfilled
layers
config grid_layers
conv_mlp
blocks
dit udit
presets
process
diffusion flow solvers
objectives
sampling geometry
checkpoints
pictures vaes
codecs
convert latents
data fine_tune
parallel options
batches state
folder preview
train
trace trajectory trajectory_file
count adm features inception metrics judging samples spectrum
plots
plots_experiments widgets
dit_lab
ui
run draw
encode evaluate zoo experiment
bench ladder four_blocks scaling
cli
__main__
"""
FLOOR = {room: floor for floor, line in enumerate(FLOORS.strip().splitlines()) for room in line.split()}

# Where "below" is not strict enough: all of the house that these may know.
KNOWS = {
    "files.py": set(),
    "layers.py": set(),
    "blocks/__init__.py": {"dit_lab.blocks.base"},
    "blocks/base.py": {"dit_lab.layers"},
    "config.py": set(),
    "unfilled.py": set(),
    "grid_layers.py": {"dit_lab.layers"},
    "conv_mlp.py": {"dit_lab.layers", "dit_lab.grid_layers"},
    "geometry.py": set(),
    "dit.py": {"dit_lab.layers", "dit_lab.config", "dit_lab.blocks.base"},
    "udit.py": {
        "dit_lab.layers",
        "dit_lab.config",
        "dit_lab.unfilled",
        "dit_lab.grid_layers",
        "dit_lab.conv_mlp",
        "dit_lab.blocks.base",
    },  # fmt: skip
    "process.py": set(),
    "diffusion.py": {"dit_lab.process"},
    "flow.py": {"dit_lab.process"},
    "solvers.py": set(),
    "objectives.py": {"dit_lab.process", "dit_lab.diffusion", "dit_lab.flow"},
    "sampling.py": {"dit_lab.process", "dit_lab.diffusion", "dit_lab.objectives", "dit_lab.solvers"},
}
A_BLOCK_KNOWS = {"dit_lab.layers", "dit_lab.blocks.base"}
MODELS = ("layers", "config", "unfilled", "grid_layers", "conv_mlp", "blocks", "dit", "udit")
MODEL_ROOMS = {*MODELS, "presets"}

PAPER = ("layers", "blocks", "dit", "process", "diffusion", "sampling")
CORE = (
    *PAPER,
    "flow",
    "solvers",
    "objectives",
    "config",
    "unfilled",
    "grid_layers",
    "conv_mlp",
    "udit",
    "geometry",
    "presets",
    "train",
    "options",
    "batches",
    "parallel",
    "preview",
    "state",
    "folder",
    "checkpoints",
    "trace",
    "trajectory",
    "trajectory_file",
    "files",
)
CORE_PACKAGES = {"torch", "einops", "numpy", "safetensors", "tqdm", "dit_lab"}
BANNED = {"torchvision", "timm"}

SOURCES = sorted(PACKAGE.rglob("*.py"))
EVERYTHING = sorted({*SOURCES, *ROOT.glob("*.py"), *ROOT.glob("tests/**/*.py"), *ROOT.glob("notebooks/**/*.py")})


def short(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix() if path.is_relative_to(PACKAGE) else path.relative_to(ROOT).as_posix()


def room_of(path: Path) -> str:
    """The room that a source file is in: its module's name, or the folder's; the package's own file is `dit_lab`."""
    first = path.relative_to(PACKAGE).parts[0]
    return "dit_lab" if first == "__init__.py" else first.removesuffix(".py")


def room(module: str) -> str:
    """The room of a module's full name, `dit_lab.blocks.base -> blocks`."""
    return module.split(".")[1] if "." in module else module


def files_of(*rooms: str) -> list[Path]:
    return [path for path in SOURCES if room_of(path) in rooms]


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


def of_the_house(path: Path) -> set[str]:
    return {module for module in imported(path) if module.split(".")[0] == "dit_lab"}


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_imports_point_down_only(path):
    assert room_of(path) in FLOOR, f"give {room_of(path)} a floor in FLOORS: below all that import it"
    here = FLOOR[room_of(path)]
    above = {module for module in of_the_house(path) if FLOOR.get(room(module), len(FLOOR)) > here}
    assert not above, f"{short(path)} reaches up to {', '.join(sorted(above))}"


@pytest.mark.parametrize("name", [name for name in KNOWS if (PACKAGE / name).exists()])
def test_the_core_knows_only_what_the_plan_lets_it_know(name):
    assert of_the_house(PACKAGE / name) <= KNOWS[name]


@pytest.mark.parametrize("path", [path for path in files_of("blocks") if f"blocks/{path.name}" not in KNOWS], ids=short)
def test_a_block_knows_its_layers_and_the_contract_but_no_other_block(path):
    assert of_the_house(path) <= A_BLOCK_KNOWS


@pytest.mark.parametrize("path", files_of("diffusion", "sampling"), ids=short)
def test_diffusion_and_samplers_see_no_model_class(path):
    assert not {room(module) for module in of_the_house(path)} & MODEL_ROOMS


def test_only_presets_and_the_rooms_above_know_the_blocks_by_name():
    for path in files_of("files", "layers", "dit", "udit", "diffusion", "sampling"):
        assert "BLOCKS" not in path.read_text(encoding="utf-8"), short(path)


@pytest.mark.parametrize("path", [path for path in SOURCES if room_of(path) != "blocks"], ids=short)
def test_nobody_imports_a_concrete_block(path):
    known = {module for module in of_the_house(path) if module.startswith("dit_lab.blocks.")}
    assert known <= {"dit_lab.blocks.base"}


@pytest.mark.parametrize("path", files_of(*MODELS), ids=short)
def test_models_import_torch_and_einops_alone(path):
    outside = {module.split(".")[0] for module in imported(path)} - sys.stdlib_module_names - {"dit_lab"}
    assert outside <= {"torch", "einops"}


@pytest.mark.parametrize("path", files_of(*CORE, "count"), ids=short)
def test_loading_the_core_needs_only_its_five_packages(path):
    outside = {module.split(".")[0] for module in imported(path, when_loaded=True)} - sys.stdlib_module_names
    assert outside <= CORE_PACKAGES, f"{short(path)} needs {', '.join(sorted(outside - CORE_PACKAGES))}"


@pytest.mark.parametrize("path", files_of(*CORE, "count"), ids=short)
def test_the_core_loads_no_room_outside_itself_but_presets_data_and_pictures(path):
    rooms = {room(module) for module in imported(path, when_loaded=True) if module.startswith("dit_lab.")}
    assert rooms <= {*CORE, "count", "data", "pictures", "codecs", "vaes"}


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
    assert sum(map(lines_of, files_of(*PAPER))) <= 1000


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("path", files_of(*MODELS), ids=short)
def test_models_change_shapes_in_einops_alone(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not used & {"view", "permute", "unsqueeze"}


def test_the_reader_of_imports_sees_late_and_submodule_imports_and_tells_them_apart(tmp_path):
    path = tmp_path / "imaginary.py"
    path.write_text("import os.path\nfrom dit_lab import layers\ndef f():\n    import timm.models\n")
    assert imported(path) == {"os.path", "dit_lab.layers", "timm.models"}
    assert imported(path, when_loaded=True) == {"os.path", "dit_lab.layers"}
