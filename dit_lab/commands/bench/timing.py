"""Two calls timed in turns, and models to time: with random weights that are nowhere zero."""

import time
from collections.abc import Callable
from statistics import median

import torch
from tqdm.auto import tqdm

WARM_UP = 2


def alternate(first: Callable, second: Callable, rounds: int, device) -> tuple[float, float]:
    """Median seconds of each, taking turns."""
    times = ([], [])
    for turn in tqdm(range(rounds), leave=False):
        for call, kept in zip((first, second), times, strict=True):
            wait(device)
            start = time.perf_counter()
            call()
            wait(device)
            if turn >= WARM_UP:
                kept.append(time.perf_counter() - start)
    return median(times[0]), median(times[1])


def wait(device) -> None:
    """Let a GPU finish what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def stirred(model):
    """The model with random weights that are nowhere zero."""
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return model
