"""Everything that a GPU is asked for, in one run: sampling, training, U-DiT, loading; none begins after 8 minutes."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch

from dit_lab.commands.bench.loading import bench_load
from dit_lab.commands.bench.report import FAILURES, LATE, Line, late, reason
from dit_lab.commands.bench.sampling import Field, bench_step, bench_udit
from dit_lab.commands.bench.training import bench_training

MOST = 8 * 60  # seconds
PICTURES, TRAINED, LOADS = 64, 32, 5


def bench_gpu(measured: Callable[..., Field], name: str = "DiT-XL/2") -> Iterator[list[Line]]:
    """The rows for a GPU, the most wanted first, a work at a time; `measured(until=...)` measures the peaks before.

    A work that fails says why in a row and the next goes on, as a run on a lent machine must, and so does one for which
    no time is left.
    """
    field = measured(until=time.monotonic() + MOST)
    if field.device.type == "cpu":
        print("dit_lab: these rows are for a GPU; DiT-XL/2's take a CPU hours", file=sys.stderr)
    loads = min(LOADS, field.rounds)
    works: dict[str, Callable[[], list[Line]]] = {
        "one picture": partial(bench_step, name, 1, field),
        f"{PICTURES} pictures": partial(bench_step, name, PICTURES, field),
        "training": partial(bench_training, (name,), TRAINED, field),
        "U-DiT": partial(bench_udit, PICTURES, field),
        "loading": partial(bench_load, name, loads, field.device, field.about, field.until),
    }
    for work, bench in works.items():
        start = time.monotonic()
        yield [without(work, LATE)] if late(field.until) else finished(work, bench)
        torch.cuda.empty_cache()
        print(f"  ({work}: {time.monotonic() - start:.0f} s)", flush=True)


def finished(work: str, bench: Callable[[], list[Line]]) -> list[Line]:
    """The rows of a work, or the one that says why there are none."""
    try:
        return bench()
    except (*FAILURES, OSError, subprocess.SubprocessError) as error:
        return [without(work, f"failed: {reason(error)}")]


def without(work: str, why: str) -> Line:
    """The row, printed, of a work that has none."""
    print(f"{work}: {why}")
    return Line(work, "all", why=why)
