"""A set of stored pictures as uint8 arrays, with one sentence for one that does not fit, and pictures to a PNG."""

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

from dit_lab.data.pixels import DataError, Seen, as_pixels, grey, kind, numbers, opened, shown, telling
from dit_lab.files import atomic

CHUNK = 500
LOOKED_AT = 10_000
NAMED = 5
SAMPLE = 64
TWELVE_BITS = 4095


class Undecodable(DataError):
    """A picture that does not decode."""


class Encoded:
    """Pictures left as they are stored and decoded when asked for: `encoded[indices: b] -> b c h w` in uint8.

    `table` is a data set with one arrow column of stored pictures. They are all grey, or all become colour ones; with
    `size` they are squares of that side, made by one of `CROPS`. A picture that does not decode is named on standard
    error, once, and the next that does is shown in its place, so that no other picture's number changes; `shown` says
    whose picture that is.
    A record that holds no picture but a path is read only where that lies in one of `homes`, links followed; None
    reads them all. Raises DataError when too many do not decode (`most_broken`), or naming a picture of another size
    or kind, whose values nothing scales to 0..255, or that lies elsewhere.
    """

    def __init__(self, table, size: int | None = None, homes: Sequence[Path] | None = (), crop: str = "middle"):
        self.table, self.size, self.crop = table, size, crop
        self.broken, self.seen, self.told, self.said = {}, Seen(), False, []
        self.homes = homes and [home.resolve() for home in homes]
        # Only headers are read here, and of a large set not all: the rest is checked as it is decoded.
        numbers = range(0, len(table), -(-len(table) // LOOKED_AT))
        headers = {number: self.tried(self.header, number, record) for number, record in self.records(numbers)}
        found = [header for header in headers.values() if header is not None]
        self.grey, self.telling = all(grey(header[0]) for header in found), any(header[2] for header in found)
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
            self.say(f"{error}; the next one is taken in its place")

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
        self.warn()
        return pixels

    def look(self) -> None:
        """Say what there is to say of all the pictures from a few of them, where their headers call for that."""
        if self.telling:
            for number in np.unique(np.linspace(0, len(self) - 1, SAMPLE).astype(int)):
                self[[number]]
            self.warn()

    def warn(self) -> None:
        """Say where 16 bits seem to hold fewer, which would make all pictures next to black."""
        if self.seen.highest is not None and self.seen.highest <= TWELVE_BITS:
            self.say(
                f"16-bit pictures that never pass {TWELVE_BITS:,} (the highest here is {self.seen.highest:,}), where "
                "white is 65,535, come out next to black; if they hold 12 bits or fewer, scale them first"
            )

    def say(self, sentence: str) -> None:
        """A sentence on these pictures, which is kept with them."""
        self.said.append(sentence)
        say(sentence)

    def records(self, numbers: Sequence[int]):
        """(number, stored picture) pairs, read in chunks."""
        for start in range(0, len(numbers), CHUNK):
            chunk = [int(number) for number in numbers[start : start + CHUNK]]
            yield from zip(chunk, self.table[chunk].column(0).to_pylist(), strict=True)

    def header(self, number: int, record) -> tuple[str, tuple[int, int], bool]:
        """(kind, (width, height), whether decoding it may tell more) of a stored picture, without decoding it."""
        with reading(number, record), self.opened(number, record) as picture:
            return kind(picture), picture.size, telling(picture)

    def opened(self, number: int, record):
        """A PIL picture from an arrow record, bytes or a path. Raises DataError on one that is not to be read."""
        stored = record["bytes"]
        picture = opened(self.path(number, record) if stored is None else io.BytesIO(stored))
        if values := numbers(picture):
            raise DataError(
                f"picture {number}{named(record)} holds {values}, of which nothing says what is black and what is "
                "white; scale them to 0..255 and store 8 bits"
            )
        return picture

    def path(self, number: int, record) -> Path:
        """The regular file that a record names; what is relative is so to the first of the homes."""
        if self.homes is None:
            path = Path(record["path"])
        else:
            path = Path(*self.homes[:1], record["path"]).resolve()
            if not any(path.is_relative_to(home) for home in self.homes):
                raise DataError(
                    f"picture {number} is not in the data set, which only names the file {shown(record['path'])}, "
                    "outside its own folder; store the picture itself"
                )
        if not path.is_file():
            raise FileNotFoundError
        return path

    def fitting(self, number: int, record) -> np.ndarray:
        """One picture of the set's size: `-> c h w` in uint8."""
        picture = self.decoded(number, record)
        self.check_side(number, picture.shape[:0:-1])
        return picture

    def decoded(self, number: int, record) -> np.ndarray:
        """One picture: `-> c h w` in uint8, c = 1 where the set is grey, else 3."""
        with reading(number, record), self.opened(number, record) as picture:
            if self.grey and not grey(kind(picture)):
                raise DataError(f"picture {number} is in colour where those looked at before are grey; make all alike")
            pixels = as_pixels(picture, self.grey, self.size, self.seen, self.crop)
        if self.seen.transparent and not self.told:
            self.say(f"picture {number} is transparent in places; it and all like it are laid on white")
            self.told = True
        return pixels

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
        raise Undecodable(f"picture {number}{named(record)} does not decode ({type(error).__name__})") from error


def named(record) -> str:
    """A picture's file name in brackets, if its record has one."""
    return f" ({shown(record['path'])})" if record and record["path"] else ""


def say(sentence: str) -> None:
    """A sentence on standard error, beside any bar there."""
    tqdm.write(f"dit_lab: {sentence}", file=sys.stderr)


def write_grid(path: Path, images: torch.Tensor) -> None:
    """Write pictures in [-1, 1] as one nearly square PNG: `images: b 3 h w`; empty places are white."""
    from PIL import Image

    columns = math.ceil(math.sqrt(len(images)))
    blank = images.new_ones(-len(images) % columns, *images.shape[1:])
    grid = rearrange(torch.cat([images, blank]), "(rows columns) c h w -> (rows h) (columns w) c", columns=columns)
    pixels = ((grid.cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    with atomic(path) as partial:
        Image.fromarray(pixels.numpy()).save(partial, format="PNG")
