"""What a pickle would build, known before anything is built: what is no model's is refused, and so are bombs.

A pickle may put one tuple twice into another, that one twice into a third, and so on: forty such steps take years
to hash, compare or print. So its steps are walked through here with nothing but the outline of each object, before
PyTorch's weights-only unpickler is let at it.
"""

import pickletools
from collections.abc import Iterator
from typing import BinaryIO

import torch

MOST_STEPS = 300_000  # of one pickle; the training state of a U-DiT-L with its optimiser takes about 170,000
MOST_DEPTH = 100  # of containers in containers
SPELT = 30  # an outline may be, written out, so many times as long as the steps that made it; honest ones take about 5
LETTERS = 16  # of a text count as one part
CODE = "holds more than tensors ({}): opening it could run code, so it was not opened"
ENDLESS = "holds containers within containers without end, so it was not opened"
ENCODE = "_codecs.encode"
BUILDERS = {
    "argparse.Namespace", ENCODE, "builtins.set", "builtins.complex", "collections.Counter",
    "collections.OrderedDict", "torch.Size", "torch.device", "torch.serialization._get_layout",
    "torch.nn.parameter.Parameter", "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3", "torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state",
    "torch._utils._rebuild_meta_tensor_no_storage", "torch._utils._rebuild_sparse_tensor",
}  # fmt: skip
PUT, GET = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}, {"GET", "BINGET", "LONG_BINGET"}
FILL = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"}
CALL = ("REDUCE", "NEWOBJ", "NEWOBJ_EX")
MARK = object()


class UnwelcomeError(ValueError):
    """A pickle that could be read but should not be; the message goes on after the file's name."""


def check_pickle(file: BinaryIO) -> None:
    """Walk through one pickle of an open file. Raises UnwelcomeError, or ValueError where it is damaged."""
    steps, length, made = 0, 0, []
    stack, memo = [], {}
    try:
        for step, argument, _ in pickletools.genops(file):
            steps += 1
            length += 1 + (len(argument) // LETTERS if isinstance(argument, str) else 0)
            if steps > MOST_STEPS:
                raise UnwelcomeError(f"holds more than a model (over {MOST_STEPS:,} objects), so it was not opened")
            take(step, argument, stack, memo, made)
    except (IndexError, KeyError, TypeError) as error:  # nothing on the stack, or not what the step needs
        raise ValueError("its pickle is damaged") from error
    check_outlines(made, SPELT * length)


def take(step, argument, stack: list, memo: dict, made: list) -> None:
    """Do one step on the outlines: a list of its parts for what has any, a text, or None. New ones go to `made`."""
    if step.name in PUT:
        memo[len(memo) if argument is None else int(argument)] = stack[-1]
    elif step.name in GET:
        stack.append(memo[int(argument)])
    elif step.name == "MARK":
        stack.append(MARK)
    elif step.name == "DUP":
        stack.append(stack[-1])
    elif step.name in FILL:
        parts = popped(stack, step.stack_before[1:])
        if isinstance(stack[-1], list):
            stack[-1].extend(parts)
    elif step.stack_after:
        parts = popped(stack, step.stack_before)
        stack.append(new(step.name, argument, parts, made))
    else:
        popped(stack, step.stack_before)


def popped(stack: list, kinds: list) -> list:
    """What a step takes from the stack: one for each of `kinds`, or all down to the last mark."""
    if not kinds:  # most steps take nothing
        return []
    if pickletools.markobject in kinds:
        parts = []
        while (part := stack.pop()) is not MARK:
            parts.append(part)
        return parts[::-1]
    return [stack.pop() for _ in kinds][::-1]


def new(name: str, argument, parts: list, made: list):
    """The outline of what a step puts on the stack. Raises UnwelcomeError for what no model's file holds."""
    if name in ("GLOBAL", "INST", "STACK_GLOBAL"):
        what = ".".join(map(str, parts)) if argument is None else argument.replace(" ", ".", 1)
        check_known(what)
        return what
    if name in CALL and parts[0] == ENCODE and parts[1][1:] != ["latin1"]:  # as bytes are pickled; others can grow
        raise UnwelcomeError(CODE.format(ENCODE))
    if not parts and name[:5] != "EMPTY":
        return argument if isinstance(argument, str) else None
    made.append(parts)
    return None if name == "BINPERSID" else parts


def check_known(what: str) -> None:
    """Raise UnwelcomeError for a class or function that models' files have no use for."""
    what = what.replace("__builtin__.", "builtins.", 1)
    home, _, name = what.rpartition(".")
    kind = getattr(torch, name, None) if home == "torch" else None
    if what in BUILDERS or isinstance(kind, torch.dtype) or (home in ("torch", "torch.storage") and "Storage" in name):
        return
    raise UnwelcomeError(CODE.format(what[:80]))


def check_outlines(made: list[list], most: int) -> None:
    """Raise UnwelcomeError where outlines are too deep, hold themselves, or have, written out, over `most` parts."""
    known, total = {}, 0
    for outline in made:
        for each in inner_first(outline, known):
            size, depth = 1, 0
            for part in each:
                inner, below = known[id(part)] if isinstance(part, list) else (letters(part), 0)
                size, depth = size + inner, max(depth, below)
            known[id(each)] = size, depth + 1
            total += size
            if depth >= MOST_DEPTH or total > most:
                raise UnwelcomeError(ENDLESS)


def letters(part: str | None) -> int:
    """What something without parts counts."""
    return 1 + (len(part) // LETTERS if part else 0)


def inner_first(outline: list, known: dict) -> Iterator[list]:
    """The outlines in an outline that are not yet known, what they hold before them. Raises it on a circle."""
    way, on_it = [outline], {}
    while way:
        each = way[-1]
        if id(each) in known:
            way.pop()
        elif id(each) in on_it:
            yield way.pop()
        else:
            on_it[id(each)] = True
            inner = [part for part in each if isinstance(part, list) and id(part) not in known]
            if any(id(part) in on_it for part in inner):
                raise UnwelcomeError(ENDLESS)
            way.extend(inner)
