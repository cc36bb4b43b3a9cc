"""From a file to a ready model: seconds against reading the file's bytes alone, and the most memory taken."""

import math
import os
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from dit_lab.checkpoints import CheckpointError, load, meta_dit, save, udit
from dit_lab.commands.bench.contestants import ours
from dit_lab.commands.bench.report import Line, compete, late, note
from dit_lab.models import DiTConfig, preset

CHUNK = 2**24
UNIT = 1024 if sys.platform == "linux" else 1  # of what is told of memory
# On Linux ru_maxrss begins with what the process held that started this one.
MOST_HELD = {"linux": "print(*[row.split()[1] for row in open('/proc/self/status') if row.startswith('VmHWM')])"}
ELSEWHERE = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
IMPORTS = "from dit_lab import load; load('mnist')"


def bench_load(name: str, rounds: int, device: torch.device, about: dict, until: float = math.inf) -> list[Line]:
    """Files of a preset with random weights, in a temporary folder: ours in fp32 and fp16, and the original's.

    The most memory that each takes while it is loaded is noted in `about`. Nothing begins after `until`.
    """
    with TemporaryDirectory() as folder:
        files, lines = written(name, Path(folder)), []
        for kind, path in files.items():
            calls = {"its bytes alone": partial(read, path), "load": partial(load, str(path), device=device)}
            size = sum(part.stat().st_size for part in parts(path))
            lines += compete(f"{name} {kind}, {size / 1e9:.2f} GB", calls, rounds, device, until=until)
            if late(until):
                continue
            before, after = (most_memory(code) for code in (IMPORTS, f"{IMPORTS}; load({str(path)!r})"))
            weights = sum(tensor.nbytes for tensor in load(str(path)).model.state_dict().values())
            most = f"{(after - before) / weights:.2f} times the model's {weights / 1e9:.2f} GB"
            note(about, f"most memory while {name} loads", f"{most} ({kind})")
        return lines


def written(name: str, folder: Path) -> dict[str, Path]:
    """The files, by what they are; the original's not of a model that it does not have."""
    model = ours(preset(name), torch.device("cpu"))
    found = {"fp32": save(folder / "fp32", model), "fp16": save(folder / "fp16", model, dtype=torch.float16)}
    form = meta_dit if isinstance(model.config, DiTConfig) else udit
    with suppress(CheckpointError):
        tensors = form.to_theirs(model.state_dict(), model.config)
        torch.save(tensors, original := folder / f"{name.replace('/', '-')}-256x256.pt")
        found["the original's .pt"] = original
    return found


def parts(path: Path) -> list[Path]:
    """The files of a checkpoint: itself, or those in its folder."""
    return [part for part in path.iterdir() if part.is_file()] if path.is_dir() else [path]


def read(path: Path) -> None:
    """Every byte, as `cat` reads them, and keep none."""
    held = bytearray(CHUNK)
    for part in parts(path):
        with part.open("rb", buffering=0) as file:
            while file.readinto(held):
                pass


def most_memory(code: str) -> int:
    """The most bytes that a fresh Python process takes while it runs `code`."""
    told = f"{code}\n{MOST_HELD.get(sys.platform, ELSEWHERE)}"
    found = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # also of a package not installed
    out = subprocess.run([sys.executable, "-c", told], env=found, capture_output=True, text=True, check=True).stdout
    return int(out.split()[-1]) * UNIT
