"""Classes by number and by name: what a person types, and what stands beside a run."""

import re
from collections.abc import Sequence
from difflib import get_close_matches

from dit_lab.program import quoted

MOST, FEW = 20, 3  # classes that are listed one by one, and how many where there are more
NUMBER = re.compile("-?[0-9]{1,18}")  # of more digits no model has classes


def class_numbers(asked: Sequence[str], names: Sequence[str] | None, classes: int) -> list[int]:
    """The numbers of classes that were asked for by number or by name: `-> one each`.

    A name may be one of several that a class has ("tench" of "tench, Tinca tinca"), in any case. Digits are a number,
    also where another class is called so (`namesakes` tells). `null` is the null label, one more than the classes.
    Raises ValueError on what is no class, or could be several.
    """
    known = by_name(names)
    return [class_number(plain(each), known, classes, each) for each in asked]


def class_number(name: str, known: dict[str, set[int]], classes: int, asked: str) -> int:
    """One of them, as `plain` spells it; `known` are numbers by name. Raises ValueError."""
    found = known.get(name, set())
    if is_number(name):
        if found and not 0 <= int(name) <= classes:
            raise ValueError(f"there is no class {name}; {called(asked, found)}")
        return int(name)  # whether there is such a class, the model says
    if name == "null" and not found:
        return classes
    if len(found) == 1:
        return next(iter(found))
    if found:
        numbers = ", ".join(map(str, sorted(found)))
        raise ValueError(f"the classes {numbers} are all called {quoted(asked)}: give one of the numbers")
    near = get_close_matches(name, known, 3, 0.6)
    if not classes:
        raise ValueError(f"this model has no classes: give null, not {quoted(asked)}")
    if not known:
        raise ValueError(
            f"this model's classes have no names: give numbers from 0 to {classes - 1}, not {quoted(asked)}"
        )
    told = f"did you mean {' or '.join(map(quoted, near))}?" if near else f"there are {listed_names(known)}"
    raise ValueError(f"no class is called {quoted(asked)}; {told}")


def namesakes(asked: Sequence[str], names: Sequence[str] | None) -> list[str]:
    """A sentence on each number asked for, all of them the model's, that is also the name of a class not taken."""
    known, told = by_name(names), []
    for name in dict.fromkeys(map(plain, asked)):
        others = known.get(name, set())
        if is_number(name) and others and int(name) not in others:
            taken = f"called {quoted(names[int(name)])}" if int(name) < len(names) else "the null label"
            told.append(f"class {int(name)} is {taken}; {called(name, others)}")
    return told


def by_name(names: Sequence[str] | None) -> dict[str, set[int]]:
    """The numbers of the classes that have a name, by each name as `plain` spells it."""
    known = {}
    for number, name in enumerate(names or []):
        for each in {str(name), *str(name).split(",")}:
            known.setdefault(plain(each), set()).add(number)
    return known


def plain(name: str) -> str:
    """A name as it is compared with others."""
    return name.strip().casefold()


def is_number(name: str) -> bool:
    """Whether a name is a class's number; digits always are."""
    return NUMBER.fullmatch(name) is not None


def called(name: str, numbers: set[int]) -> str:
    """Which classes have a name, in words."""
    told, one = ", ".join(map(str, sorted(numbers))), len(numbers) == 1
    return f"the {'class' if one else 'classes'} called {quoted(name)} {'is number' if one else 'are numbers'} {told}"


def listed_names(known: dict) -> str:
    """Some names."""
    names = [quoted(name) for name in known]
    return ", ".join(names) if len(names) <= MOST else f"{', '.join(names[:5])} and {len(names) - 5} more"


def named_classes(names: Sequence[str] | None, where: object = "") -> str:
    """Which number is which class, as a line: `4 classes: 0 circle, 1 square, …`; empty where there are no names.

    Of many it is the first, how many more there are, and `where` all are.
    """
    if not names or list(map(str, names)) == [str(number) for number in range(len(names))]:
        return ""
    told = [f"{number} {name}" for number, name in enumerate(names)]
    more = len(told) - FEW if len(told) > MOST else 0
    left = f" and {more} more" + f"; all: {where}" * bool(where) if more else ""
    return f"{len(names)} {'classes' if len(names) > 1 else 'class'}: {', '.join(told[: len(told) - more])}{left}"


def names_of(source: str) -> str:
    """Where the names of a checkpoint's classes are, whatever it is a file or a folder of."""
    return f"dit_lab.load({source!r}).labels in Python"
