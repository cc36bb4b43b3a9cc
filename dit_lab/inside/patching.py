"""What another recorded run had in a place, put in here: activation patching.

Causal tracing, Meng et al. 2022 (arXiv 2202.05262), along the steps of a diffusion: before each forward the source's
step of the same t is replayed as it was, unedited and in the same batch, so that a run patched from itself keeps every
bit.
"""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from einops import repeat
from torch import nn

from dit_lab.inside.editing import Edit, Scope, block_of, branch_of, marked, replaying
from dit_lab.inside.run import Run
from dit_lab.inside.trace import TraceError, branches, hook, place
from dit_lab.program import quoted


@dataclass(frozen=True)
class Patch(Edit):
    """What a `source`, a recorded run, had in a block: its output ("block"), or a branch's before its gate.

    `tokens` (numbered as in `Seen.attention`) and, of an attention, `heads` (what the output projection is given of
    them) leave all others as they are. The source has as many samples as there are rows, or one for all of them. In a
    run that is walked again its samples' rows get the source's conditional half; elsewhere all rows that are not null.
    Each forward costs another one a source, and holds as much as is patched. Raises TraceError where the source is of
    another model or size, or has no step at a forward's t.
    """

    source: Run
    block: int
    what: str
    tokens: Sequence[int] | None = None
    heads: Sequence[int] | None = None

    def __post_init__(self):
        self.tidy("tokens", "heads")

    def check(self, model, run=None):
        if not isinstance(self.source, Run):
            raise TraceError(f"a patch takes a recorded run, record(model, labels), not {quoted(self.source)}")
        self.source.check_model(model)
        there = ("block", *branches(block_of(model, self.block)))
        if self.what not in there:
            raise TraceError(f"what can be patched is {', '.join(there)}, not {quoted(self.what)}")
        if self.what == "block" and self.heads is not None:
            raise TraceError("the output of a block has no heads: patch its attn, or leave heads out")
        if self.what != "block":
            branch_of(model, self.block, self.what, self.heads)
        for token in self.tokens or ():
            place("token", token, self.source.tokens_of(self.block))
        if run is not None:
            check_fit(self.source, tuple(run.x.shape[-2:]), len(run.labels), [len(run.labels)])

    def hang(self, scope: Scope):
        if self.source not in scope.shared:
            scope.shared[self.source] = Source(self.source, scope)
        source = scope.shared[self.source]
        source.patches.append(self)
        module, before = self.place(scope.model)
        if before:
            scope.hang(module, lambda module, inputs: self.put(inputs[0], source), before=True)
        else:
            scope.hang(module, lambda module, inputs, output: self.put(output, source))

    def place(self, model) -> tuple[nn.Module, bool]:
        """The module beside which it is put in, and whether that is before the module."""
        if self.what == "block":
            return block_of(model, self.block), False
        branch = branch_of(model, self.block, self.what)
        return (branch, False) if self.heads is None else (branch.out, True)

    def part(self, x: torch.Tensor) -> tuple:
        """The index of what is patched, in `x: b n d`, or `b n (head e)` where it is of some heads."""
        heads = self.source.config.heads
        features = repeat(marked(self.heads, heads), "head -> (head e)", e=x.shape[-1] // heads)
        return slice(None), marked(self.tokens, x.shape[1]).nonzero(), features.nonzero().flatten()

    def put(self, x: torch.Tensor, source: "Source") -> torch.Tensor:
        """`x: b n d` with the source's part in it."""
        if self not in source.values:
            raise TraceError("a patch is put into a forward of the whole model: run the model itself inside the scope")
        x = x.clone()
        x[self.part(x)] = source.values[self]
        return x


class Source:
    """A recorded run that is replayed before each forward, once for all patches of a scope that are taken from it."""

    def __init__(self, run: Run, scope: Scope):
        self.run, self.walk, self.model = run, scope.walk, scope.model
        self.patches, self.values = [], {}
        scope.hang_on_inputs(self.replay)
        scope.hang(scope.model, lambda module, inputs, output: self.values.clear())

    @torch.no_grad()
    def replay(self, x, t, y) -> None:
        """Keep what is patched of the source's forward beside this one."""
        inputs = self.inputs(x, t, y)
        with replaying(), ExitStack() as hooks:
            for patch in self.patches:
                module, before = patch.place(self.model)
                hooks.enter_context(hook(module, partial(self.keep, patch), before=before))
            self.model(*inputs)

    def keep(self, patch: Patch, module, inputs, output=None) -> None:
        """The hook beside a patched module in the replay."""
        x = inputs[0] if output is None else output
        self.values[patch] = x[patch.part(x)]

    def inputs(self, x, t, y) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What the source's network was given, in the batch of this forward: `x: b c h w; t, y: b`, the same shapes."""
        run, rows, samples = self.run, len(x), len(self.run.labels)
        walked = self.walk and len(self.walk.run.labels)
        check_fit(run, tuple(x.shape[-2:]), rows, [walked] if walked else [rows, rows / 2])
        null = run.config.num_classes
        if walked:
            nulls = [row >= walked for row in range(rows)]
        else:
            nulls = [True] * rows if y is None else (y == null).tolist()
        labels = [null if is_null else run.labels[row % samples] for row, is_null in enumerate(nulls)]
        given = self.x_at(t)[[row % samples for row in range(rows)]]
        return given.to(x), t, torch.tensor(labels, device=x.device)

    def x_at(self, t) -> torch.Tensor:
        """What the source's network was given at the one t of a forward, `-> b c h w`: x_t as it was kept.

        In Heun's second call of a step, at the next step's t, it is the x that Euler's step leads to.
        """
        run, (now, *others) = self.run, set(t.tolist())
        if others:
            raise TraceError("all rows of a forward that is patched must have the same t")
        same = lambda a, b: math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-6)  # flows round t to fp32
        step = next((step for step, its in enumerate(run.t) if same(its, now)), None)
        if step is None:
            raise TraceError(f"the source of a patch has no step at t = {now:g}; it has {quoted(run.t)}")
        ahead = self.walk and not same(self.walk.run.t[self.walk.step], now)
        if not (ahead and run.sampler == "heun"):
            return run.x[step]
        a, s = run.levels(step)
        return a * run.x0[step - 1] + s * run.eps[step - 1]


def check_fit(source: Run, size: tuple[int, int], rows: int, fitting: list) -> None:
    """Raise TraceError unless a source is of a picture's size and has one sample, or one of the fitting numbers."""
    its = tuple(source.x.shape[-2:])
    if its != size:
        raise TraceError(f"the source of a patch is {its[0]} x {its[1]}, what is patched {size[0]} x {size[1]}")
    if len(source.labels) != 1 and len(source.labels) not in fitting:
        raise TraceError(
            f"the source of a patch has {len(source.labels)} samples and what is patched {rows}: record it with as "
            "many, or with one for all"
        )
