"""Small faults put into the package, one at a time: does a test notice? `python tests/mutants.py dit_lab/x/y.py ...`.

Files stay as they are. The tests of the files' wings are collected once, and run once to note which lines each runs.
Then every fault is put into the running code of a forked process, where it meets the tests that run its line, the
quickest first, until one fails. What is made on import (defaults, tables, classes) cannot be exchanged so, and is left
out. Survivors are printed, and faults whose tests took too long to tell. A log keeps all, so that a stopped run goes
on. `mutants.md` has what no test can tell.
"""

import ast
import contextlib
import copy
import importlib
import json
import os
import pickle
import re
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import CodeType, SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]
LOG = Path(tempfile.gettempdir()) / "dit_lab-mutants.jsonl"
SECONDS = 120  # for the tests of a fault beyond twice what they took at first
PAIRS = "Add Sub, Mult Div, Pow Mult, FloorDiv Mult, And Or, Lt LtE, Gt GtE, Eq NotEq, Is IsNot, In NotIn, BitAnd BitOr"
OTHER = {one: other for pair in PAIRS.split(", ") for one, other in (pair.split(), pair.split()[::-1])}
WORDS = dict(min="max", max="min", cos="sin", sin="cos", any="all", all="any", mean="sum", sum="mean")
APART = "decorator_list", "returns", "annotation"  # fields of what is made on import, or never looked at
NO_OBJECTS = "torch", "np", "math", "F", "nn", "self"
LEFT_OUT = ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom | ast.arguments  # messages, and what is made once


def faults(path: str):
    """Each fault of a file: its name, its lines, its function's names, and the tree that has it for the moment."""
    tree, short = ast.parse((ROOT / path).read_text()), lambda node: " ".join(ast.unparse(node).split())[:80]
    for node, put, statement, unit in places(tree):
        body = getattr(statement, "body", None)
        last = max(statement.lineno, body[0].lineno - 1) if body else statement.end_lineno
        for new in changes(node):
            put(new)
            name = f"{path}:{node.lineno}:{node.col_offset}: {short(node)} -> {short(new)}"
            yield name, {*range(statement.lineno, last + 1)}, unit, ast.fix_missing_locations(tree)
            put(node)


def places(node, statement=None, unit=(), inside=False):
    """The nodes within functions: each with how to put another there, its statement, and its outermost function."""
    for field, value in ast.iter_fields(node):
        for key, child in enumerate(value) if isinstance(value, list) else [(field, value)]:
            docstring = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
            if not isinstance(child, ast.AST) or isinstance(child, LEFT_OUT) or docstring or field in APART:
                continue
            of = child if isinstance(child, ast.stmt) else statement
            if inside and hasattr(child, "lineno"):
                owner = value if isinstance(value, list) else vars(node)
                yield child, lambda new, owner=owner, key=key: owner.__setitem__(key, new), of, unit
            function = isinstance(child, ast.FunctionDef)
            named = (function or isinstance(child, ast.ClassDef)) and not inside
            yield from places(child, of, (*unit, child.name) if named else unit, inside or function)


def changes(node):
    """What a node may become."""
    match node:
        case ast.BinOp() | ast.BoolOp() | ast.AugAssign() if (name := type(node.op).__name__) in OTHER:
            yield changed(node, op=getattr(ast, OTHER[name])())
        case ast.Compare(ops=[op]):
            yield changed(node, ops=[getattr(ast, OTHER[type(op).__name__])()])
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield node.operand
        case ast.Constant(value=bool(value)):
            yield changed(node, value=not value)
        case ast.Constant(value=int(value)):
            yield from (changed(node, value=value + step) for step in (1, -1))
        case ast.Constant(value=float(value)):
            yield changed(node, value=2 * value or 1.0)
        case ast.Constant(value=str(value)):
            yield from (changed(node, value=text) for text in words(value))
        case ast.Attribute(attr=name) if name in WORDS:
            yield changed(node, attr=WORDS[name])
        case ast.Name(id=name) if name in WORDS:
            yield changed(node, id=WORDS[name])
        case ast.Slice():
            yield from (changed(node, **{end: None}) for end in ("lower", "upper") if getattr(node, end))
        case ast.IfExp():
            yield from (node.body, node.orelse)
        case ast.If():
            yield from (changed(node, test=test) for test in (ast.UnaryOp(ast.Not(), node.test), ast.Constant(False)))
        case ast.Call():
            for one in node.keywords:
                yield changed(node, keywords=[each for each in node.keywords if each is not one])
            if isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") not in NO_OBJECTS:
                yield node.func.value  # a method's object without it
            elif len(node.args) == 1:
                yield node.args[0]
        case ast.Expr() | ast.Break() | ast.Continue() | ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield ast.Pass()


def changed(node, **fields):
    """A copy of a node with other fields."""
    vars(new := copy.copy(node)).update(fields)
    return new


