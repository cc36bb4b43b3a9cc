"""Small changes to a function's source, one at a time: the slips that a check must see."""

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from copy import deepcopy

SWAPPED = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
COMPARED = {ast.Gt: ast.GtE, ast.LtE: ast.Lt}
ROOTS = {"sqrt"}  # what is taken away where it is called
WORDS = {"mean": "sum", "sum": "mean", "cos": "sin", "sin": "cos", "exp": "expm1", "log": "log1p", "cumprod": "cumsum"}


def mutants(function: Callable) -> Iterator[tuple[str, Callable]]:
    """Each changed function, by what was changed: the line as it is now."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    body = tree.body[0].body
    body[:] = body[1:] if isinstance(body[0], ast.Expr) else body  # its docstring
    seen = {ast.unparse(tree)}
    for number, node in enumerate(ast.walk(tree)):
        for change in changes_of(node):
            changed = deepcopy(tree)
            target = list(ast.walk(changed))[number]
            change(changed, target)
            text = ast.unparse(changed)
            if text not in seen:
                seen.add(text)
                yield differing(ast.unparse(tree), text), compiled(text, function)


def changes_of(node: ast.AST) -> Iterator[Callable]:
    """What may be changed at a node: functions of the changed tree and the node in it."""
    if isinstance(node, ast.BinOp):
        if type(node.op) in SWAPPED:
            yield lambda tree, node: setattr(node, "op", SWAPPED[type(node.op)]())
            yield lambda tree, node: replace(tree, node, node.left)
            yield lambda tree, node: replace(tree, node, node.right)
        if not isinstance(node.op, ast.Add | ast.Mult):
            yield lambda tree, node: swap_sides(node)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield lambda tree, node: replace(tree, node, node.operand)
    if isinstance(node, ast.Constant) and type(node.value) is int:
        for step in (-1, 1):
            yield lambda tree, node, step=step: setattr(node, "value", node.value + step)
    if isinstance(node, ast.Constant) and type(node.value) is float:
        for factor in (0.1, 10):
            yield lambda tree, node, factor=factor: setattr(node, "value", node.value * factor)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        for pattern in patterns(node.value):
            yield lambda tree, node, pattern=pattern: setattr(node, "value", pattern)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        name = node.func.attr
        if name in ROOTS:
            method = not isinstance(node.func.value, ast.Name) or node.func.value.id not in ("torch", "math", "np")
            yield lambda tree, node: replace(tree, node, node.func.value if method else node.args[0])
        if name in WORDS:
            yield lambda tree, node: setattr(node.func, "attr", WORDS[name])
    if isinstance(node, ast.Compare):
        yield lambda tree, node: node.ops.__setitem__(0, COMPARED[type(node.ops[0])]())
    if isinstance(node, ast.Tuple | ast.List) and len(node.elts) > 1:
        yield lambda tree, node: node.elts.reverse()


def patterns(text: str) -> Iterator[str]:
    """An einops pattern with two neighbouring axes exchanged, on either side of the arrow; other words exchanged."""
    if text in WORDS:
        yield WORDS[text]
    if "->" in text:
        places = [match.span() for match in re.finditer(r"[a-z]\w*", text)]
        for (a, b), (c, d) in zip(places, places[1:], strict=False):
            if "->" not in text[b:c]:
                yield text[:a] + text[c:d] + text[b:c] + text[a:b] + text[d:]


def replace(tree: ast.AST, old: ast.AST, new: ast.AST) -> None:
    """Put a node in another's place."""
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is old:
                setattr(parent, name, new)
            elif isinstance(value, list) and any(each is old for each in value):
                value[:] = [new if each is old else each for each in value]


def swap_sides(node: ast.BinOp) -> None:
    """Exchange the sides of an operation."""
    node.left, node.right = node.right, node.left


def differing(before: str, after: str) -> str:
    """The first line that a change made another."""
    pairs = zip(before.splitlines(), after.splitlines(), strict=True)
    return next(new.strip() for old, new in pairs if old != new)


def compiled(text: str, function: Callable) -> Callable:
    """The function of a changed source, among the names that the original knows."""
    names = dict(vars(sys.modules[function.__module__]))
    exec(compile(text, "<mutant>", "exec"), names)
    return names[function.__name__]
