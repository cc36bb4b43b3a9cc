"""Looking into one forward: queries and keys, modulation vectors and features, without changing what runs.

Hooks read what passes by; the fused attention kernel stays, and maps are recomputed from q and k in fp32 on demand, so
watched and unwatched outputs are the same bit for bit. For a whole sampling run see `trajectory`.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from einops import rearrange
from torch import nn

from dit_lab.diffusion.process import whole
from dit_lab.inside.geometry import interleaved
from dit_lab.models.grid_layers import Layout
from dit_lab.models.layers import Attend, Modulation, attention_map
from dit_lab.program import quoted


class TraceError(ValueError):
    """There is nothing to see, or not what was asked for; the message says what to do."""


@dataclass(frozen=True)
class Seen:
    """What one forward showed; of several, the last.

    `q_k[block, kind]` is `(q: b head i e, k: b head j e)`, `modulation[part][block]` is `b d` and `features[block]` is
    the block's output, `b n d`. `kind` is the child of the block that attends: `attn`, and `cross` where the image
    attends to the condition. Attention on grids (U-DiT) has a layout too; its b counts samples and grids. In-context
    models have n + k tokens throughout: image tokens first, the condition last.
    """

    q_k: dict[tuple[int, str], tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    layouts: dict[tuple[int, str], Layout] = field(default_factory=dict)
    modulation: dict[str, dict[int, torch.Tensor]] = field(default_factory=dict)
    features: dict[int, torch.Tensor] = field(default_factory=dict)

    def attention(self, block: int, *, kind: str = "attn", queries: Sequence[int] | None = None) -> torch.Tensor:
        """A block's map in fp32, `-> b head i j`, or only the rows of some `queries`, the others never computed.

        Tokens are numbered on the picture, row by row, also where they attend on interleaved grids: weights between
        grids are 0. Raises TraceError when that block and kind were not watched, or the query does not exist.
        """
        if (block, kind) not in self.q_k:
            there = ", ".join(f"{kind} of block {number}" for number, kind in self.q_k) or "none"
            raise TraceError(f"there is no {kind} of block {block} among the attention seen: {there}")
        q, k = self.q_k[block, kind]
        layout = self.layouts.get((block, kind))
        tokens = layout.rows * layout.columns if layout else q.shape[2]
        for query in () if queries is None else queries:
            place("query", query, tokens)
        if layout:
            return map_on_picture(q, k, layout, queries)
        return attention_map(q if queries is None else q[:, :, list(queries)], k)


def map_on_picture(q, k, layout: Layout, queries: Sequence[int] | None = None) -> torch.Tensor:
    """The map of attention on grids, tokens numbered on the whole one: `q, k: (b g) head m e -> b head i j` in fp32.

    A key that covers several tokens (key-value downsampling) shares its weight evenly among them.
    """
    rows, columns, coarse, keys = layout
    of_queries = interleaved(rows, columns, coarse)
    # Where both are equally coarse a key is one token of the query's own grid; else it covers all of a square.
    of_keys = of_queries[:, :, None] if keys == coarse else rearrange(interleaved(rows, columns, keys), "p m -> 1 m p")
    asked = torch.arange(rows * columns) if queries is None else torch.as_tensor(list(queries))
    q, k = (rearrange(x, "(b g) head m e -> g b head m e", g=len(of_queries)) for x in (q, k))
    weights = q.new_zeros(*q.shape[1:3], len(asked), rows * columns, dtype=torch.float32)
    for grid, (tokens, covered) in enumerate(zip(of_queries, of_keys, strict=True)):
        mine, places = (asked[:, None] == tokens).nonzero(as_tuple=True)
        part = attention_map(q[grid][:, :, places], k[grid]) / covered.shape[1]
        for each in covered.T:
            weights[:, :, mine[:, None], each] = part
    return weights


@contextmanager
def watch(model: nn.Module, attention="all", modulation: bool = True, features: bool = True) -> Iterator[Seen]:
    """Look into the forwards of `model` inside the `with` block: `with watch(model) as seen: model(x, t, y)`.

    `attention` is a list of block numbers, "all" or None. The hooks are gone on exit, exceptions included. Raises
    TraceError on a block that does not exist, and on exit when nothing was seen.
    """
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


def note_modulation(seen: Seen, number: int, module, inputs, vectors) -> None:
    """The hook on a block's `Modulation`."""
    for part, vector in zip(module.parts, vectors, strict=True):
        seen.modulation.setdefault(part, {})[number] = rearrange(vector.detach(), "b 1 d -> b d")


def note_features(seen: Seen, number: int, module, inputs, output) -> None:
    """The hook on a block."""
    seen.features[number] = output.detach()


def attends(block: nn.Module) -> dict[str, Attend]:
    """A block's attentions by the child that holds them: `attn`, and `cross` where there is one."""
    return {name.split(".")[0]: module for name, module in block.named_modules() if isinstance(module, Attend)}


def modulation_of(block: nn.Module) -> Modulation | None:
    """The module that regresses a block's shifts, scales and gates; None where the condition enters another way."""
    return next((module for module in block.modules() if isinstance(module, Modulation)), None)


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
