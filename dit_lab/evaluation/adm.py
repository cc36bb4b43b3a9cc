"""ADM's exchange format for samples and reference batches (arXiv 2105.05233): an `.npz` with `arr_0: n h w 3` in uint8.

Labels are in `arr_1`. A reference batch may hold, besides or instead, the statistics of Inception's features, `mu`
and `sigma`.
"""

import lzma
import zlib
from collections.abc import Iterable
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np

from dit_lab.files import atomic

NAMES = ("arr_0", "arr_1", "mu", "sigma")
BROKEN = (
    ValueError, OSError, EOFError, KeyError, MemoryError, NotImplementedError, BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip


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
    """The arrays of a file: `arr_0`, or `mu` and `sigma`, or all. Nothing in it is run. Raises ValueError."""
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("it is a single array")
        with file:
            arrays = {name: file[name] for name in NAMES if name in file}
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}") from error
    except BROKEN as e:
        reason = " ".join(str(e).split())[:120] or type(e).__name__
        raise ValueError(f"{path} is no readable .npz of plain arrays: {reason}") from e
    check(path, arrays)
    return arrays


def check(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Raise ValueError, in one sentence, unless these are pictures or a Gaussian's mean and covariance."""
    told = {name: f"{array.dtype} of {' x '.join(map(str, array.shape))}" for name, array in arrays.items()}
    if "arr_0" not in arrays and not {"mu", "sigma"} <= arrays.keys():
        raise ValueError(f"{path} has neither pictures (arr_0) nor statistics (mu and sigma)")
    if "arr_0" in arrays:
        pictures = arrays["arr_0"]
        if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3 or not pictures.size:
            raise ValueError(f"{path}: arr_0 should be pictures, uint8 of n x h x w x 3, not {told['arr_0']}")
    if {"mu", "sigma"} <= arrays.keys():
        mean, covariance = arrays["mu"], arrays["sigma"]
        floats = all(np.issubdtype(array.dtype, np.floating) for array in (mean, covariance))
        if not floats or mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            raise ValueError(
                f"{path}: mu and sigma should be a mean of d and a covariance of d x d, "
                f"not {told['mu']} and {told['sigma']}"
            )
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            raise ValueError(f"{path}: mu or sigma holds NaN or Inf")
