"""Everything that a GPU is asked for, in one run of at most eight minutes: sampling, training, U-DiT, loading."""

import time
from collections.abc import Callable
from functools import partial

import torch

from dit_lab.commands.bench.loading import bench_load
from dit_lab.commands.bench.report import FAILURES, Line
from dit_lab.commands.bench.sampling import Field, bench_step, bench_udit
from dit_lab.commands.bench.training import bench_training

MOST = 8 * 60  # seconds
PICTURES, TRAINED = 64, 32


def bench_gpu(field: Field, name: str = "DiT-XL/2") -> list[Line]:
    """The rows for a GPU, the most wanted first; those for which no time is left are named.

    One that fails says why and the next goes on, as a run on a lent machine must.
    """
    end, lines = time.monotonic() + MOST, []
    works: dict[str, Callable[[], list[Line]]] = {
        "one picture": partial(bench_step, name, 1, field),
        f"{PICTURES} pictures": partial(bench_step, name, PICTURES, field),
        "training": partial(bench_training, (name,), TRAINED, field),
        "U-DiT": partial(bench_udit, PICTURES, field),
        "loading": partial(bench_load, name, 5, field.device, field.about),
    }
    for work, bench in works.items():
        if time.monotonic() > end:
            print(f"no time is left for: {work}")
            continue
        start = time.monotonic()
        try:
            lines += bench()
        except (*FAILURES, OSError) as error:
            print(f"{work} failed: {type(error).__name__}: {error}")
        torch.cuda.empty_cache()
        print(f"  ({work}: {time.monotonic() - start:.0f} s)", flush=True)
    return lines
