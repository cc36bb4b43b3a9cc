"""Whole numbers, and how many steps there may be."""

from numbers import Integral

from dit_lab.program import quoted


def whole(value) -> bool:
    """Whether `value` is a whole number: Python's or numpy's, but not a bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_steps(steps, most: float = float("inf")) -> None:
    """Raise ValueError unless `steps` is a whole number from 1 to `most`."""
    if not whole(steps) or not 1 <= steps <= most:
        range_ = f"from 1 to {most}" if most < float("inf") else "of at least 1"
        raise ValueError(f"steps must be a whole number {range_}, not {quoted(steps)}")
