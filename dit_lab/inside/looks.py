"""Looks that keep nothing: hooks hand what passes by to a function, and only what it makes of that is held.

`watch` keeps queries, keys and features of a forward until it ends; over a whole run, or with large maps, that is too
much. Hooks stand only while the model runs: whoever has control between two steps, or after an exception, has none.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import NamedTuple

import torch
from einops import rearrange, reduce
from torch import nn
from tqdm.auto import tqdm

from dit_lab.inside.run import CONDITION_TOKENS, Run, at_least_fp32, bytes_of, check_bytes, numbers
from dit_lab.inside.trace import CUTS, Edges, TraceError, attends, cut_edges, hook, numbered, place
from dit_lab.models.grid_layers import Layout
from dit_lab.program import quoted

AT_ONCE = 2**23  # bytes of one map's rows: from here on the CPU waits for memory
COPIES = 4  # of those rows at once: scores, weights, and what is made of them


class Attending(NamedTuple):
    """What a block attends with, `q: b head i e, k: b head j e`, and the edges that edits cut of it.

    Attention on grids (U-DiT) has a `layout`, and b counts grids.
    """

    q: torch.Tensor
    k: torch.Tensor
    layout: Layout | None = None
    cuts: tuple[Edges, ...] = ()

    def head(self, number: int) -> "Attending":
        """One head alone."""
        q, k = (x[:, number : number + 1] for x in self[:2])
        cuts = [edges._replace(heads=None) for edges in self.cuts if edges.heads is None or number in edges.heads]
        return Attending(q, k, self.layout, tuple(cuts))

    def scores(self, rows: int, queries: int | None = None) -> Iterator[tuple[int, torch.Tensor]]:
        """What the softmax is taken of, some of the first `queries` at a time: where they start, and `b head i j`."""
        q = at_least_fp32(self.q[:, :, :queries]) / math.sqrt(self.q.shape[-1])
        k = rearrange(at_least_fp32(self.k), "b head j e -> b head e j")
        for start in range(0, q.shape[2], rows):
            scores = q[:, :, start : start + rows] @ k
            yield start, scores.masked_fill(self.cut(start, scores), -math.inf) if self.cuts else scores

    def cut(self, start: int, scores) -> torch.Tensor:
        """Which edges of the scores `b head i j` are cut: True there."""
        places = zip(*numbered(self.layout, self.q.shape[2], self.k.shape[2]), strict=True)
        heads, stop = scores.shape[1], start + scores.shape[2]
        cut = [cut_edges(self.cuts, heads, tokens[start:stop], covered) for tokens, covered in places]
        return torch.stack(cut).to(scores.device)

    def weights(self, rows: int, queries: int | None = None) -> Iterator[torch.Tensor]:
        """The weights of attention some queries at a time, `b head i j`; as `Seen.attention` has them."""
        return (scores.softmax(-1) for _, scores in self.scores(rows, queries))


class Spot(NamedTuple):
    """A module to look at and what is made of its inputs (`before` it runs) or of its output."""

    module: nn.Module
    before: bool
    read: Callable


def passing(run: Run, model, spots: Sequence[Spot], steps, samples: list[int], half="cond") -> Iterator[list]:
    """Run some steps' forwards again, one at a time, and give what was made at each spot, in their order.

    Raises TraceError, before anything runs, on another model, and on a sample or half that is not there.
    """
    for sample in samples:
        run.label(model, sample, half)
    for step in tqdm(steps, leave=False, disable=None if len(steps) > 1 else True):
        inputs = run.inputs(model, step, samples, half)
        with hooked(spots) as made, torch.no_grad():
            model(*inputs)
        if len(made) < len(spots):
            raise TraceError("nothing was seen: look with the model itself, uncompiled")
        yield [made[number] for number in range(len(spots))]


@contextmanager
def hooked(spots: Sequence[Spot]) -> Iterator[dict]:
    """Hooks on all spots; what each made, by its number. They are gone on exit, exceptions included."""
    made = {}

    def note(number, module, *passed):
        made[number] = spots[number].read(passed[-1])

    with ExitStack() as hooks:
        for number, spot in enumerate(spots):
            hooks.enter_context(hook(spot.module, partial(note, number), before=spot.before))
        yield made


def attention_spot(model, block: int, kind: str, read: Callable) -> Spot:
    """Where a block attends: `read(attending)`. Raises TraceError on a kind of attention that it does not have."""
    there = attends(model.blocks[block])
    if kind not in list(there):
        raise TraceError(f"kind must be one of {', '.join(there)}, which this model's blocks have, not {quoted(kind)}")
    attend, holder = there[kind], model.blocks[block].get_submodule(kind)
    of_now = lambda inputs: Attending(*inputs[:2], getattr(holder, "layout", None), CUTS.get(attend, ()))
    return Spot(attend, True, lambda inputs: read(of_now(inputs)))


def feature_spot(run: Run, model, block: int, read: Callable) -> Spot:
    """After a block: `read(x)` with its image tokens, `x: b n d` in fp32 at least."""
    rows, columns = run.grid_of(block)
    return Spot(model.blocks[block], False, lambda x: read(at_least_fp32(x[:, : rows * columns])))


def asked_steps(run: Run, steps) -> list[int]:
    """The step numbers that are asked for, all where `steps` is None. Raises TraceError on none, or one not there."""
    count, asked = len(run.t), numbers("steps", steps)
    if asked is None:
        return list(range(count))
    if not len(asked):
        raise TraceError(f"steps must name at least one of the steps 0 to {count - 1}")
    return [place("step", step, count) for step in asked]


def layout_of(run: Run, model, block: int) -> Layout:
    """How a block's queries and keys lie on its grid; factors of 1 where the model does not downsample."""
    of_grids = getattr(model.blocks[block].attn, "layout", None)
    return Layout(*run.grid_of(block), *(of_grids[2:] if of_grids else (1, 1)))


