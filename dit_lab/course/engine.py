"""How an answer is judged: tried on every probe, held against the known mistakes, then against the right answer."""

import ast
import inspect
import textwrap
import time
from collections.abc import Callable

import torch

from dit_lab.course.exercise import Exercise, Probe
from dit_lab.course.faults import Outcome, fault, given_to, raised, share
from dit_lab.course.values import named, parts_of, same, tolerance_of

MOST_SECONDS = 2.0  # for one small probe, of which a solution does hundreds in that time
COLUMNS = 100


class Wrong(AssertionError):
    """An answer that is not right; the message says what is wrong, and in a notebook it is all that is shown."""

    def _render_traceback_(self) -> list[str]:
        return textwrap.wrap(f"Wrong: {self}", COLUMNS, break_long_words=False, break_on_hyphens=False)


def judge(exercise: Exercise, answer: Callable) -> None:
    """Raise Wrong, with the mistake by name, unless an answer is right on every probe of its exercise."""
    check_callable(exercise, answer)
    probes = exercise.probes()
    outcomes = [tried(exercise, answer, probe) for probe in probes]
    right = [exercise.solution(*probe.fresh()) for probe in probes]
    told = [fault(exercise, *each) for each in zip(probes, outcomes, right, strict=True)]
    if any(told):
        error = next((outcome.error for outcome in outcomes if outcome.error), None)
        mistake = recognised(exercise, probes, outcomes)
        if mistake:
            raise Wrong(mistake + (f" ({raised(error)})" if error else "")) from error
        first = next(number for number, sentence in enumerate(told) if sentence)
        check_steady(exercise, answer, probes[first], outcomes[first])
        raise Wrong(f"{told[first]}{share(probes, told)}") from outcomes[first].error
    if exercise.learns:
        check_gradient(answer, probes[0])


def check_callable(exercise: Exercise, answer) -> None:
    """Raise Wrong on what is no function, or one that does not take the exercise's arguments."""
    if answer is None or answer is Ellipsis:
        raise Wrong(f"There is nothing here yet: give check.{exercise.name} the function that you wrote.")
    if not callable(answer):
        told = f"check.{exercise.name} takes your function, not {named(answer)} that it gave"
        raise Wrong(f"{told}: leave out the call, and give the name alone.")
    try:
        inspect.signature(answer).bind(*exercise.parameters)
    except TypeError as error:
        raise Wrong(f"It should take {', '.join(exercise.parameters)}, in this order, and does not: {error}.") from None
    except ValueError:  # written in C: it has no signature that Python knows
        pass


def tried(exercise: Exercise, answer: Callable, probe: Probe) -> Outcome:
    """What an answer makes of a probe. Raises Wrong on a stub, on changed inputs, and where it takes seconds twice."""
    for _ in range(2):  # what imports or compiles something at its first call is excused
        given, begun = probe.fresh(), time.perf_counter()
        try:
            outcome = Outcome(answer(*given))
        except Exception as error:
            outcome = Outcome(error=error)
        if time.perf_counter() - begun < MOST_SECONDS:
            break
    else:
        raise Wrong(
            f"It takes more than {MOST_SECONDS:g} seconds for an input as small as this: {given_to(exercise, probe)}. "
            "A loop over pixels or features in Python would take hours in training: let one operation work on the "
            "whole tensor."
        )
    check_written(exercise, answer, outcome)
    check_unchanged(exercise, probe, given)
    return outcome


def check_written(exercise: Exercise, answer: Callable, outcome: Outcome) -> None:
    """Raise Wrong on a stub: what gives nothing, says that it is not implemented, or fails with a `...` left in it."""
    parts = parts_of(outcome.value)
    unfinished = isinstance(outcome.error, NotImplementedError) or any(part is Ellipsis for part in parts)
    if unfinished or (outcome.error and dots_left(answer)):
        raise Wrong(f"This is still the stub: write the missing line of {exercise.name}{exercise.signature}.")
    if outcome.error is None and any(part is None for part in parts):
        raise Wrong(
            f"It gives None. If this is still the stub, write the missing line of {exercise.name}; if not, the word "
            "return is missing before what you computed."
        )


def dots_left(answer: Callable) -> bool:
    """Whether the source of an answer holds a `...` that is not an index."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(answer)))
    except (OSError, TypeError, SyntaxError):
        return False
    indices = {id(node) for each in ast.walk(tree) if isinstance(each, ast.Subscript) for node in ast.walk(each.slice)}
    dots = lambda node: isinstance(node, ast.Constant) and node.value is Ellipsis
    return any(dots(node) and id(node) not in indices for node in ast.walk(tree))


def check_unchanged(exercise: Exercise, probe: Probe, given: tuple) -> None:
    """Raise Wrong where an answer changed what it was given."""
    for name, before, after in zip(exercise.parameters, probe.arguments, given, strict=True):
        if not same(before, after, (0, 0)):
            raise Wrong(
                f"It changes its input {name} in place. Whoever called it still needs {name}: in a model the residual "
                "stream, in training the next step. Make a new tensor instead."
            )


def recognised(exercise: Exercise, probes: list[Probe], outcomes: list[Outcome]) -> str:
    """What is told of the first known mistake that does the same on every probe; empty where there is none."""
    if all(outcome.error for outcome in outcomes):
        return ""
    for mistake in exercise.mistakes:
        tries = zip(probes, outcomes, strict=True)
        if all(does(mistake.made, probe, outcome, exercise.loose) for probe, outcome in tries):
            return mistake.told
    return ""


def does(made: Callable, probe: Probe, outcome: Outcome, loose: float | None) -> bool:
    """Whether a wrong function does on a probe what an answer did: the same value, or the same kind of error."""
    try:
        value = made(*probe.fresh())
    except Exception as error:
        return type(error) is type(outcome.error)
    return outcome.error is None and same(outcome.value, value, tolerance_of(probe.dtype, loose))


def check_steady(exercise: Exercise, answer: Callable, probe: Probe, outcome: Outcome) -> None:
    """Raise Wrong on an answer that gives something else the second time."""
    again, exactly = tried(exercise, answer, probe), (0, 0)
    # What is not like itself is nothing that can be compared.
    if same(outcome.value, outcome.value, exactly) and not same(outcome.value, again.value, exactly):
        raise Wrong(
            "It gives something else each time it is asked: there is a random draw in it. Everything that this "
            "function needs is handed to it; chance belongs to the caller, so that a seed means the same run."
        )


def check_gradient(answer: Callable, probe: Probe) -> None:
    """Raise Wrong where no gradient comes through an answer that a model is trained with."""
    floating = lambda each: torch.is_tensor(each) and each.is_floating_point()
    given = [each.requires_grad_() if floating(each) else each for each in probe.fresh()]
    try:
        through = all(part.requires_grad for part in parts_of(answer(*given)))
    except RuntimeError:  # "call detach() first", of .numpy()
        through = False
    if not through:
        raise Wrong(
            "The numbers are right, but no gradient comes through: somewhere a value leaves the graph (.detach(), "
            ".item(), .numpy(), torch.tensor(...), no_grad). A model with this inside would not learn."
        )
