"""Where a part stands in the code: file, line and the source of what it does, found by `inspect`."""

import inspect
from pathlib import Path
from textwrap import dedent

from torch import nn

MOST_LINES = 120  # of a source that is shown


def code_of(thing) -> dict | None:
    """`{name, file, line, source}` of a function or class; None where its source is not at hand, as in a console.

    Files of the package are named from its top, others by their names alone: a page that is passed on names no folder
    of the machine that made it.
    """
    try:
        lines, line = inspect.getsourcelines(thing)
        file = Path(inspect.getsourcefile(thing)).name
    except (OSError, TypeError):
        return None
    module = thing.__module__.split(".")
    if module[0] == "dit_lab":
        folders = module if file == "__init__.py" else module[:-1]
        file = "/".join([*folders, file])
    source = dedent("".join(lines[:MOST_LINES])).rstrip()
    return {"name": thing.__qualname__, "file": file, "line": line, "source": source}


def runs(module: nn.Module):
    """What a reader wants to see of a module: its `forward`, or its class where that inherits PyTorch's."""
    kind = type(module)
    return kind if kind.forward.__module__.startswith("torch.") else kind.forward


def told_of(thing) -> str:
    """The first paragraph of a docstring as one line, without quotes and errors; empty where there is none."""
    paragraph = (inspect.getdoc(thing) or "").split("\n\n")[0]
    return " ".join(paragraph.replace("`", "").split()).partition(" Raises ")[0]