def map_shape(run: Run, model, block: int, kind: str = "attn") -> tuple[int, int, int]:
    """Of a block's maps as they are computed: how many grids, and how many queries and keys each has."""
    if kind == "cross":
        return 1, run.tokens_of(block), CONDITION_TOKENS
    layout, tokens = layout_of(run, model, block), run.tokens_of(block)
    return layout.queries**2, tokens // layout.queries**2, tokens // layout.keys**2


def rows_at_once(run: Run, model, block: int, limit: int, kind: str = "attn") -> int:
    """How many queries' rows of a block, all heads, are computed at once. Raises TraceError where one is too large."""
    grids, queries, keys = map_shape(run, model, block, kind)
    row = bytes_of(model) * grids * run.config.heads * keys
    check_bytes("one query's row of the attention in all heads would take", COPIES * row, limit)
    return max(1, min(queries, limit // (COPIES * row), AT_ONCE // row))


def on_grids(x: torch.Tensor, layout: Layout, coarse: int) -> torch.Tensor:
    """Tokens of the picture on its interleaved grids, each `coarse` times coarser: `n d -> g m d`."""
    if coarse == 1:
        return rearrange(x, "n d -> 1 n d")  # tokens beyond the picture, the condition's, stay at the end
    return rearrange(x, "(h p w q) d -> (p q) (h w) d", h=layout.rows // coarse, p=coarse, q=coarse)


def on_picture(x: torch.Tensor, layout: Layout, coarse: int) -> torch.Tensor:
    """The inverse of `on_grids`: `g m d -> n d`."""
    if coarse == 1:
        return rearrange(x, "1 n d -> n d")
    return rearrange(x, "(p q) (h w) d -> (h p w q) d", h=layout.rows // coarse, p=coarse, q=coarse)


def of_keys(x: torch.Tensor, layout: Layout) -> torch.Tensor:
    """What the keys of each grid stand for: `n d -> g j d`, the mean over the tokens that a key covers."""
    x = on_grids(x, layout, layout.keys)
    return x if layout.keys == layout.queries else reduce(x, "g j d -> 1 j d", "mean")
