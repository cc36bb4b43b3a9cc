"""Looking into one forward: queries and keys, modulation vectors and features, without changing what runs.

Hooks read what passes by; the fused attention kernel stays, and maps are recomputed from q and k in fp32 on demand, so
watched and unwatched outputs are the same bit for bit. For a whole sampling run see `trajectory`, for edits `edits`.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from einops import rearrange
from torch import nn

from dit_lab.diffusion.whole import whole
from dit_lab.inside.geometry import interleaved
from dit_lab.models.grid_layers import Layout
from dit_lab.models.layers import Attend, Modulation, attention_map
from dit_lab.program import quoted

BRANCHES = "attn", "cross", "mlp"


class TraceError(ValueError):
    """There is nothing to see, or not what was asked for; the message says what to do."""


class Edges(NamedTuple):
    """Attention edges from some queries to some keys, numbered as in `Seen.attention`; `heads` None are all."""

    heads: tuple[int, ...] | None
    queries: tuple[int, ...]
    keys: tuple[int, ...]


# The edges that edits cut at present, by the module that attends: q and k alone do not tell of them.
CUTS: WeakKeyDictionary[Attend, tuple[Edges, ...]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Seen:
    """What one forward showed; of several, the last.

    `q_k[block, kind]` is `(q: b head i e, k: b head j e)`, `modulation[part][block]` is `b d` and `features[block]` is
    the block's output, `b n d`. `kind` is the child of the block that attends: `attn`, and `cross` where the image
    attends to the condition. Attention on grids (U-DiT) has a layout too; its b counts samples and grids. In-context
    models have n + k tokens throughout: image tokens first, the condition last. `cuts` are edges that an edit cut.
    """

    q_k: dict[tuple[int, str], tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    layouts: dict[tuple[int, str], Layout] = field(default_factory=dict)
    modulation: dict[str, dict[int, torch.Tensor]] = field(default_factory=dict)
    features: dict[int, torch.Tensor] = field(default_factory=dict)
    cuts: dict[tuple[int, str], tuple[Edges, ...]] = field(default_factory=dict)

    def attention(self, block: int, *, kind: str = "attn", queries: Sequence[int] | None = None) -> torch.Tensor:
        """A block's map in fp32, `-> b head i j`, or only the rows of some `queries`, the others never computed.

        Tokens are numbered on the picture, row by row, also where they attend on interleaved grids: weights between
        grids are 0, and so are those of edges that were cut. Raises TraceError when that block and kind were not
        watched, or the query does not exist.
        """
        if (block, kind) not in self.q_k:
            there = ", ".join(f"{kind} of block {number}" for number, kind in self.q_k) or "none"
            raise TraceError(f"there is no {kind} of block {block} among the attention seen: {there}")
        q, k = self.q_k[block, kind]
        layout, cuts = self.layouts.get((block, kind)), self.cuts.get((block, kind), ())
        tokens = layout.rows * layout.columns if layout else q.shape[2]
        for query in () if queries is None else queries:
            place("query", query, tokens)
        if layout:
            return map_on_picture(q, k, layout, queries, cuts)
        if cuts:
            _, (of_keys,) = numbered(None, tokens, k.shape[2])
            asked = torch.arange(tokens) if queries is None else torch.as_tensor(list(queries))
            return map_without(q[:, :, asked], k, cut_edges(cuts, q.shape[1], asked, of_keys))
        return attention_map(q if queries is None else q[:, :, list(queries)], k)


def map_on_picture(q, k, layout: Layout, queries: Sequence[int] | None = None, cuts=()) -> torch.Tensor:
    """The map of attention on grids, tokens numbered on the whole one: `q, k: (b g) head m e -> b head i j` in fp32.

    A key that covers several tokens (key-value downsampling) shares its weight evenly among them.
    """
    count = layout.rows * layout.columns
    of_queries, of_keys = numbered(layout, count, count)
    asked = torch.arange(count) if queries is None else torch.as_tensor(list(queries))
    q, k = (rearrange(x, "(b g) head m e -> g b head m e", g=len(of_queries)) for x in (q, k))
    weights = q.new_zeros(*q.shape[1:3], len(asked), count, dtype=torch.float32)
    for grid, (tokens, covered) in enumerate(zip(of_queries, of_keys, strict=True)):
        mine, places = (asked[:, None] == tokens).nonzero(as_tuple=True)
        part = map_without(q[grid][:, :, places], k[grid], cut_edges(cuts, q.shape[2], asked[mine], covered))
        for each in covered.T:
            weights[:, :, mine[:, None], each] = part / covered.shape[1]
    return weights


def numbered(layout: Layout | None, i: int, j: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens that queries and keys stand for on the picture, grid by grid: `-> g m, g m covered`.

    Without a layout it is one grid of i queries, and of j keys that cover a token each.
    """
    if layout is None:
        return rearrange(torch.arange(i), "m -> 1 m"), rearrange(torch.arange(j), "m -> 1 m 1")
    rows, columns, coarse, keys = layout
    of_queries = interleaved(rows, columns, coarse)
    # Where both are equally coarse a key is one token of the query's own grid; else it covers all of a square.
    if keys == coarse:
        return of_queries, rearrange(of_queries, "g m -> g m 1")
    return of_queries, rearrange(interleaved(rows, columns, keys), "p m -> 1 m p")


