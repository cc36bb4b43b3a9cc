"""Long work in short steps: a generator yields on its way, so that others come between, and returns what it made."""

from collections.abc import Callable, Generator


def relayed(walking: Generator, told: Callable) -> Generator:
    """The same work, with `told(step)` in the place of each step that it yields; where that is None, nothing."""
    while True:
        try:
            step = next(walking)
        except StopIteration as end:
            return end.value
        if (news := told(step)) is not None:
            yield news


def ended(walking: Generator):
    """What work comes to, all of it done now."""
    while True:
        try:
            next(walking)
        except StopIteration as end:
            return end.value
