"""Reading tensors without running anything: safetensors, and PyTorch's files with its weights-only unpickler.

Tensors are mapped from the file, not copied, so that a model is in memory once, and only as far as it is read.
"""

import argparse
import errno
import io
import os
import zipfile
from pathlib import Path

import torch

from dit_lab.checkpoints.mapping import map_tensors
from dit_lab.checkpoints.pickles import UnwelcomeError, check_pickle
from dit_lab.checkpoints.wrapped import arguments, candidates
from dit_lab.files import json_object
from dit_lab.program import escaped, out_of_memory

PART_BYTES = 2**24  # a pickled file is mapped anew for each part of about so many bytes, or more
MOST_JSON, MOST_NESTED = 2**22, 64  # bytes, and containers in containers; a config has some hundreds, and two or three
MOST_LISTED = 2**22  # bytes of a zip's table of contents; a model's has about 100 a tensor
LEGACY = 5  # pickles, one after the other, that PyTorch's files before 1.6 begin with


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and the reason in one sentence."""


def read_json(path: Path) -> dict:
    """A JSON object. Raises CheckpointError when the file holds anything else, or what is no config by its size."""
    with open(path, "rb") as file:
        text = file.read(MOST_JSON + 1)
    try:
        return json_in(text)
    except ValueError as error:
        raise CheckpointError(f"{path} should hold a JSON object: {error}") from error


def json_in(text: str | bytes) -> dict:
    """The JSON object that a text is. Raises ValueError that says what it is instead."""
    content = json_object(text, MOST_JSON)
    layer, depth = [content], 0
    while layer := [part for each in layer for part in (each.values() if isinstance(each, dict) else each)
                    if isinstance(part, dict | list)]:  # fmt: skip
        depth += 1
        if depth > MOST_NESTED:  # Python could parse it, but not print it
            raise ValueError(f"it is nested more than {MOST_NESTED} deep")
    return content


def read(path: Path, weights: str) -> tuple[dict[str, torch.Tensor], dict]:
    """The tensors of a file by name, and what the file says about them (`dit_lab`'s JSON, or the original's `args`).

    `weights` chooses where the file holds a trained and an averaged set ("model", "ema"). Raises CheckpointError.
    """
    with open(path, "rb") as file:
        start = file.read(9)
    if start[8:] == b"{":  # first: before it stands the header's length, which can look like the others' beginnings
        tensors, about = read_safetensors(path)
        if about:
            return (pick_run(tensors, weights) if "run" in about else tensors), about
        tensors, held = only(path, tensors, weights)
        return tensors, {"weights": held} if held else {}
    if start[:2] == b"PK" or start[:1] == b"\x80":
        return read_pickled(path, weights)
    raise CheckpointError(f"{path} is not a checkpoint: neither a safetensors nor a PyTorch file")


def read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Tensors and dit_lab's JSON, empty in others' files. Raises CheckpointError."""
    try:
        tensors, about = map_tensors(path)
        return tensors, json_in(about.get("dit_lab", "{}"))
    except OSError:
        raise
    except Exception as error:  # a damaged header can name types and shapes that fail in any way
        check_memory(error)
        raise CheckpointError(f"{path} is truncated or not a safetensors file: {first_line(error)}") from error


def pick_run(tensors: dict, weights: str) -> dict[str, torch.Tensor]:
    """The chosen weights of a training state: `ema.out.bias -> out.bias`."""
    return {name.removeprefix(f"{weights}."): tensors[name] for name in tensors if name.startswith(f"{weights}.")}


