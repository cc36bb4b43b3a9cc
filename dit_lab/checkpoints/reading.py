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
from safetensors import SafetensorError, safe_open


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and the reason in one sentence."""


def read_json(path: Path) -> dict:
    """A JSON object. Raises CheckpointError when the file holds anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} should hold a JSON object, not a {type(content).__name__}")
    return content


def read(path: Path, weights: str) -> tuple[dict[str, torch.Tensor], dict]:
    """The tensors of a file by name, and what the file says about them (`dit_lab`'s JSON, or the original's `args`).

    `weights` chooses where the file holds a trained and an averaged set ("model", "ema"). Raises CheckpointError.
    """
    with open(path, "rb") as file:
        start = file.read(9)
    if start[:2] == b"PK" or start[:1] == b"\x80":
        return read_pickled(path, weights)
    if start[8:] == b"{":
        tensors, about = read_safetensors(path)
        return (pick_run(tensors, weights) if "run" in about else tensors), about
    raise CheckpointError(f"{path} is not a checkpoint: neither a safetensors nor a PyTorch file")


def read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Tensors and dit_lab's JSON, empty in others' files. Raises CheckpointError."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("dit_lab", "{}"))
            names = list(file.keys())
        return {name: mapped(path, name) for name in names}, about
    except (SafetensorError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is truncated or not a safetensors file: {error}") from error


def mapped(path: Path, name: str) -> torch.Tensor:
    """One tensor, mapped by itself, so that dropping it also drops the part of the file that was read for it."""
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name)


def pick_run(tensors: dict, weights: str) -> dict[str, torch.Tensor]:
    """The chosen weights of a training state: `ema.out.bias -> out.bias`."""
    return {name.removeprefix(f"{weights}."): tensors[name] for name in tensors if name.startswith(f"{weights}.")}


def read_pickled(path: Path, weights: str) -> tuple[dict[str, torch.Tensor], dict]:
    """Tensors and arguments of a file that `torch.save` wrote, flat or `{model, ema, opt, args}`."""
    content = unpickle(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a model's tensors by name")
    parts = [part for part in ("ema", "model") if isinstance(content.get(part), dict)]
    if parts and weights == "model" and weights not in parts:
        raise CheckpointError(f"{path} holds averaged weights (ema) only, no trained ones (model)")
    args = content.get("args", {})
    tensors = content[weights if weights in parts else parts[0]] if parts else content
    if strays := [str(name) for name, value in tensors.items() if not isinstance(value, torch.Tensor)]:
        raise CheckpointError(f"{path} is not a model's checkpoint: {listed(strays)} in it are no tensors")
    return {unwrapped(name): tensor for name, tensor in tensors.items()}, {
        "args": vars(args) if isinstance(args, argparse.Namespace) else args
    }


def unpickle(path: Path):
    """What a PyTorch file holds, mapped where its format allows. Code in it is never run: CheckpointError instead."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        # Only the name of what was refused: PyTorch's own message goes on to explain how to run it after all.
        culprit = re.search(r"GLOBAL (\S+)|global (\S+)|class(?:es)? (\S+)", str(error))
        what = f" ({next(filter(None, culprit.groups()))})" if culprit else ""
        raise CheckpointError(
            f"{path} holds more than tensors{what}: opening it could run code, so it was not opened"
        ) from None
    except OSError:
        raise
    except Exception as error:  # a damaged file can make the unpickler fail in any way
        raise CheckpointError(f"{path} is truncated or not a PyTorch checkpoint: {first_line(error)}") from error


def unwrapped(name: str) -> str:
    """A tensor's name without what DistributedDataParallel and torch.compile put before it."""
    while name.startswith(("module.", "_orig_mod.")):
        name = name.partition(".")[2]
    return name


def listed(names: list[str], most: int = 5) -> str:
    """`a, b, c, d, e and 7 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def first_line(error: Exception) -> str:
    """An error's message, its first line, its length bounded."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