def words(text: str):
    """A reduction's name exchanged; in an einops pattern two neighbouring axes, on either side of the arrow."""
    yield from [WORDS[text]] if text in WORDS else []
    spans = [match.span() for match in re.finditer(r"[a-z]\w*", text)] if "->" in text else []
    for (a, b), (c, d) in zip(spans, spans[1:], strict=False):
        yield from [text[:a] + text[c:d] + text[b:c] + text[a:b] + text[d:]] if "->" not in text[b:c] else []


def forked(function, *arguments, seconds: int):
    """What a function gives in a forked process with a folder of its own, None where it dies.

    Raises TimeoutError where it takes more than these seconds.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        told = Path(folder) / "told"
        if (child := os.fork()) == 0:
            with contextlib.suppress(BaseException):
                signal.alarm(seconds)
                tempfile.tempdir = folder
                for stream in (1, 2):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
                told.write_bytes(pickle.dumps(function(*arguments)))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM:
            raise TimeoutError(f"it took more than {seconds} s")
        return pickle.loads(told.read_bytes()) if told.exists() else None


def run(items):
    """Run tests one after the other: each, once it has run, and whether it failed."""
    for item, following in zip(items, [*items, None][1:], strict=True):
        failed = item.session.testsfailed
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        yield item, item.session.testsfailed > failed


def forget(paths: list[str]):
    """Have files' functions forget what they keep of calls (`functools.cache`): a kept answer runs no line."""
    for path in paths:
        for kept in vars(sys.modules[module_of(path)]).values():
            if hasattr(kept, "cache_clear"):
                kept.cache_clear()


def module_of(path: str) -> str:
    """A file's name as it is imported."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def traced(items, paths: list[str]) -> dict:
    """Of every test that passes, the seconds it takes and the lines it runs in each file."""
    known, seen, ran, begun = {str(ROOT / path): path for path in paths}, {}, {}, time.perf_counter()

    def trace(frame, event, argument):
        if path := known.get(frame.f_code.co_filename):
            ran.setdefault(path, set()).add(frame.f_lineno)
        return trace if path else None

    forget(paths)
    sys.settrace(trace)
    for item, failed in run(items):
        if not failed:
            seen[item.nodeid] = time.perf_counter() - begun, {path: {*lines} for path, lines in ran.items()}
        ran.clear()
        forget(paths)
        begun = time.perf_counter()
    return seen


def exchange(path: str, unit: tuple[str, ...], tree):
    """Give a function the code that it has in a tree; what wraps it (a cache, a property) stays."""
    code, live = compile(tree, str(ROOT / path), "exec"), sys.modules[module_of(path)]
    for name in unit:
        code = next(each for each in code.co_consts if isinstance(each, CodeType) and each.co_name == name)
        live = vars(live)[name]
    while not hasattr(live, "__code__") or hasattr(live, "__wrapped__"):
        live = next(getattr(live, name) for name in ("__wrapped__", "fget", "func") if hasattr(live, name))
    live.__code__ = code


def met(path: str, unit: tuple[str, ...], tree, items) -> str:
    """Whether a test fails where a function has the code that it has in a tree."""
    try:
        exchange(path, unit, tree)
    except (KeyError, StopIteration, ValueError):  # no such function is to be found, or it closes over other names
        return "left out"  # than before, such as that of super()
    forget([path])
    return "noticed" if any(failed for _, failed in run(items)) else "survived"


def trial(session):
    """In the place of pytest's loop over its tests."""
    found = dict(map(json.loads, LOG.read_text().splitlines())) if LOG.exists() else {}
    tests, paths = {item.nodeid: item for item in session.items}, sys.argv[1:]
    for path in paths:
        importlib.import_module(module_of(path))
    seen = forked(traced, session.items, paths, seconds=3600)
    for path in paths:
        for name, lines, unit, tree in faults(path):
            if name not in found:
                meet = sorted((took, test) for test, (took, ran) in seen.items() if lines & ran.get(path, set()))
                limit = SECONDS + 2 * int(sum(took for took, _ in meet))
                try:
                    outcome = forked(met, path, unit, tree, [tests[test] for _, test in meet], seconds=limit)
                except TimeoutError:
                    outcome = "too long"
                found[name] = outcome or "noticed"  # it died
                with LOG.open("a") as file:
                    print(json.dumps([name, found[name]]), file=file)
            if found[name] in ("survived", "too long"):
                print(f"{found[name]}: {name}", flush=True)
    print({outcome: [*found.values()].count(outcome) for outcome in sorted({*found.values()})})
    return True


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    wings = sorted({f"tests/{Path(path).parts[1]}" for path in sys.argv[1:]})
    options = ["-q", "-s", "-o", "addopts=", "-p", "no:cacheprovider", "-W", "ignore"]
    pytest.main([*options, *wings], plugins=[SimpleNamespace(pytest_runtestloop=trial)])
