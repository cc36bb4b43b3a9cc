"""Classes by number and by name: what a person types, and what stands beside a run."""

from collections.abc import Sequence
from difflib import get_close_matches

from dit_lab.program import quoted

MOST = 20  # classes that are listed one by one


def class_numbers(asked: Sequence[str], names: Sequence[str] | None, classes: int) -> list[int]:
    """The numbers of classes that were asked for by number or by name: `-> one each`.

    A name may be one of several that a class has ("tench" of "tench, Tinca tinca"), in any case. `null` is the null
    label, one more than the classes. Raises ValueError on what is no class, or could be several.
    """
    known = {}
    for number, name in enumerate(names or []):
        for each in {str(name), *str(name).split(",")}:
            known.setdefault(each.strip().casefold(), set()).add(number)
    return [class_number(each, known, classes) for each in asked]


def class_number(asked: str, known: dict[str, set[int]], classes: int) -> int:
    """One of them; `known` are numbers by name. Raises ValueError."""
    name = asked.strip().casefold()
    if name.isascii() and name.lstrip("-").isdigit():
        return int(name)  # whether there is such a class, the model says
    if name == "null" and name not in known:
        return classes
    found = known.get(name, set())
    if len(found) == 1:
        return next(iter(found))
    if found:
        numbers = ", ".join(map(str, sorted(found)))
        raise ValueError(f"the classes {numbers} are all called {quoted(asked)}: give one of the numbers")
    near = get_close_matches(name, known, 3, 0.6)
    if not known:
        raise ValueError(
            f"this model's classes have no names: give numbers from 0 to {classes - 1}, not {quoted(asked)}"
        )
    told = f"did you mean {' or '.join(map(quoted, near))}?" if near else f"there are {listed_names(known)}"
    raise ValueError(f"no class is called {quoted(asked)}; {told}")


def listed_names(known: dict) -> str:
    """Some names."""
    names = [quoted(name) for name in known]
    return ", ".join(names) if len(names) <= MOST else f"{', '.join(names[:5])} and {len(names) - 5} more"


def named_classes(names: Sequence[str] | None) -> str:
    """Which number is which class, as a line: `4 classes: 0 circle, 1 square, …`; empty where there are no names."""
    if not names or list(map(str, names)) == [str(number) for number in range(len(names))]:
        return ""
    told = [f"{number} {name}" for number, name in enumerate(names)]
    if len(told) > MOST:
        told = [*told[:3], "…", told[-1]]
    return f"{len(names)} {'classes' if len(names) > 1 else 'class'}: {', '.join(told)}"
