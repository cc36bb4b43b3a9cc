"""Two results held against each other, and what is told of where they part."""

from numbers import Integral, Real

import numpy as np
import torch

from dit_lab.program import quoted

TOLERANCES = {torch.float64: (1e-6, 1e-7)}  # relative, absolute; float32's leaves room for every right order of sums
TOLERANCE = 1e-4, 1e-5
KINDS = {
    torch.Tensor: "a tensor",
    int: "a whole number (int)",
    float: "a plain number (float)",
    tuple: "several tensors",
}


def tolerance_of(dtype: torch.dtype, loose: float | None) -> tuple[float, float]:
    """(relative, absolute) for results of inputs in `dtype`; `loose` widens the absolute one."""
    relative, absolute = TOLERANCES.get(dtype, TOLERANCE)
    return relative, max(absolute, loose or 0)


def several(value) -> bool:
    """Whether a result is several: a tuple or a list."""
    return isinstance(value, tuple | list)


def parts_of(value) -> list:
    """A result as the list of its parts."""
    return list(value) if several(value) else [value]


def same(one, other, tolerance: tuple[float, float]) -> bool:
    """Whether two results of any kind hold the same numbers in the same shapes; NaN is like NaN."""
    if several(one) or several(other):
        one, other = aligned(one, other), aligned(other, one)
        both = several(one) and several(other) and len(one) == len(other)
        return both and all(same(each, its, tolerance) for each, its in zip(one, other, strict=True))
    if isinstance(one, Integral) and isinstance(other, Integral):
        return one == other
    one, other = tensor_of(one), tensor_of(other)
    alike = one is not None and other is not None and one.shape == other.shape
    return alike and bool(fits(one, other, tolerance).all())


def tensor_of(value) -> torch.Tensor | None:
    """A number, array or tensor as a tensor to compare; None for what is none of them, or too large a number."""
    if not isinstance(value, torch.Tensor | np.ndarray | Real):
        return None
    try:
        return torch.as_tensor(value).detach().to_dense().cpu()
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None


def aligned(one, other):
    """A stacked tensor taken apart where several tensors of its rows' kind are meant: `q, k, v = ...` takes both."""
    stacked = torch.is_tensor(one) and several(other) and len(other) and torch.is_tensor(other[0])
    return tuple(one) if stacked and one.ndim == other[0].ndim + 1 else one


def fits(got: torch.Tensor, wanted: torch.Tensor, tolerance: tuple[float, float]) -> torch.Tensor:
    """Where two tensors of one shape agree within the tolerance."""
    relative, absolute = tolerance
    if got.is_complex():
        return torch.isclose(got, wanted.to(got), rtol=relative, atol=absolute)
    got, wanted = got.double(), wanted.double()
    return torch.isclose(got, wanted, rtol=relative, atol=absolute, equal_nan=True)


def kind_of(got, wanted) -> str:
    """What kind of thing a result is where another kind was wanted, in a sentence; none where it is right."""
    if several(wanted):
        got = aligned(got, wanted)
        if not several(got) or len(got) != len(wanted):
            many = f"{len(got)} of them" if several(got) else named(got)
            return f"It should give {len(wanted)} results, one after the other, and gives {many}."
        return next((told for told in map(kind_of, got, wanted) if told), "")
    if torch.is_tensor(wanted):
        right, advice = torch.is_tensor(got), "What comes next in the model takes a tensor."
    elif isinstance(wanted, Integral):
        right, advice = isinstance(got, Integral) and not isinstance(got, bool), "A count is a whole number: int()."
    else:
        right, advice = isinstance(got, Real) and not isinstance(got, bool), "A plain number is had with .item()."
    return "" if right else f"It should give {named(wanted)} and gives {named(got)}. {advice}"


