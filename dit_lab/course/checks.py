"""What notebooks call: `check.NAME(answer)`, hints, solutions and progress."""

import inspect
import textwrap
from collections import defaultdict
from collections.abc import Callable
from difflib import get_close_matches

from dit_lab.course.engine import Wrong, judge
from dit_lab.course.exercise import NOTEBOOKS, Exercise
from dit_lab.course.exercises import EXERCISES
from dit_lab.course.progress import change, passed
from dit_lab.program import quoted


class Check:
    """`check.NAME(answer)` for each exercise: prints what is now known, or raises `check.Wrong` with the mistake.

    `check.hint(NAME)` gives hints one at a time, `check.solution(NAME)` the solution, `check.progress()` a table.
    """

    Wrong = Wrong

    def __init__(self, exercises: dict[str, Exercise]):
        self.exercises, self.hinted = exercises, defaultdict(int)

    def __getattr__(self, name: str) -> Callable[[Callable], None]:
        if name.startswith("_") or name == "exercises":  # notebooks ask objects for many such
            raise AttributeError(name)
        try:
            exercise = self.named(name)
        except ValueError as error:
            raise AttributeError(str(error)) from None

        def ask(answer: Callable) -> None:
            judge(exercise, answer)
            with change() as record:
                record.passed = list(dict.fromkeys([*record.passed, name]))
            print(f"{name} is right. {exercise.known}")

        ask.__name__ = ask.__qualname__ = name
        ask.__doc__ = f"{name}{exercise.signature}\n\n{inspect.getdoc(exercise.solution)}"
        return ask

    def __repr__(self) -> str:
        return f"check.NAME(answer) for {', '.join(self.exercises)}"

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.exercises]

    def named(self, name: str) -> Exercise:
        """An exercise. Raises ValueError, with the nearest name, where there is none of that name."""
        if name not in self.exercises:
            near = get_close_matches(str(name), self.exercises, n=1)
            meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(self.exercises)}"
            raise ValueError(f"there is no exercise {quoted(name)}; {meant}")
        return self.exercises[name]

    def hint(self, name: str) -> None:
        """Print the next hint of an exercise; the last is nearly the answer. Raises ValueError on an unknown name."""
        hints = self.named(name).hints
        number = min(self.hinted[name] + 1, len(hints))
        self.hinted[name] = number
        print(f"Hint {number} of {len(hints)}: {hints[number - 1]}")
        if number == len(hints):
            print(f'That was the last; check.solution("{name}") shows the answer.')

    def solution(self, name: str) -> None:
        """Print the source of an exercise's solution. Raises ValueError on an unknown name."""
        print(textwrap.dedent(inspect.getsource(self.named(name).solution)).rstrip())

    def progress(self) -> None:
        """Print what has passed, notebook by notebook."""
        done, rows = passed(), []
        for number, title in NOTEBOOKS.items():
            names = [name for name, exercise in self.exercises.items() if exercise.notebook == number]
            if names:
                left = [name for name in names if name not in done]
                told = f"left: {', '.join(left)}" if left else "done"
                rows.append((f"{number:2} {title}", f"{len(names) - len(left)} of {len(names)}", told))
        for title, share, told in rows:
            print(f"{title:<16} {share:<8} {told}")
        print(f"{'in all':<16} {len(done & {*self.exercises})} of {len(self.exercises)}")


check = Check(EXERCISES)
