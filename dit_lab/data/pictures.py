"""Stored pictures (png, jpeg, ...) to uint8 arrays, with one sentence for one that does not fit, and back to a PNG."""

import io
import math
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from tqdm.auto import tqdm

from dit_lab.files import atomic

CHUNK = 500
LOOKED_AT = 10_000
NAMED = 5


class DataError(ValueError):
    """A data set that cannot be used, with the reason in one sentence."""


class Undecodable(DataError):
    """A picture that does not decode."""


class Encoded:
    """Pictures left as they are stored and decoded when asked for: `encoded[indices: b] -> b c h w` in uint8.

    `table` is a data set with one arrow column of stored pictures. They are all grey, or all become colour ones; with
    `size` they are squares of that side. A picture that does not decode is named on standard error, once, and the next
    that does is shown in its place, so that no other picture's number changes; `shown` says whose picture that is.
    Raises DataError when too many do not decode (`most_broken`), or naming a picture of another size or kind.
    """

    def __init__(self, table, size: int | None = None):
        self.table, self.size, self.broken = table, size, {}
        # Only headers are read here, and of a large set not all: the rest is checked as it is decoded.
        numbers = range(0, len(table), -(-len(table) // LOOKED_AT))
        headers = {number: self.tried(self.header, number, record) for number, record in self.records(numbers)}
        modes, sides = zip(*[header for header in headers.values() if header is not None], strict=True)
        self.grey = all(map(grey, modes))
        self.shape = (len(table), *self.whole(self.decoded, *next(self.records([0]))).shape)
        if size is None:
            for number in headers.keys() - self.broken.keys():
                self.check_side(number, headers[number][1], turned=True)

    def __len__(self):
        return len(self.table)

    def __getitem__(self, indices: Sequence[int]) -> np.ndarray:
        pixels = np.empty((len(indices), *self.shape[1:]), dtype=np.uint8)
        for place, (number, record) in enumerate(self.records(indices)):
            pixels[place] = self.whole(self.fitting, number, record)
        return pixels

    def whole(self, read: Callable, number: int, record) -> np.ndarray:
        """What `read` makes of a picture or, where that does not decode, of the next that does."""
        while (picture := self.tried(read, number, record)) is None:
            number, record = next(self.records([(number + 1) % len(self)]))
        return picture

    def tried(self, read: Callable, number: int, record):
        """What `read` makes of a picture, None where it does not decode. Raises DataError when too many do not."""
        if number in self.broken:
            return None
        try:
            return read(number, record)
        except Undecodable as error:
            self.broken[number] = str(error)
            if len(self.broken) > most_broken(len(self)):
                raise DataError(self.complaint()) from error
            tqdm.write(f"dit_lab: {error}; the next one is taken in its place", file=sys.stderr)

    def complaint(self) -> str:
        """One sentence on the pictures that do not decode."""
        first, *more = self.broken.values()
        if not more:
            return f"{first}; mend or remove it"
        numbers = ", ".join(map(str, list(self.broken)[:NAMED])) + (", …" if len(self.broken) > NAMED else "")
        return (
            f"{len(self.broken)} of {len(self)} pictures do not decode (numbers {numbers}), where "
            f"{most_broken(len(self))} are let pass; mend or remove them"
        )

    def shown(self, indices: Sequence[int]) -> np.ndarray:
        """Whose picture is shown at each place, as far as it was decoded: `b -> b`, mostly what is asked for."""
        places = np.array(indices, dtype=np.int64)
        for place in np.flatnonzero(np.isin(places, list(self.broken))):
            while int(places[place]) in self.broken:
                places[place] = (places[place] + 1) % len(self)
        return places

    @property
    def nbytes(self) -> int:
        """Bytes that all the pictures fill once decoded."""
        return int(np.prod(self.shape, dtype=np.int64))

    def all(self) -> np.ndarray:
        """Every picture decoded: `-> n c h w`, with a bar where it takes over two seconds."""
        pixels = np.empty(self.shape, dtype=np.uint8)
        with tqdm(total=len(self), desc="decoding pictures", unit="", unit_scale=True, delay=2, mininterval=0.5) as bar:
            for start in range(0, len(self), CHUNK):
                chunk = range(start, min(start + CHUNK, len(self)))
                pixels[start : start + CHUNK] = self[chunk]
                bar.update(len(chunk))
        return pixels

    def records(self, numbers: Sequence[int]):
        """(number, stored picture) pairs, read in chunks."""
        for start in range(0, len(numbers), CHUNK):
            chunk = [int(number) for number in numbers[start : start + CHUNK]]
            yield from zip(chunk, self.table[chunk].column(0).to_pylist(), strict=True)

    def header(self, number: int, record) -> tuple[str, tuple[int, int]]:
        """(mode, (width, height)) of a stored picture, without decoding it."""
        with reading(number, record), opened(record) as picture:
            return picture.mode, picture.size

    def fitting(self, number: int, record) -> np.ndarray:
        """One picture of the set's size: `-> c h w` in uint8."""
        picture = self.decoded(number, record)
        self.check_side(number, picture.shape[:0:-1])
        return picture

    def decoded(self, number: int, record) -> np.ndarray:
        """One picture: `-> c h w` in uint8, c = 1 where the set is grey, else 3."""
        with reading(number, record), opened(record) as picture:
            if self.grey and not grey(picture.mode):
                raise DataError(f"picture {number} is in colour where those looked at before are grey; make all alike")
            return as_pixels(picture, self.grey, self.size)

    def check_side(self, number: int, side: tuple[int, int], turned: bool = False) -> None:
        """Raise DataError unless (width, height) is the set's; `turned`: a header's, before the camera's rotation."""
        first = self.shape[:1:-1]
        if tuple(side) != first and not (turned and tuple(side[::-1]) == first):
            raise DataError(
                f"picture {number} is {side[0]} x {side[1]} where the first is {first[0]} x {first[1]}; "
                "give a size (--size) to bring all to one"
            )


def most_broken(total: int) -> int:
    """How many of a set's pictures may fail to decode: 1 in 1000, but 10 of a small set, and never over a tenth.

    Large collections have a few damaged files, which change no result; more than that says that the set itself is
    damaged, or that these are no pictures.
    """
    return min(total // 10, max(10, total // 1000))


@contextmanager
def reading(number: int, record):
    """Around work on one picture: what PIL raises becomes Undecodable with the picture's number, and name if any."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:  # a broken file makes PIL raise almost anything, SyntaxError among it
        name = f" ({record['path']})" if record and record["path"] else ""
        raise Undecodable(f"picture {number}{name} does not decode ({type(error).__name__})") from error


def opened(record):
    """A PIL picture from an arrow record, bytes or a path."""
    from PIL import Image

    return Image.open(record["path"] if record["bytes"] is None else io.BytesIO(record["bytes"]))


def grey(mode: str) -> bool:
    """Whether a PIL mode has no colours: black and white, 8 or 16 bits of grey, with or without alpha."""
    return mode in ("1", "L", "LA", "La") or mode.startswith("I")


def as_pixels(picture, to_grey: bool, size: int | None = None) -> np.ndarray:
    """A PIL picture as `c h w` in uint8; `size` crops the middle square and resizes it."""
    from PIL import Image, ImageOps

    if picture.format == "JPEG":  # what a camera stores on its side
        picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):  # 16 bits, which PIL would cut off rather than scale
        picture = Image.fromarray((np.asarray(picture).clip(0, 65535) // 257).astype(np.uint8))
    picture = picture.convert("L" if to_grey else "RGB")
    if size is not None and picture.size != (size, size):
        picture = ImageOps.fit(picture, (size, size), method=Image.Resampling.BICUBIC)
    pixels = np.asarray(picture)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def write_grid(path: Path, images: torch.Tensor) -> None:
    """Write pictures in [-1, 1] as one nearly square PNG: `images: b 3 h w`; empty places are white."""
    from PIL import Image

    columns = math.ceil(math.sqrt(len(images)))
    blank = images.new_ones(-len(images) % columns, *images.shape[1:])
    grid = rearrange(torch.cat([images, blank]), "(rows columns) c h w -> (rows h) (columns w) c", columns=columns)
    pixels = ((grid.cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    with atomic(path) as partial:
        Image.fromarray(pixels.numpy()).save(partial, format="PNG")