def named(value) -> str:
    """A result's kind in words."""
    for kind, words in KINDS.items():
        if isinstance(value, kind) and not isinstance(value, bool):
            return words
    return f"a {type(value).__module__.partition('.')[0]} {type(value).__name__}".replace("builtins ", "")


def shape_of(value) -> str:
    """A shape as it is read aloud: `2 x 3 x 4`."""
    return " x ".join(map(str, value.shape)) or "no axes, a single number"


def arguments_in_words(names: list[str], arguments: tuple) -> str:
    """The inputs of a probe: shapes of tensors, values of numbers."""
    return ", ".join(f"{name} {words(argument)}" for name, argument in zip(names, arguments, strict=True))


def words(argument) -> str:
    """One argument in words."""
    if isinstance(argument, list):
        return "[" + ", ".join(map(words, argument)) + "]"
    if isinstance(argument, torch.Tensor | np.ndarray):
        return f"of {shape_of(argument)}" if argument.ndim else "a single number"
    return f"= {argument}"


def difference(got, wanted, tolerance: tuple[float, float]) -> str:
    """Where two results of one kind first part, with both values, and what their difference looks like."""
    if several(wanted):
        parts = list(zip(aligned(got, wanted), wanted, strict=True))
        number = next(n for n, (one, other) in enumerate(parts) if not same(one, other, tolerance))
        return f"result {number + 1} of {len(parts)}: {difference(*parts[number], tolerance)}"
    if isinstance(wanted, Integral):
        return f"it should be {wanted} and is {quoted(got)}.{times(got, wanted)}"
    got, wanted = tensor_of(got), tensor_of(wanted)
    if got.shape != wanted.shape:
        return f"its shape should be {shape_of(wanted)} and is {shape_of(got)}."
    off = ~fits(got, wanted, tolerance)
    at = tuple(off.nonzero()[0].tolist())
    place = f"at {list(at)} it should be" if at else "it should be"
    many = f" ({int(off.sum())} of {off.numel()} values differ, shape {shape_of(wanted)})" if at else ""
    near = abs(got[at].item() - wanted[at].item()) < 1e-3 * abs(wanted[at].item())
    values = [digits(each[at], 10 if near else 6) for each in (wanted, got)]
    return f"{place} {values[0]} and is {values[1]}{many}.{pattern(got, wanted, tolerance)}"


def times(got: int, wanted: int) -> str:
    """How many times too large a whole number is, where that is simple; begins with a space, or is empty."""
    simple = wanted and wanted < got < 1000 * wanted and got % wanted == 0
    return f" That is {got // wanted} times as much." if simple else ""


def digits(value: torch.Tensor, many: int) -> str:
    """One value as text, to so many digits where it is not whole."""
    value = value.item()
    return f"{value:.{many}g}" if isinstance(value, float | complex) else str(value)


def pattern(got: torch.Tensor, wanted: torch.Tensor, tolerance: tuple[float, float]) -> str:
    """What a difference looks like as a whole, where it is simple; begins with a space, or is empty."""
    if got.is_complex() or got.dtype == torch.bool:
        return ""
    got, wanted = got.double().flatten(), wanted.double().flatten()
    if not got.isfinite().all():
        return " There is NaN or infinity in it." if wanted.isfinite().all() else ""
    largest = wanted.abs().argmax()
    ratio, shift = (got[largest] / wanted[largest]).item(), (got - wanted).mean().item()
    alike = lambda other: bool(fits(got, other, tolerance).all())
    if len(got) > 1 and alike(-wanted):
        return " Every value has the wrong sign."
    if len(got) > 1 and ratio and alike(ratio * wanted):
        return f" Every value is {ratio:.4g} times what it should be."
    if len(got) > 1 and alike(wanted + shift):
        return f" Every value is too {'large' if shift > 0 else 'small'} by {abs(shift):.4g}."
    if bool(fits(got.sort().values, wanted.sort().values, tolerance).all()):
        return " The values are the right ones in other places: an order of axes is mixed up."
    return ""
