"""Stored pictures (png, jpeg, ...) to uint8 arrays, a batch at a time, with one sentence for one that does not fit."""

import io
from collections.abc import Sequence
from contextlib import contextmanager

import numpy as np
from tqdm.auto import tqdm

CHUNK = 500
LOOKED_AT = 10_000


class DataError(ValueError):
    """A data set that cannot be used, with the reason in one sentence."""


class Encoded:
    """Pictures left as they are stored and decoded when asked for: `encoded[indices: b] -> b c h w` in uint8.

    `table` is a data set with one arrow column of stored pictures. They are all grey, or all become colour ones; with
    `size` they are squares of that side. Raises DataError that names, by its number, a picture that does not fit.
    """

    def __init__(self, table, size: int | None = None):
        self.table, self.size = table, size
        # Only headers are read here, and of a large set not all: the rest is checked as it is decoded.
        numbers = range(0, len(table), -(-len(table) // LOOKED_AT))
        modes, sides = zip(*[self.header(number, record) for number, record in self.records(numbers)], strict=True)
        self.grey = all(map(grey, modes))
        self.shape = (len(table), *self.decoded(*next(self.records([0]))).shape)
        if size is None:
            for number, side in zip(numbers, sides, strict=True):
                self.check_side(number, side, turned=True)

    def __len__(self):
        return len(self.table)

    def __getitem__(self, indices: Sequence[int]) -> np.ndarray:
        pixels = np.empty((len(indices), *self.shape[1:]), dtype=np.uint8)
        for place, (number, record) in enumerate(self.records(indices)):
            picture = self.decoded(number, record)
            self.check_side(number, picture.shape[:0:-1])
            pixels[place] = picture
        return pixels

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
        with reading(number), opened(record) as picture:
            return picture.mode, picture.size

    def decoded(self, number: int, record) -> np.ndarray:
        """One picture: `-> c h w` in uint8, c = 1 where the set is grey, else 3."""
        with reading(number), opened(record) as picture:
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


@contextmanager
def reading(number: int):
    """Around work on one picture: what PIL raises becomes a DataError with the picture's number."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # a broken file makes PIL raise almost anything, SyntaxError among it
        raise DataError(f"picture {number} does not decode ({type(error).__name__}); mend or remove it") from error


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
