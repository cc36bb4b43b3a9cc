"""ADM's exchange format for samples and reference batches (arXiv 2105.05233): an `.npz` with `arr_0: n h w 3` in uint8.

Labels are in `arr_1`. A reference batch may hold, besides or instead, the statistics of Inception's features, `mu`
and `sigma`, and of its spatial features, `mu_s` and `sigma_s`.
"""

import math
import warnings
from collections.abc import Iterable
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import numpy as np

from dit_lab.checkpoints.reading import Listed
from dit_lab.files import atomic
from dit_lab.program import quoted

STATISTICS = (("mu", "sigma"), ("mu_s", "sigma_s"))
NAMES = ("arr_0", "arr_1", *STATISTICS[0], *STATISTICS[1])
FLOATS = (np.float16, np.float32, np.float64)
ENCRYPTED = 1  # the flag of a zip's entry
MOST_HEADER = 1000  # letters of an array's header, of which numpy writes some 100
MORE = 150 * 2**20  # bytes that a compressed file may hold beyond its own size; a large one may hold twice its size


def write(path: Path, count: int, batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
    """Write `count` pictures, one batch `(b h w 3 in uint8, labels: b)` in memory at a time, whole or not at all."""
    labels = []
    with atomic(path) as partial, ZipFile(partial, "w") as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as file:
            for pixels, y in batches:
                if not labels:
                    about = {"descr": "|u1", "fortran_order": False, "shape": (count, *pixels.shape[1:])}
                    np.lib.format.write_array_header_1_0(file, about)
                file.write(np.ascontiguousarray(pixels).tobytes())
                labels.append(y)
        with archive.open("arr_1.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array(file, np.concatenate(labels), allow_pickle=False)


def read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file: `arr_0`, or `mu` and `sigma`, or all. Nothing in it is run. Raises ValueError.

    What each array's header says is checked before anything is unpacked.
    """
    try:
        if not Path(path).exists():
            raise FileNotFoundError
        if not Path(path).is_file():  # a pipe would be waited for
            raise ValueError("it is no file")
        with warnings.catch_warnings():  # of headers that are oddly written, or none
            warnings.simplefilter("ignore")
            arrays = unpacked(path)
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}") from error
    except Exception as error:  # a damaged one can make the readers of zips and of headers fail in any way
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ValueError(f"{path} is no readable .npz of plain arrays: {reason}") from error
    check(path, arrays)
    return arrays


def unpacked(path: Path) -> dict[str, np.ndarray]:
    """What a file holds under `NAMES`, in this machine's byte order. Raises ValueError, or what a zip's reader does."""
    with Listed(path) as file:
        if file.read(6) == np.lib.format.MAGIC_PREFIX:
            raise ValueError("it is a single array")
        file.seek(0)
        with ZipFile(file) as archive:
            there = [name for name in NAMES if f"{name}.npy" in archive.NameToInfo]
            check_sizes(archive, there, Path(path).stat().st_size)
            arrays = {}
            for name in there:
                with archive.open(f"{name}.npy") as part:
                    array = np.lib.format.read_array(part, allow_pickle=False, max_header_size=MOST_HEADER)
                arrays[name] = array.astype(array.dtype.newbyteorder("="), copy=False)
    return arrays


def check_sizes(archive: ZipFile, names: list[str], size: int) -> None:
    """Raise ValueError unless the arrays are as long as their headers say, and together no more than is bearable."""
    parts = [archive.getinfo(f"{name}.npy") for name in names]
    for name, part in zip(names, parts, strict=True):
        if part.flag_bits & ENCRYPTED or part.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            raise ValueError(f"{name} is encrypted, or compressed in a way that numpy does not write")
        dtype, shape, start = header(archive, name)
        if math.prod(shape) * dtype.itemsize != part.file_size - start:
            raise ValueError(f"{name} is {quoted(shape, 40)} by its header, which its {part.file_size} bytes are not")
    if (all_of_them := sum(part.file_size for part in parts)) > max(2 * size, size + MORE):
        raise ValueError(f"its {size} bytes unpack to {all_of_them}; write it without compression (np.savez)")


def header(archive: ZipFile, name: str) -> tuple[np.dtype, tuple[int, ...], int]:
    """(dtype, shape, bytes before the numbers) of an array. Raises ValueError on a header that is none."""
    with archive.open(f"{name}.npy") as part:
        version = np.lib.format.read_magic(part)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{name} is no plain array")
        read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
        try:
            shape, _, dtype = read_header(part, max_header_size=MOST_HEADER)
        except Exception as error:  # texts that are no header can make Python's parser fail in any way
            raise ValueError(f"{name} has a header that is none") from error
        if dtype.hasobject:
            raise ValueError(f"{name} holds Python's objects, which could run code")
        return dtype, shape, part.tell()


def check(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Raise ValueError, in one sentence, unless these are pictures or a Gaussian's mean and covariance."""
    sides = lambda array: " x ".join(map(str, array.shape[:6]))
    told = {name: f"{array.dtype.name[:20]} of {sides(array)}" for name, array in arrays.items()}
    if "arr_0" not in arrays and not {"mu", "sigma"} <= arrays.keys():
        raise ValueError(f"{path} has neither pictures (arr_0) nor statistics (mu and sigma)")
    if "arr_0" in arrays:
        pictures = arrays["arr_0"]
        if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3 or not pictures.size:
            raise ValueError(f"{path}: arr_0 should be pictures, uint8 of n x h x w x 3, not {told['arr_0']}")
        labels = arrays.get("arr_1")
        if labels is not None and (labels.shape != (len(pictures),) or not np.issubdtype(labels.dtype, np.integer)):
            raise ValueError(f"{path}: arr_1 should be {len(pictures)} whole numbers, the labels, not {told['arr_1']}")
    for names in STATISTICS:
        if set(names) <= arrays.keys():
            check_statistics(path, names, *(arrays[name] for name in names), [told[name] for name in names])


def check_statistics(path: Path, names: tuple[str, str], mean, covariance, told: list[str]) -> None:
    """Raise ValueError, in one sentence, unless these are a Gaussian's mean and covariance."""
    floats = all(array.dtype in FLOATS for array in (mean, covariance))
    if not floats or mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise ValueError(
            f"{path}: {' and '.join(names)} should be a mean of d and a covariance of d x d, not {' and '.join(told)}"
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError(f"{path}: {' or '.join(names)} holds NaN or Inf")
