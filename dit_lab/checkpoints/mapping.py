"""Tensors in memory: mapped from a safetensors file part by part, and made anew where their kind of number changes."""

import json
import math
import mmap
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from safetensors import safe_open

MOST_HEADER = 2**23  # bytes; a header has about 100 a tensor, and class names
# A file is mapped in parts of at least so many bytes: each leaves memory when the last of its tensors is dropped.
PART_BYTES = 2**22
HUGE = 2**22  # bytes from which memory is asked for in large pages
LINE = 64  # bytes; products of matrices that begin elsewhere may be added up in another order
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "C64": torch.complex64,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "BOOL": torch.bool,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


class Entry(NamedTuple):
    """Where a tensor's numbers are in a file."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


def map_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a safetensors file by name, read only where they are looked at, and its metadata.

    All maps together are as large as the file. Raises OSError, and any other error on a file that is none.
    """
    with open(path, "rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        if length > MOST_HEADER:
            raise ValueError(f"its header would be {length} bytes, the most are {MOST_HEADER}")
        with safe_open(path, framework="pt"):  # it checks that the tensors fill the file, each once
            header = json.loads(file.read(length))
        about = header.pop("__metadata__", None) or {}
        entries = [entry(name, fields, 8 + length) for name, fields in header.items()]
        tensors = {}
        for run in runs(sorted(entries, key=lambda entry: entry.start)):
            tensors |= map_run(file, run)
    return {name: tensors[name] for name in header}, about


def entry(name: str, fields: dict, start: int) -> Entry:
    """A tensor of the header, whose numbers begin at `start`. Raises ValueError for numbers that PyTorch lacks."""
    if fields["dtype"] not in DTYPES:
        raise ValueError(f"its {name[:80]} has numbers of the type {fields['dtype'][:80]}, which is not known here")
    low, high = fields["data_offsets"]
    return Entry(name, DTYPES[fields["dtype"]], tuple(fields["shape"]), start + low, start + high)


def runs(entries: list[Entry]) -> Iterator[list[Entry]]:
    """The entries, in the order of the file, in runs of at least `PART_BYTES`."""
    run = []
    for each in entries:
        run.append(each)
        if each.end - run[0].start >= PART_BYTES:
            yield run
            run = []
    if run:
        yield run


def map_run(file: BinaryIO, run: list[Entry]) -> dict[str, torch.Tensor]:
    """Neighbouring tensors from one map, which they keep alive; what is written to them is not written to the file."""
    start = run[0].start - run[0].start % mmap.ALLOCATIONGRANULARITY
    part = mmap.mmap(file.fileno(), max(run[-1].end - start, 1), offset=start, access=mmap.ACCESS_COPY)
    tensors = {}
    for name, dtype, shape, low, high in run:
        if low == high:
            tensors[name] = torch.empty(shape, dtype=dtype)
        else:
            flat = torch.frombuffer(part, dtype=dtype, count=math.prod(shape), offset=low - start)
            tensors[name] = flat.reshape(shape)
    return tensors


def converted(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """A tensor in `dtype`, itself where it has it; None is its own.

    One of a file that begins in the middle of a `LINE` moves to where a line begins, so that the model is, to the last
    bit, the one that was saved; unless it is large, where to copy it would take as long as to read it.

    The system clears and hands out fresh memory page by page, which takes longer than to convert what goes in it: so
    large tensors ask for large pages, where there are such.
    """
    count = tensor.numel()
    if dtype in (None, tensor.dtype):
        return tensor.clone() if tensor.data_ptr() % LINE and tensor.nbytes < HUGE else tensor
    if count * dtype.itemsize < HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return tensor.to(dtype)
    memory = mmap.mmap(-1, count * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a system built without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).reshape(tensor.shape).copy_(tensor)
