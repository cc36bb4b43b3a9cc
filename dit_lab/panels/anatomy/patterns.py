"""The einops patterns that a part's code really has, and the same with a model's numbers in the letters' places."""

import ast
import inspect
import math
import re
from textwrap import dedent

CALLS = "rearrange", "reduce", "repeat", "einsum", "pack"


def patterns_of(function) -> list[str]:
    """The einops patterns in a function's source, in the order in which they are written; none without source."""
    try:
        tree = ast.parse(dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return []
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") in CALLS]
    texts = [
        (text.lineno, text.col_offset, text.value)
        for call in calls
        for text in call.args
        if isinstance(text, ast.Constant) and isinstance(text.value, str) and re.search("->|[*]", text.value)
    ]
    return list(dict.fromkeys(pattern for *_, pattern in sorted(texts)))


def numbered(pattern: str, axes: dict[str, int]) -> dict:
    """A pattern and what it comes to: `{pattern, numbers, before, after}`; alone where a letter is not known.

    `numbers` has each letter's size in its place, `before` and `after` are the shapes: `b (h w) d -> b d h w` of 7 x 7
    tokens is `1 (7 7) 128 -> 1 128 7 7`, from 1 x 49 x 128 to 1 x 128 x 7 x 7.
    """
    letters = set(re.findall("[a-z]+", pattern))
    if "->" not in pattern or not letters <= axes.keys():
        return {"pattern": pattern}
    numbers = re.sub("[a-z]+", lambda name: str(axes[name[0]]), pattern)
    before, after = (sizes(side) for side in numbers.split("->"))
    return {"pattern": pattern, "numbers": numbers, "before": before, "after": after}


def sizes(side: str) -> list[int]:
    """One side of a pattern in numbers as a shape: `1 (7 7) 128 -> [1, 49, 128]`."""
    return [math.prod(map(int, re.findall(r"\d+", axis))) for axis in re.findall(r"\([^)]*\)|\d+", side)]