def cut_edges(cuts: Sequence[Edges], heads: int, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor | None:
    """Which edges are cut, from `queries: i` to `keys: j covered`: `-> head i j`, True where cut; None without cuts."""
    if not cuts:
        return None
    cut = torch.zeros(heads, len(queries), len(keys), dtype=torch.bool)
    for edges in cuts:
        head = torch.isin(torch.arange(heads), torch.tensor(range(heads) if edges.heads is None else edges.heads))
        i = torch.isin(queries, torch.tensor(edges.queries))
        j = torch.isin(keys, torch.tensor(edges.keys)).all(dim=-1)
        cut |= rearrange(head, "head -> head 1 1") & rearrange(i, "i -> i 1") & j
    return cut


def map_without(q, k, cut: torch.Tensor | None) -> torch.Tensor:
    """`attention_map` with edges cut and the rest renormalised: `cut: head i j`, True where cut, or None."""
    if cut is None:
        return attention_map(q, k)
    logits = (q.float() / math.sqrt(q.shape[-1])) @ rearrange(k.float(), "b head j e -> b head e j")
    return logits.masked_fill(cut.to(q.device), -math.inf).softmax(dim=-1)


@contextmanager
def watch(model: nn.Module, attention="all", modulation: bool = True, features: bool = True) -> Iterator[Seen]:
    """Look into the forwards of `model` inside the `with` block: `with watch(model) as seen: model(x, t, y)`.

    `attention` is a list of block numbers, "all" or None. The hooks are gone on exit, exceptions included. Raises
    TraceError on a block that does not exist, on a network without any, and on exit when nothing was seen.
    """
    if not hasattr(model, "blocks"):
        raise TraceError("a network of one's own has no blocks that can be looked into: give a DiT or a subclass")
    seen, chosen = Seen(), chosen_blocks(attention, len(model.blocks))
    with ExitStack() as hooks:
        for number, block in enumerate(model.blocks):
            for kind, attend in attends(block).items() if number in chosen else ():
                holder = block.get_submodule(kind)
                hooks.enter_context(attend.register_forward_pre_hook(partial(note_q_k, seen, (number, kind), holder)))
            if modulation and (modulator := modulation_of(block)):
                hooks.enter_context(modulator.register_forward_hook(partial(note_modulation, seen, number)))
            if features:
                hooks.enter_context(block.register_forward_hook(partial(note_features, seen, number)))
        yield seen
    if not (seen.q_k or seen.modulation or seen.features):
        raise TraceError(
            "nothing was seen: run the model itself, uncompiled, inside the block, and ask for something that it has"
        )


def note_q_k(seen: Seen, key, holder, module, inputs) -> None:
    """The pre-hook on `Attend`; `holder` is the attention that it is a part of."""
    q, k, _ = inputs
    seen.q_k[key] = (q.detach(), k.detach())
    if layout := getattr(holder, "layout", None):
        seen.layouts[key] = layout
    seen.cuts[key] = CUTS.get(module, ())


def note_modulation(seen: Seen, number: int, module, inputs, vectors) -> None:
    """The hook on a block's `Modulation`."""
    for part, vector in zip(module.parts, vectors, strict=True):
        seen.modulation.setdefault(part, {})[number] = rearrange(vector.detach(), "b 1 d -> b d")


def note_features(seen: Seen, number: int, module, inputs, output) -> None:
    """The hook on a block."""
    seen.features[number] = output.detach()


LOOKS = note_q_k, note_modulation, note_features  # the hooks that only look


def hook(module: nn.Module, call, *, before: bool = False):
    """Call `call(module, inputs, output)` after a module, or `before` it `call(module, inputs)`; `-> handle`."""
    return (module.register_forward_pre_hook if before else module.register_forward_hook)(call)


def attends(block: nn.Module) -> dict[str, Attend]:
    """A block's attentions by the child that holds them: `attn`, and `cross` where there is one."""
    return {name.split(".")[0]: module for name, module in block.named_modules() if isinstance(module, Attend)}


def modulation_of(block: nn.Module) -> Modulation | None:
    """The module that regresses a block's shifts, scales and gates; None where the condition enters another way."""
    return next((module for module in block.modules() if isinstance(module, Modulation)), None)


def branches(block: nn.Module) -> dict[str, nn.Module]:
    """What a block adds to its input, by name, in the order in which it does: `attn`, `cross` where it has it, `mlp`.

    The contract of a block: its output is its input plus each branch, times the gate `gate_NAME` where its modulation
    has such a part.
    """
    return {name: getattr(block, name) for name in BRANCHES if isinstance(getattr(block, name, None), nn.Module)}


def chosen_blocks(attention, depth: int) -> list[int]:
    """The block numbers that `watch` is asked for. Raises TraceError on one that does not exist."""
    if attention is None or attention == "all":
        return list(range(depth)) if attention else []
    if isinstance(attention, str) or not isinstance(attention, Sequence):
        raise TraceError(f'attention must be a list of block numbers, "all" or None, not {quoted(attention)}')
    return [place("block", number, depth) for number in attention]


def place(what: str, number: int, count: int) -> int:
    """`number` itself. Raises TraceError unless it is a whole number below `count`."""
    if not whole(number) or not 0 <= number < count:
        raise TraceError(f"{what} must be a whole number from 0 to {count - 1}, not {quoted(number)}")
    return number
