"""Decoded sets, kept for the next start: in the user's cache, mapped from there, so many bytes in all.

A file is named after what is stored of each picture and what is made of it, so that it is never out of date: the bytes
of the picture, or the path, size and time of its file; the crop, and who decodes. `DIT_LAB_CACHE` names another folder
than the user's cache, or is `off`.
"""

import hashlib
import json
import os
import re
import zlib
from contextlib import suppress
from math import prod
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from dit_lab.data.pictures import Encoded, say
from dit_lab.data.rules import each, text, whole
from dit_lab.files import check_fields, json_object, make_folder, user_cache, write_tensors

VERSION = 1  # of what decoding makes of a picture, and of these files
LIMIT = 2 * 2**30  # bytes of all of them; the one that was longest out of use goes first
WORTH = 1.0  # seconds: what decodes faster is not kept
OFF = "off"
NAME = re.compile(r"decoded-[0-9a-f]{32}\.safetensors")


def decoded(encoded: Encoded) -> np.ndarray:
    """All pictures of a set as `Encoded.all` decodes them, from the user's cache where they were decoded before.

    What was said when they were decoded is said again. A file that is damaged is made anew, and that is said; where
    nothing can be read or written, nothing is kept.
    """
    folder = place()
    if folder is None or encoded.nbytes > LIMIT:
        return encoded.all()
    path = folder / f"decoded-{key(encoded)}.safetensors"
    if (found := opened(path, encoded)) is not None:
        return found
    start, before = perf_counter(), len(encoded.said)
    pixels = encoded.all()
    if perf_counter() - start >= WORTH:
        keep(path, pixels, {"said": encoded.said[before:], "broken": sorted(encoded.broken)})
    return pixels


def place() -> Path | None:
    """The folder of decoded sets; None where none are to be kept."""
    told = os.environ.get("DIT_LAB_CACHE")
    if told == OFF:
        return None
    return (Path(told).expanduser().absolute() if told else user_cache()) / "decoded"


def key(encoded: Encoded) -> str:
    """What tells what comes out of a set from what comes out of another.

    `homes` count, which say what may be read at all: nobody gets at a file by way of who was allowed to read it.
    """
    import PIL

    homes = None if encoded.homes is None else list(map(str, encoded.homes))
    made = [VERSION, PIL.__version__, list(encoded.shape), encoded.size, encoded.crop, homes]
    digest = hashlib.sha256(json.dumps(made).encode())
    for number, record in encoded.records(range(len(encoded))):
        stored = record and record["bytes"]
        digest.update(b"%d " % len(stored) + stored if stored is not None else file_of(encoded, number, record))
    return digest.hexdigest()[:32]


def file_of(encoded: Encoded, number: int, record) -> bytes:
    """What tells the file that a record names from what it was before. Raises DataError as decoding would."""
    try:
        about = os.stat(path := encoded.path(number, record))
    except (OSError, TypeError):  # no file, or not even a name
        return b"none "
    return json.dumps([str(path), about.st_size, about.st_mtime_ns]).encode()


def opened(path: Path, encoded: Encoded) -> np.ndarray | None:
    """The pictures in a file, mapped; None where there is none, or none that is whole."""
    if not path.is_file():
        return None
    try:
        pixels, about = mapped(path, encoded.shape)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:100]
        say(f"the decoded pictures kept in {path} are damaged ({reason}); they are decoded anew")
        return None
    with suppress(OSError):
        os.utime(path)  # which is used, and stays
    for sentence in about["said"]:
        say(sentence)
    encoded.broken |= dict.fromkeys(about["broken"], "")
    return pixels


def mapped(path: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, dict]:
    """(pictures, what is said of them) of a file. Raises ValueError, or as safetensors does, on one that is damaged."""
    with safe_open(path, framework="np") as file:
        about, part = json_object(file.metadata()["dit_lab"]), file.get_slice("pixels")
        kind, there = part.get_dtype(), tuple(part.get_shape())
    sentences, numbers = each(text(1000), 10**6, least=0), each(whole(0, shape[0] - 1), shape[0], least=0)
    check_fields(about, said=sentences, broken=numbers, checksum=whole(0, 2**32 - 1))
    if (kind, there) != ("U8", tuple(shape)):
        raise ValueError(f"it holds {kind} of {there}")
    pixels = np.asarray(np.memmap(path, np.uint8, "r", path.stat().st_size - prod(shape), tuple(shape)))
    if zlib.crc32(pixels) != about["checksum"]:
        raise ValueError("its checksum is another")
    return pixels, about


def keep(path: Path, pixels: np.ndarray, about: dict) -> None:
    """Keep pictures, and what is said of them, once there is room; where nothing can be written, do without."""
    with suppress(OSError):
        make_folder(path.parent)
        make_room(path.parent, LIMIT - pixels.nbytes)
        write_tensors(path, {"pixels": torch.from_numpy(pixels)}, {**about, "checksum": zlib.crc32(pixels)})


def make_room(folder: Path, most: int) -> None:
    """Remove what was longest out of use until at most so many bytes are left; of files that are named as ours alone.

    Whoever has one mapped keeps it: its name goes, its pages stay.
    """
    ours = [entry for entry in os.scandir(folder) if NAME.fullmatch(entry.name) and not entry.is_symlink()]
    for entry in sorted(ours, key=lambda entry: entry.stat().st_mtime, reverse=True):
        most -= entry.stat().st_size
        if most < 0:
            Path(entry.path).unlink(missing_ok=True)
