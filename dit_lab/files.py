"""Writing files so that a reader never meets half of one: beside the place first, then renamed into it."""

import hashlib
import json
import os
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file


@contextmanager
def atomic(path: str | Path):
    """Yield a path beside `path` to write to; on success it becomes `path`, on any failure it is removed.

    Killed half-way, the process leaves the old file as it was and a `.partial` file that nothing reads.
    """
    path = Path(path)
    # Not the process's number: two machines, or two containers, on one disk may have the same.
    partial = path.with_name(f".{path.name}.{uuid4().hex[:12]}.partial")
    try:
        partial.touch()
        mode = partial.stat().st_mode  # what the umask asks for; safetensors makes files that only their owner reads
        yield partial
        partial.chmod(mode)
        with open(partial, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise OSError(f"could not write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # where nothing could be written, there is nothing to remove
            partial.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, where it is not there. Raises OSError that names it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"could not make the folder {path}: {error.strerror or error}") from error


def writable(path: Path) -> None:
    """Raise OSError, before any work, where a file could not be written once its folders are made."""
    if path.is_dir():
        raise OSError(f"{path} is a folder; give a file's name")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise OSError(f"could not write {path}: {above} is a file")
    if not os.access(above, os.W_OK):
        raise OSError(f"could not write {path}: no permission in {above}")


def write_tensors(path: str | Path, tensors: dict, about: dict) -> None:
    """Write a safetensors file atomically, `about` as JSON in its metadata under the key `dit_lab`."""
    with atomic(path) as partial:
        store(partial, tensors, about)


def store(path: Path, tensors: dict, about: dict) -> None:
    """Write a safetensors file in place. Raises OSError, as for other files, when the disk is full."""
    metadata = {"format": "pt", "dit_lab": json.dumps(about)}
    try:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path, metadata)
    except SafetensorError as error:
        raise OSError(str(error)) from error


def store_pickled(path: Path, tensors: dict) -> None:
    """Write PyTorch's own kind of file in place. Raises OSError, as for other files, when the disk is full."""
    try:
        torch.save(tensors, path)
    except RuntimeError as error:
        raise OSError(str(error).splitlines()[0]) from error


def checksum(tensors: dict[str, torch.Tensor]) -> str:
    """What tells tensors from others: the first digits of the SHA-256 of their bytes, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().flatten().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def add_line(path: Path, content) -> None:
    """Add one whole line of JSON to a file, on a line of its own also after one that was cut off. Raises OSError."""
    try:
        with open(path, "ab+") as file:
            cut_off = file.tell() > 0 and file.seek(-1, os.SEEK_END) >= 0 and file.read() != b"\n"
            file.write(b"\n" * cut_off + json.dumps(content).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(f"could not write {path}: {error.strerror or error}") from error


def write_json(path: str | Path, content) -> None:
    """Write indented JSON atomically."""
    with atomic(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n")
