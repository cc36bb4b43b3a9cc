"""Batches made in a thread while the device computes, so that a step never waits for its noise or its pictures."""

from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

# Batches made early, by device: on a CPU a thread would take from the computing what it gives.
EARLY = defaultdict(lambda: 2, cpu=0)


def ahead(make: Callable, steps: range, depth: int) -> Iterator:
    """What `make` gives for each of the steps, in their order, made in one thread up to `depth` steps early.

    With a depth of 0 there is no thread. What `make` raises is raised at its step. Closed at any moment, it leaves no
    thread behind.
    """
    if not depth:
        yield from map(make, steps)
        return
    pool, coming, made = ThreadPoolExecutor(1, "batches"), iter(steps), deque()
    try:
        for step in coming:
            made.append(pool.submit(make, step))
            if len(made) > depth:
                yield made.popleft().result()
        while made:
            yield made.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def pinned(tensors: tuple, device: torch.device) -> tuple:
    """Tensors where a GPU can fetch them by itself, while the CPU goes on; for other devices as they are."""
    if device.type != "cuda":
        return tensors
    with torch.cuda.device(device):  # a thread of its own begins at the first GPU, and would take memory there
        return tuple(tensor.pin_memory() for tensor in tensors)
