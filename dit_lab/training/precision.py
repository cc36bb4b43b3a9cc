"""Which precision a run computes in, where it is left to be found out: by a few passes of its own, in turns.

Half precision wins for large models on machines that compute in it, and loses for small ones, whose time goes into
casting; no rule by size would hold on every machine.
"""

import time
from collections.abc import Callable

import torch

from dit_lab.training.options import PRECISIONS

TURNS, PATIENCE = 3, 20.0  # of each precision, until this many seconds are over
WORTH = 1.1  # times as fast as fp32 must bf16 be to be chosen: below, it is no more than chance


def timed(step: Callable, device: torch.device) -> dict[str, float]:
    """Seconds of `step(precision)` by precision, the least of a few, taking turns after one to warm up.

    The least, as what else the machine does only adds. The generators of random numbers are left as they were.
    """
    seconds, begun = {precision: [] for precision in PRECISIONS}, time.perf_counter()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        for turn in range(TURNS + 1):
            for precision, spent in seconds.items():
                spent.append(clocked(lambda precision=precision: step(precision), device))
            if turn and time.perf_counter() - begun > PATIENCE:
                break
    return {precision: min(spent[1:]) for precision, spent in seconds.items()}


def clocked(call: Callable, device: torch.device) -> float:
    """Seconds that a call takes, to its end on the device."""
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def faster(seconds: dict[str, float]) -> str:
    """bf16 where it is faster by more than chance, else fp32."""
    return "bf16" if seconds["bf16"] * WORTH < seconds["fp32"] else "fp32"
