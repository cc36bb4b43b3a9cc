"""Where a model computes, and whether in half the bits: what is there, and what the machine is fast in."""

import time
from collections.abc import Callable, Iterable
from contextlib import contextmanager

import torch

from dit_lab.program import quoted


def pick_device(name: str) -> torch.device:
    """`auto` is the first of cuda, mps and cpu that is there. Raises ValueError on one that is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, usable in there.items() if usable))
    usable = ", ".join(kind for kind in there if there[kind])
    if not there.get(name.partition(":")[0], False):
        raise ValueError(f"there is no device {quoted(name)} here; there is {usable}")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"{quoted(name)} is no device's name; there is {usable}") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"there is no device {quoted(name)} here; the last is cuda:{torch.cuda.device_count() - 1}")
    return device


@contextmanager
def one_thread():
    """Inside, one thread computes: for models this small two gain little, and on a busy machine wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether to autocast to bf16: asked for, or `auto` on a device that computes in it."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # x86's names for it, and ARM's.
    able = torch.cpu.get_capabilities()
    return device.type == "cpu" and any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def clocked(call: Callable, device: torch.device) -> float:
    """Seconds that a call takes, to its end on the device."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda device: None
    wait(device)
    start = time.perf_counter()
    call()
    wait(device)
    return time.perf_counter() - start


def in_turns(clock: Callable, names: Iterable[str], turns: int, patience: float) -> dict[str, list[float]]:
    """`clock(name)`, seconds, of each over some `turns` after one to warm up, which does not count.

    Once `patience`, in seconds, is over no further turn begins; one is always taken.
    """
    seconds, begun = {name: [] for name in names}, time.perf_counter()
    for turn in range(turns + 1):
        for name, spent in seconds.items():
            spent.append(clock(name))
        if turn and time.perf_counter() - begun > patience:
            break
    return {name: spent[1:] for name, spent in seconds.items()}


def fastest(seconds: dict[str, float], worth: float) -> str:
    """The precision of the fewest seconds: fp32 unless another is `worth` so many times as fast, not by chance."""
    best = min(seconds, key=seconds.get)
    return best if seconds[best] * worth < seconds["fp32"] else "fp32"
