"""Which precision a run computes in, where it is left to be found out: by a few passes of its own, in turns.

Half precision wins for large models on machines that compute in it, and loses for small ones, whose time goes into
casting; no rule by size would hold on every machine.
"""

from collections.abc import Callable
from functools import partial

import torch

from dit_lab.models import clocked, fastest, in_turns
from dit_lab.training.options import PRECISIONS

TURNS, PATIENCE = 3, 20.0  # of each precision, until this many seconds are over
WORTH = 1.1  # times as fast as fp32 must bf16 be to be chosen: below, it is no more than chance


def timed(step: Callable, device: torch.device) -> dict[str, float]:
    """Seconds of `step(precision)` by precision, the least of a few, taking turns after one to warm up.

    The least, as what else the machine does only adds. The generators of random numbers are left as they were.
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        turns = in_turns(lambda precision: clocked(partial(step, precision), device), PRECISIONS, TURNS, PATIENCE)
    return {precision: min(spent) for precision, spent in turns.items()}


def faster(seconds: dict[str, float]) -> str:
    """bf16 where it is faster by more than chance, else fp32."""
    return fastest(seconds, WORTH)
