"""What is wrong with one outcome, in a sentence: an exception, a type, a shape, values, a device, a dtype."""

import traceback
from typing import Any, NamedTuple

import torch

from dit_lab.course.exercise import FLOATS, Exercise, Probe
from dit_lab.course.values import arguments_in_words, difference, kind_of, parts_of, same, tolerance_of
from dit_lab.program import one_line

MOST = 240  # letters of an exception


class Outcome(NamedTuple):
    """What came of one call: a value, or the exception that it ended with."""

    value: Any = None
    error: Exception | None = None


def fault(exercise: Exercise, probe: Probe, outcome: Outcome, right) -> str:
    """What is wrong with one outcome beside the right value, in words; empty where nothing is."""
    where = given_to(exercise, probe)
    if outcome.error:
        return f"It stops with {raised(outcome.error)}. It was given {where}."
    if sentence := kind_of(outcome.value, right):
        return f"{sentence} It was given {where}."
    pairs = list(zip(parts_of(outcome.value), parts_of(right), strict=False))
    if sentence := next(filter(None, (elsewhere(*pair) for pair in pairs)), ""):
        return sentence
    tolerance = tolerance_of(probe.dtype, exercise.loose)
    if not same(outcome.value, right, tolerance):
        return f"Given {where}, {difference(outcome.value, right, tolerance)}"
    return next(filter(None, (other_dtype(probe, *pair) for pair in pairs)), "")


def given_to(exercise: Exercise, probe: Probe) -> str:
    """The inputs of a probe in words."""
    where = arguments_in_words(exercise.parameters, probe.arguments)
    tensors = [part for each in probe.arguments for part in parts_of(each) if hasattr(part, "shape")]
    return f"{where} ({plain(probe.dtype)})" if tensors else where


def elsewhere(got, wanted) -> str:
    """What is wrong with a result's device; empty where nothing is."""
    if not torch.is_tensor(wanted) or got.device == wanted.device:
        return ""
    return f"Its result is on {got.device}, its input on {wanted.device}: it must stay where it was given."


def other_dtype(probe: Probe, got, wanted) -> str:
    """What is wrong with a result's dtype; empty where nothing is."""
    if not torch.is_tensor(wanted) or got.dtype == wanted.dtype:
        return ""
    # Where no input is a float, nothing but the solution's habit says which of the two it should be.
    given = [part for each in probe.arguments for part in parts_of(each)]
    bound = any(torch.is_tensor(part) and part.is_floating_point() for part in given)
    if not bound and wanted.dtype in FLOATS and got.dtype in FLOATS:
        return ""
    return (
        f"The numbers are right, but they come as {plain(got.dtype)} where {plain(wanted.dtype)} is wanted, as the "
        "input is: the next layer refuses another dtype. Compute in what you like, and give back what you were given."
    )


def plain(dtype: torch.dtype) -> str:
    """A dtype's name alone."""
    return str(dtype).removeprefix("torch.")


def raised(error: Exception) -> str:
    """An exception in words, with the line of the answer that it came from."""
    # The first frame is the engine's, the second the answer's own.
    _, *here = traceback.extract_tb(error.__traceback__)
    lines = [frame.line for frame in here if frame.filename == here[0].filename and frame.line]
    said = one_line(" ".join(str(error).split()), MOST).rstrip(".")
    return f"{type(error).__name__}: {said}" + (f", at `{lines[-1]}`" if lines else "")


def share(probes: list[Probe], told: list[str]) -> str:
    """On which probes an answer is right, where it is on some; begins with a space, or is empty."""
    tries = list(zip(probes, told, strict=True))
    single, double = ([not sentence for probe, sentence in tries if probe.dtype == dtype] for dtype in FLOATS)
    if single and all(single) and not all(double):
        return (
            " In float32 it is right: something in it has a dtype of its own (torch.zeros, torch.arange, a layer's "
            "weights), is rounded, or has a small number added. Make it like the input, with .to(x)."
        )
    good = told.count("")
    return f" It is right on {good} of the {len(told)} inputs that were tried." if good else ""
