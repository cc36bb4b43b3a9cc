"""Models that are built to be filled with a file's tensors, or another model's: no memory, no random numbers."""

from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode


@contextmanager
def unfilled():
    """Inside, modules are built on the meta device; fill them by `load_state_dict(tensors, assign=True)`."""
    with torch.device("meta"), Undrawn():
        yield


class Undrawn(TorchFunctionMode):
    """Within it no random numbers are drawn.

    On the meta device drawing them would cost no time by itself, but import PyTorch's compiler, which takes seconds.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func.__name__ not in ("normal_", "uniform_"):
            return func(*args, **(kwargs or {}))
