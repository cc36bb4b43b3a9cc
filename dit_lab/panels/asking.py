"""Checks of what a browser asks for: its word is not trusted, and what makes no sense gets a sentence."""

import math
from collections.abc import Collection
from numbers import Real

from dit_lab.program import quoted


def whole(what: str, value, low: int, high: int) -> int:
    """A whole number within bounds, from a number that JSON may have made a float. Raises ValueError."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not low <= value <= high or value != int(value):
        raise ValueError(f"{what} must be a whole number from {low} to {high}, not {quoted(value)}.")
    return int(value)


def real(what: str, value, low: float, high: float) -> float:
    """A number within bounds. Raises ValueError."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    # Written so that NaN, of which every comparison is false, does not pass.
    if not number or not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f"{what} must be a number from {low:g} to {high:g}, not {quoted(value)}.")
    return float(value)


def choice(what: str, value, there: Collection):
    """One of the values that there are. Raises ValueError, naming them."""
    listed = list(there)
    if not isinstance(value, str | int) or isinstance(value, bool) or value not in listed:
        raise ValueError(f"{what} must be one of {', '.join(map(str, listed))}, not {quoted(value)}.")
    return value