def read_pickled(path: Path, weights: str) -> tuple[dict[str, torch.Tensor], dict]:
    """Tensors and arguments of a file that `torch.save` wrote, flat or in containers."""
    check_pickles(path)
    tensors, about = chosen(path, weights)
    size = sum(tensor.nbytes for tensor in tensors.values())
    parts = min(2 * max((tensor.itemsize for tensor in tensors.values()), default=1), size // PART_BYTES)
    if parts > 1 and is_mappable(path):
        # PyTorch maps the file as a whole. Mapped anew for each part of the tensors, none of them an eighth of what the
        # model takes in fp32, a part leaves memory when dropped. The first map serves the first part.
        for names in batched(list(tensors), parts)[1:]:
            try:
                again, _ = chosen(path, weights)
            except OSError:  # no room for one more: then what is there leaves memory later
                break
            tensors |= {name: again[name] for name in names}
    return tensors, about


def chosen(path: Path, weights: str) -> tuple[dict[str, torch.Tensor], dict]:
    """The chosen tensors of a pickled file by name, its `args`, and which `weights` they are where it names them.

    Raises CheckpointError when it has none.
    """
    content = unpickle(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a model's tensors by name")
    tensors, held = only(path, content, weights)
    if strays := [name for name, value in tensors.items() if not is_plain(value)]:
        raise CheckpointError(f"{path} is no model's checkpoint, because of what is no tensor: {listed(strays)}")
    return tensors, {"args": arguments(content)} | ({"weights": held} if held else {})


def only(path: Path, content: dict, weights: str) -> tuple[dict, str | None]:
    """(the weights in nested containers that are meant, whether they are "ema" or "model" where something says).

    Raises CheckpointError where they are not there, or where there are several such.
    """
    found = candidates(content, weights)
    if len(found) > 1:
        several = listed([".".join(held.path) or "no name" for held in found])
        raise CheckpointError(f"{path} holds several models, under {several}; save the one that is meant alone")
    if not found:
        return {}, None
    if weights == "model" and found[0].averaged:
        raise CheckpointError(f"{path} holds averaged weights (ema) only, no trained ones (model)")
    return found[0].tensors, found[0].kind


def is_plain(value) -> bool:
    """Whether this is a dense tensor whose numbers are all in the file; views can repeat few of them without end."""
    dense = isinstance(value, torch.Tensor) and value.layout == torch.strided and value.device.type == "cpu"
    return dense and not value.is_quantized and value.untyped_storage().nbytes() >= value.nbytes


def check_pickles(path: Path) -> None:
    """Raise CheckpointError where a PyTorch file holds code, or what would take for ever to build or to look at."""
    try:
        if is_mappable(path):
            with Listed(path) as file, zipfile.ZipFile(file) as packed:
                part = pickled_in(packed)[0]
                part.CRC = None  # PyTorch can write files without, and reads all
                check_pickle(io.BytesIO(packed.read(part)))
        else:
            with open(path, "rb") as file:
                for _ in range(LEGACY):
                    check_pickle(file)
    except UnwelcomeError as error:
        raise CheckpointError(f"{path} {error}") from error
    except (CheckpointError, OSError):
        raise
    except Exception as error:  # a damaged file, which can make the reader of zips fail in many ways
        raise CheckpointError(f"{path} is truncated or not a PyTorch checkpoint: {first_line(error)}") from error


def unpickle(path: Path):
    """What a PyTorch file holds, mapped where its format allows. Raises CheckpointError; code in it is never run."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_mappable(path))
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file can make the unpickler fail in any way, also with an OSError
        check_memory(error)
        raise CheckpointError(f"{path} is truncated or not a PyTorch checkpoint: {first_line(error)}") from None


def check_memory(error: Exception) -> None:
    """Raise OSError where an error is none of the file's, but of a memory without room for it or for its addresses."""
    if out_of_memory(error) or os.strerror(errno.ENOMEM) in str(error):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from error


class Listed(io.FileIO):
    """A zip that is read in bounded pieces, so that its table of contents is none of a million entries."""

    def read(self, size: int = -1) -> bytes:
        """As that of a file. Raises ValueError where more is asked for than a model's file has."""
        if not -1 <= size <= MOST_LISTED:
            raise ValueError(f"its table of contents is over {MOST_LISTED} bytes")
        return super().read(size)


def is_mappable(path: Path) -> bool:
    """Whether it is a zip, PyTorch's format since 1.6. Raises CheckpointError for one that is not `torch.save`'s."""
    if not zipfile.is_zipfile(path):
        return False
    with Listed(path) as file, zipfile.ZipFile(file) as packed:
        parts = packed.infolist()
        stored = all(part.compress_type == zipfile.ZIP_STORED for part in parts)  # compressed, it could not be mapped
        # Of two tables of contents, or two pickles, PyTorch could open the other than is looked at here.
        if not stored or len(pickled_in(packed)) != 1 or min(part.header_offset for part in parts) > 0:
            raise CheckpointError(f"{path} is a zip, but not one of a model's tensors as torch.save writes it")
    return True


def pickled_in(packed: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The entries of a zip that PyTorch could take for the one with the pickle."""
    return [part for part in packed.infolist() if part.filename.casefold().endswith("data.pkl")]


def batched(names: list[str], count: int) -> list[list[str]]:
    """The names in at most `count` runs of equal length."""
    length = -(-len(names) // count) or 1
    return [names[start : start + length] for start in range(0, len(names), length)]


def listed(names: list[str], most: int = 5) -> str:
    """`a, b, c, d, e and 7 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(escaped(name[:100]) for name in names[:most]) + more


def first_line(error: Exception) -> str:
    """An error's message, its first sentence, its length bounded and what cannot be printed in it escaped."""
    return escaped((str(error).strip().splitlines() or [type(error).__name__])[0].partition(". ")[0])[:200]
