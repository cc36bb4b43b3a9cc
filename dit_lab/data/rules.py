"""What a value that a file brings may be, for `files.check_fields`: a test of its type and range, and that in words."""

from collections.abc import Callable
from typing import NamedTuple


class Rule(NamedTuple):
    """Whether a value is as it should be, and what that is."""

    fits: Callable
    words: str


def whole(least: int, most: int) -> Rule:
    """Whole numbers from `least` to `most`; a truth is none."""
    return Rule(lambda x: type(x) is int and least <= x <= most, f"a whole number from {least} to {most}")


def one_of(*values) -> Rule:
    """These values and no others, of the same type."""
    fits = lambda x: any(type(x) is type(value) and x == value for value in values)
    return Rule(fits, " or ".join(repr(value) for value in values))


def each(rule: Rule, most: int, least: int = 1) -> Rule:
    """Lists of `least` to `most` of what a rule wants."""
    fits = lambda x: isinstance(x, list | tuple) and least <= len(x) <= most and all(map(rule.fits, x))
    return Rule(fits, f"a list of {most if least == most else f'{least} to {most}'}, each {rule.words}")


def text(most: int) -> Rule:
    """Texts of at most so many letters."""
    return Rule(lambda x: isinstance(x, str) and len(x) <= most, f"a text of at most {most} letters")


def maybe(rule: Rule) -> Rule:
    """The same, or nothing."""
    return Rule(lambda x: x is None or rule.fits(x), f"{rule.words}, or null")


NUMBER = Rule(lambda x: type(x) in (int, float) and -1e30 < x < 1e30, "a finite number")
POSITIVE = Rule(lambda x: NUMBER.fits(x) and x > 1e-30, "a number above 0")
SWITCH = one_of(True, False)
