"""What can be edited in a model: branches, heads, modulation, attention, the residual stream, the label.

Each edit is a value that says what and where: `with edited(model, Scale(3, "attn", 0, heads=[1])): ...` makes it so,
and `rerun` walks a recorded run again with it. A factor of 1 changes no bit. What an edit of this kind and size does
anyway, wherever it is, `controls` says.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange, repeat

from dit_lab.inside.cutting import Cut
from dit_lab.inside.editing import Edit, Scope, attention_of, block_of, branch_of, edited, marked
from dit_lab.inside.patching import Patch
from dit_lab.inside.trace import TraceError, modulation_of, place
from dit_lab.models import BLOCKS
from dit_lab.program import quoted

__all__ = ["Channels", "Cut", "Edit", "Label", "Modulate", "Patch", "Scale", "Temperature", "edited"]


@dataclass(frozen=True)
class Scale(Edit):
    """The output of a block's branch, "attn", "cross" or "mlp", times a factor; 0 switches it off.

    Its bias counts too. With `heads` (of "attn" or "cross") only what those add, without the bias: the model with those
    heads' columns of the output projection's weight multiplied.
    """

    block: int
    branch: str
    factor: float
    heads: Sequence[int] | None = None

    def __post_init__(self):
        self.tidy("heads")

    def check(self, model, run=None):
        branch_of(model, self.block, self.branch, self.heads)

    def hang(self, scope: Scope):
        branch = branch_of(scope.model, self.block, self.branch)
        if self.heads is None:
            return scope.hang(branch, lambda module, inputs, output: output * self.factor)

        def scaled(module, inputs):
            (x,) = inputs  # b n (head e)
            heads = marked(self.heads, branch.heads, x.device)
            return times(x, self.factor, repeat(heads, "head -> (head e)", e=x.shape[-1] // branch.heads))

        scope.hang(branch.out, scaled, before=True)


@dataclass(frozen=True)
class Modulate(Edit):
    """One shift, scale or gate of a block, by its name in the block's modulation, times a factor."""

    block: int
    part: str
    factor: float

    def __post_init__(self):
        self.tidy()

    def check(self, model, run=None):
        modulation = modulation_of(block_of(model, self.block))
        if modulation is None:
            having = " and ".join(block.title for block in BLOCKS.values() if block.modulated)
            raise TraceError(f"{BLOCKS[model.config.block].title} blocks have no modulation; {having} have")
        if self.part not in modulation.parts:
            raise TraceError(f"part must be one of {', '.join(modulation.parts)}, not {quoted(self.part)}")

    def hang(self, scope: Scope):
        def scaled(module, inputs, vectors):
            named = zip(module.parts, vectors, strict=True)
            return tuple(vector * self.factor if part == self.part else vector for part, vector in named)

        scope.hang(modulation_of(block_of(scope.model, self.block)), scaled)


@dataclass(frozen=True)
class Temperature(Edit):
    """The attention logits of a block, or of some heads, divided by a factor above 0: below 1 sharper, above 1 flatter.

    `kind` "cross" is the attention of a cross-attention block to time and label.
    """

    block: int
    factor: float
    heads: Sequence[int] | None = None
    kind: str = "attn"

    def __post_init__(self):
        self.tidy("heads")
        if self.factor <= 0:
            raise TraceError(f"the factor of a temperature must be above 0, not {quoted(self.factor)}")

    def check(self, model, run=None):
        attention_of(model, self.block, self.kind, self.heads)

    def hang(self, scope: Scope):
        attention = attention_of(scope.model, self.block, self.kind)

        def cooled(module, inputs):
            q, k, v = inputs  # q: b head i e, of grids (b g) head m e
            heads = marked(self.heads, attention.heads, q.device)
            return torch.where(rearrange(heads, "head -> head 1 1"), q / self.factor, q), k, v

        scope.hang(attention.attend, cooled, before=True)


@dataclass(frozen=True)
class Channels(Edit):
    """Some features of a block's output, the residual stream, times a factor."""

    block: int
    numbers: Sequence[int]
    factor: float

    def __post_init__(self):
        self.tidy("numbers")

    def check(self, model, run=None):
        block_of(model, self.block)
        for number in self.numbers:
            place("channel", number, model.config.stage_of(self.block).dim)

    def hang(self, scope: Scope):
        def scaled(module, inputs, x):
            return times(x, self.factor, marked(self.numbers, x.shape[-1], x.device))

        scope.hang(block_of(scope.model, self.block), scaled)


@dataclass(frozen=True)
class Label(Edit):
    """Another label for every conditional row while it is active; the null half of a guided pass stays null.

    In a run that is walked again the conditional rows are its samples; elsewhere all rows that are not null.
    """

    label: int

    def check(self, model, run=None):
        if not model.config.num_classes:
            raise TraceError("a model without classes has no label that could be another")
        place("label", self.label, model.config.labels)

    def hang(self, scope: Scope):
        null, walk = scope.model.config.num_classes, scope.walk

        def given(x, t, y):
            if y is None or walk is None and (y == null).all():
                raise TraceError("all rows of this forward have the null label, so there is none for Label to replace")
            conditional = y != null if walk is None else torch.arange(len(y), device=y.device) < len(walk.run.labels)
            return torch.where(conditional, self.label, y)

        scope.hang_on_inputs(given)


def times(x: torch.Tensor, factor: float, where: torch.Tensor) -> torch.Tensor:
    """`x: ... d` times the factor where a feature is marked, `where: d`; all others keep every bit."""
    return torch.where(where, x * factor, x)
