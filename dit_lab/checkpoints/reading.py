"""Reading tensors without running anything: safetensors, and PyTorch's files with its weights-only unpickler.

Tensors are mapped from the file, not copied, so that a model is in memory once, and only as far as it is read.
"""

import argparse
import json
import pickle
import re
import zipfile
from pathlib import Path

import torch
from safetensors import safe_open

# A file is mapped in parts of about so many bytes, and in so many at most.
PART_BYTES, PARTS = 2**24, 8


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and the reason in one sentence."""


def read_json(path: Path) -> dict:
    """A JSON object. Raises CheckpointError when the file holds anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no JSON, no text, numbers of thousands of digits, nested too deep
        raise CheckpointError(f"{path} is not JSON: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} should hold a JSON object, not a {type(content).__name__}")
    return content


def read(path: Path, weights: str) -> tuple[dict[str, torch.Tensor], dict]:
    """The tensors of a file by name, and what the file says about them (`dit_lab`'s JSON, or the original's `args`).

    `weights` chooses where the file holds a trained and an averaged set ("model", "ema"). Raises CheckpointError.
    """
    with open(path, "rb") as file:
        start = file.read(9)
    if start[8:] == b"{":  # first: before it stands the header's length, which can look like the others' beginnings
        tensors, about = read_safetensors(path)
        return (pick_run(tensors, weights) if "run" in about else tensors), about
    if start[:2] == b"PK" or start[:1] == b"\x80":
        return read_pickled(path, weights)
    raise CheckpointError(f"{path} is not a checkpoint: neither a safetensors nor a PyTorch file")


def read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Tensors and dit_lab's JSON, empty in others' files. Raises CheckpointError."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("dit_lab", "{}"))
            names = list(file.keys())
        if not isinstance(about, dict):
            raise ValueError("its metadata is no JSON object")
        return {name: mapped(path, name) for name in names}, about
    except OSError:
        raise
    except Exception as error:  # a damaged header can name types and shapes that fail in any way
        raise CheckpointError(f"{path} is truncated or not a safetensors file: {first_line(error)}") from error


def mapped(path: Path, name: str) -> torch.Tensor:
    """One tensor, mapped by itself, so that dropping it also drops the part of the file that was read for it."""
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name)


def pick_run(tensors: dict, weights: str) -> dict[str, torch.Tensor]:
    """The chosen weights of a training state: `ema.out.bias -> out.bias`."""
    return {name.removeprefix(f"{weights}."): tensors[name] for name in tensors if name.startswith(f"{weights}.")}


def read_pickled(path: Path, weights: str) -> tuple[dict[str, torch.Tensor], dict]:
    """Tensors and arguments of a file that `torch.save` wrote, flat or `{model, ema, opt, args}`."""
    tensors, about = chosen(path, weights)
    parts = min(PARTS, path.stat().st_size // PART_BYTES)
    if parts > 1 and is_mappable(path):
        # PyTorch maps the file as a whole. Mapped anew for each part of the tensors, a part leaves memory when dropped.
        for names in batched(list(tensors), parts):
            again, _ = chosen(path, weights)
            tensors |= {name: again[name] for name in names}
    return tensors, about


def chosen(path: Path, weights: str) -> tuple[dict[str, torch.Tensor], dict]:
    """The chosen tensors of a pickled file by name, its `args`, and which `weights` they are where it names them.

    Raises CheckpointError when it has none.
    """
    content = unpickle(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a model's tensors by name")
    parts = [part for part in ("ema", "model") if isinstance(content.get(part), dict)]
    if parts and weights == "model" and weights not in parts:
        raise CheckpointError(f"{path} holds averaged weights (ema) only, no trained ones (model)")
    tensors = content[weights if weights in parts else parts[0]] if parts else content
    if strays := [str(name) for name, value in tensors.items() if not (isinstance(name, str) and is_plain(value))]:
        raise CheckpointError(f"{path} is no model's checkpoint, because of what is no tensor: {listed(strays)}")
    args = content.get("args", {})
    about = {"args": vars(args) if isinstance(args, argparse.Namespace) else args}
    if parts:
        about["weights"] = weights if weights in parts else parts[0]
    return {unwrapped(name): tensor for name, tensor in tensors.items()}, about


def is_plain(value) -> bool:
    """Whether this is a dense tensor whose numbers are all in the file; views can repeat few of them without end."""
    dense = isinstance(value, torch.Tensor) and value.layout == torch.strided and value.device.type == "cpu"
    return dense and not value.is_quantized and value.untyped_storage().nbytes() >= value.nbytes


def unpickle(path: Path):
    """What a PyTorch file holds, mapped where its format allows. Code in it is never run: CheckpointError instead."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_mappable(path))
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file can make the unpickler fail in any way, also with an OSError
        # Only the name of what was refused: PyTorch's own message goes on to explain how to run it after all.
        culprit = re.search(r"GLOBAL (\S+)|global (\S+)|class(?:es)? (\S+)", str(error))
        reason = f"is truncated or not a PyTorch checkpoint: {first_line(error)}"
        if culprit and isinstance(error, pickle.UnpicklingError):
            what = next(filter(None, culprit.groups()))
            reason = f"holds more than tensors ({what}): opening it could run code, so it was not opened"
        raise CheckpointError(f"{path} {reason}") from None


def is_mappable(path: Path) -> bool:
    """Whether it is a zip, PyTorch's format since 1.6. Raises CheckpointError for one that is not `torch.save`'s."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as packed:
        parts = packed.infolist()
    stored = all(part.compress_type == zipfile.ZIP_STORED for part in parts)  # compressed, it could not be mapped
    if not stored or not any(part.filename.endswith("/data.pkl") for part in parts):
        raise CheckpointError(f"{path} is a zip, but not one of a model's tensors as torch.save writes it")
    return True


def unwrapped(name: str) -> str:
    """A tensor's name without what DistributedDataParallel and torch.compile put before it."""
    while name.startswith(("module.", "_orig_mod.")):
        name = name.partition(".")[2]
    return name


def batched(names: list[str], count: int) -> list[list[str]]:
    """The names in at most `count` runs of equal length."""
    length = -(-len(names) // count) or 1
    return [names[start : start + length] for start in range(0, len(names), length)]


def listed(names: list[str], most: int = 5) -> str:
    """`a, b, c, d, e and 7 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(name[:100] for name in names[:most]) + more


def first_line(error: Exception) -> str:
    """An error's message, its first sentence, its length bounded."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].partition(". ")[0][:200]
