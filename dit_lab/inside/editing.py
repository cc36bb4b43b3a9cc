"""The scope that edits live in: they are checked against the model, then hooks hang beside it until the scope ends.

`forward` knows nothing of them. What there is to edit is in `edits`; this is what all edits share.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps

import torch
from torch import nn

from dit_lab.diffusion.checks import finite
from dit_lab.diffusion.whole import whole
from dit_lab.inside.run import Run, numbers
from dit_lab.inside.trace import LOOKS, TraceError, attends, branches, hook, place
from dit_lab.program import quoted

REPLAYING: ContextVar[bool] = ContextVar("REPLAYING", default=False)


@dataclass
class Walk:
    """A run that is walked again, and the number of the step that is being taken."""

    run: Run
    step: int = 0


class Edit:
    """One change of a model; a subclass is a frozen dataclass that says what it needs and where its hooks hang."""

    def check(self, model: nn.Module, run: Run | None = None) -> None:
        """Raise TraceError where the model has no place for it, or, where it is known, the `run` that is edited."""
        raise NotImplementedError

    def hang(self, scope: "Scope") -> None:
        """Hang the hooks."""
        raise NotImplementedError

    def tidy(self, *lists: str) -> None:
        """Make lists of numbers tuples without doubles and the factor a float, so that equal edits compare equal.

        A list whose default is None may be left out. Raises TraceError on what no model could have.
        """
        for name in lists:
            optional = self.__dataclass_fields__[name].default is None
            if not optional or getattr(self, name) is not None:
                object.__setattr__(self, name, chosen(name, getattr(self, name)))
        if "factor" in self.__dataclass_fields__:
            if not finite(self.factor):
                raise TraceError(f"factor must be a finite number, not {quoted(self.factor)}")
            object.__setattr__(self, "factor", float(self.factor))


class Scope:
    """Where hooks hang while a scope lasts; `walk` is the run that is walked again, None where nobody knows of one."""

    def __init__(self, model: nn.Module, hooks: ExitStack, walk: Walk | None = None):
        self.model, self.hooks, self.walk = model, hooks, walk
        self.shared = {}

    def hang(self, module: nn.Module, call: Callable, *, before: bool = False) -> None:
        """Call `call(module, inputs, output)` after a module, or `before` it `call(module, inputs)`.

        What it returns takes their place. Of several edits the later one comes later, and all come before what only
        looks, also where that hung first.
        """
        self.hooks.enter_context(hook(module, unless_replaying(call), before=before))
        hung = module._forward_pre_hooks if before else module._forward_hooks
        for key in [key for key, other in hung.items() if getattr(other, "func", None) in LOOKS]:
            hung.move_to_end(key)

    def hang_on_inputs(self, hook: Callable) -> None:
        """Call `hook(x, t, y)` before each forward of the model; what it returns, unless None, takes the place of y."""

        def given(module, inputs, named):
            x, t, y = map((dict(zip("xty", inputs, strict=False)) | named).get, "xty")
            changed = hook(x, t, y)
            return None if changed is None else ((x, t, changed), {})

        self.hooks.enter_context(self.model.register_forward_pre_hook(unless_replaying(given), with_kwargs=True))


def unless_replaying(hook: Callable) -> Callable:
    """The same hook, silent while a recorded run is replayed as it was."""
    return wraps(hook)(lambda *inputs: None if REPLAYING.get() else hook(*inputs))


@contextmanager
def replaying() -> Iterator[None]:
    """No edit of any scope has an effect inside."""
    token = REPLAYING.set(True)
    try:
        yield
    finally:
        REPLAYING.reset(token)


@contextmanager
def edited(model: nn.Module, *edits: Edit) -> Iterator[nn.Module]:
    """Edit what the model does inside the `with` block: `with edited(model, Scale(3, "mlp", 0)): model(x, t, y)`.

    Edits of one place follow each other as given. Scopes nest; the inner one's edits come later. All edits are checked
    before the first hangs, the numbers of tokens at each forward, which alone knows how many there are. After the
    scope, exceptions included, the model is what it was. Raises TraceError, naming what there is, on an edit that the
    model has no place for, and on a compiled model.
    """
    check_edits(model, edits)
    with hung(model, edits):
        yield model


@contextmanager
def hung(model: nn.Module, edits, walk: Walk | None = None) -> Iterator[None]:
    """The scope behind `edited`, its edits checked."""
    with ExitStack() as hooks:
        scope = Scope(model, hooks, walk)
        for edit in edits:
            edit.hang(scope)
        yield


def check_edits(model: nn.Module, edits, run: Run | None = None) -> None:
    """Raise TraceError on a model that cannot be edited as it is, and on an edit that it has no place for.

    Where it is known, also on a `run` of another model, and on an edit that this run has no place for.
    """
    if hasattr(model, "_orig_mod"):
        raise TraceError("a compiled model does not see edits: edit and run the model itself, model._orig_mod")
    if not isinstance(model, nn.Module) or not hasattr(model, "config") or not hasattr(model, "blocks"):
        raise TraceError(f"what can be edited is a DiT or U-DiT itself, unwrapped, not a {type(model).__name__}")
    if any(module._compiled_call_impl is not None for module in model.modules()):
        raise TraceError("a compiled model does not see edits: edit and run a plain copy of it, copy.deepcopy(model)")
    if run is not None:
        run.check_model(model)
    for edit in edits:
        if not isinstance(edit, Edit):
            kinds = ", ".join(kind.__name__ for kind in Edit.__subclasses__())
            raise TraceError(f"an edit is one of {kinds}, given one by one, not {quoted(edit)}")
        edit.check(model, run)


def chosen(what: str, asked) -> tuple[int, ...]:
    """Numbers in rising order, each once. Raises TraceError on an empty list, and on anything that is none."""
    plain = numbers(what, () if asked is None else asked)
    if not plain:
        raise TraceError(f"{what} must be a list of at least one number, not {quoted(asked)}")
    for number in plain:
        if not whole(number) or number < 0:
            raise TraceError(f"{what} must be whole numbers from 0 on, not {quoted(number)}")
    return tuple(sorted({int(number) for number in plain}))


def block_of(model: nn.Module, number: int) -> nn.Module:
    """The block of that number. Raises TraceError when there is none."""
    return model.blocks[place("block", number, len(model.blocks))]


def branch_of(model: nn.Module, number: int, name: str, heads=None) -> nn.Module:
    """A branch of a block, which has the `heads`. Raises TraceError, naming what there is, where it is not so."""
    there = branches(block_of(model, number))
    if name not in tuple(there):
        raise TraceError(f"block {number} has the branches {', '.join(there)}, not {quoted(name)}")
    if heads is not None and name not in attends(model.blocks[number]):
        raise TraceError(f"the {name} of a block has no heads: leave heads out")
    for head in heads or ():
        place("head", head, there[name].heads)
    return there[name]


def attention_of(model: nn.Module, number: int, kind: str, heads=None) -> nn.Module:
    """A block's attention, "attn" or "cross", which has the `heads`. Raises TraceError, as `branch_of`."""
    there = list(attends(block_of(model, number)))
    if kind not in there:
        raise TraceError(f"block {number} has attention of kind {' and '.join(there)}, not {quoted(kind)}")
    return branch_of(model, number, kind, heads)


def marked(numbers, count: int, device=None) -> torch.Tensor:
    """`-> count`, True at the numbers; None is all of them."""
    marks = torch.full((count,), numbers is None)
    marks[list(numbers or ())] = True
    return marks.to(device)
