"""Contestants timed in turns in one process, the machine's peak to hold them against, and models to time.

Taking turns, a machine that slows down slows all of them, so that ratios stay; of each the median counts and the
quartiles tell the spread.
"""

from collections.abc import Callable
from functools import partial
from statistics import quantiles
from typing import NamedTuple

import torch
from tqdm.auto import tqdm

from dit_lab.models import clocked

WARM_UP = 2
SIDES = {"cpu": 4096, "cuda": 8192}  # of the square matrices whose product is the peak
SMALL, LONG = 512, 5.0  # their side, where a product of large ones would take so many seconds


class Timing(NamedTuple):
    """Seconds a call: the median and both quartiles."""

    median: float
    low: float
    high: float


def race(calls: dict[str, Callable], rounds: int, device) -> dict[str, Timing]:
    """Seconds of each contestant over `rounds` turns, of which the first two only warm up."""
    times = {name: [] for name in calls}
    for turn in tqdm(range(rounds), leave=False, unit="round", mininterval=0.5):
        for name, call in calls.items():
            spent = clocked(call, device)
            if turn >= WARM_UP:
                times[name].append(spent)
    return {name: timing(kept) for name, kept in times.items()}


def timing(seconds: list[float]) -> Timing:
    """Median and quartiles; of a single turn all three are the same."""
    if len(seconds) == 1:
        return Timing(*seconds * 3)
    low, median, high = quantiles(seconds, n=4, method="inclusive")
    return Timing(median, low, high)


def peak(device, dtype: torch.dtype, rounds: int = 7) -> float:
    """FLOP/s of a large product of matrices of random numbers: what the machine can do at best.

    Of a small one, where the large would take long: in bf16 that is minutes on a CPU that does not compute in it.
    """
    for side in (SMALL, large := SIDES.get(device.type, 4096)):
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        most = 2 * side**3 / race({"product": partial(torch.matmul, a, b)}, rounds, device)["product"].low
        if 2 * large**3 / most > LONG:
            break
    return most


def stirred(model):
    """The model with random weights that are nowhere zero."""
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return model
