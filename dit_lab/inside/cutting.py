"""Attention edges cut and the rest renormalised, the fused kernel's other rows left as they are.

Attention knockout, Geva et al. 2023 (arXiv 2304.14767), on pictures: tokens are numbered as they lie there.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange

from dit_lab.inside.editing import Edit, Scope, attention_of, marked
from dit_lab.inside.run import CONDITION_TOKENS
from dit_lab.inside.trace import CUTS, Edges, TraceError, cut_edges, numbered, place
from dit_lab.models.layers import Attend


@dataclass(frozen=True)
class Cut(Edit):
    """No attention from some tokens, `queries`, to others, `keys`, in a block or some heads of it; the rest sums to 1.

    Tokens are numbered as in `Seen.attention`, row by row on the picture, condition tokens of an in-context model n and
    n + 1. Only these rows are computed anew. `kind` "cross" cuts attention to the condition, key 0 time and 1 label.
    Where a key covers several tokens (key-value downsampling) all of them must be named. Raises TraceError, at the
    latest in the forward, when a query has no such edge or would be left without a key.
    """

    block: int
    queries: Sequence[int]
    keys: Sequence[int]
    heads: Sequence[int] | None = None
    kind: str = "attn"

    def __post_init__(self):
        self.tidy("queries", "keys", "heads")

    @property
    def edges(self) -> Edges:
        """What `Seen` is told of it."""
        return Edges(self.heads, self.queries, self.keys)

    def check(self, model, run=None):
        attention = attention_of(model, self.block, self.kind, self.heads)
        if run is not None:  # else nobody knows yet how many tokens there will be
            grid, tokens = run.grid_of(self.block), run.tokens_of(self.block)
            layout = getattr(attention, "layout", None)  # that of another forward, or none
            layout = layout and layout._replace(rows=grid[0], columns=grid[1])
            keys = CONDITION_TOKENS if self.kind == "cross" else tokens
            self.rows((self.edges,), attention.heads, *numbered(layout, tokens, keys))

    def hang(self, scope: Scope):
        attention = attention_of(scope.model, self.block, self.kind)
        scope.hooks.enter_context(noted(attention.attend, self.edges))
        scope.hang(attention.attend, partial(self.anew, attention))

    def anew(self, holder, module, inputs, output):
        """The hook on `Attend`, `q, k, v, out: (b g) head m e -> (b g) head m e`; `holder` is what it is a part of."""
        of_queries, of_keys = numbered(getattr(holder, "layout", None), inputs[0].shape[2], inputs[1].shape[2])
        apart = lambda x: rearrange(x, "(b g) head m e -> g b head m e", g=len(of_queries))
        (q, k, v), out = map(apart, inputs), apart(output).clone()
        heads = marked(self.heads, holder.heads).nonzero().flatten()
        for grid, rows, cut in self.rows(CUTS[module], holder.heads, of_queries, of_keys):
            mine = q[grid][:, rearrange(heads, "head -> head 1"), rows]
            kept = ~cut[heads].to(q.device)
            out[grid][:, rearrange(heads, "head -> head 1"), rows] = F.scaled_dot_product_attention(
                mine, k[grid][:, heads], v[grid][:, heads], attn_mask=kept
            )
        return rearrange(out, "g b head m e -> (b g) head m e")

    def rows(self, cuts: Sequence[Edges], heads: int, of_queries, of_keys) -> list[tuple]:
        """What is to be computed anew, grid by grid: its number, `rows: i` in it and the edges cut, `head i j`.

        `cuts` are all that hang on the attention, `of_queries: g m, of_keys: g m covered` its tokens on the picture.
        """
        for what, asked, tokens in ("query", self.queries, of_queries), ("key", self.keys, of_keys):
            for number in asked:
                place(what, number, tokens.numel())
        named = torch.isin(of_keys, torch.tensor(self.keys))
        for tokens in of_keys[named.any(dim=-1) & ~named.all(dim=-1)].tolist():
            raise TraceError(
                f"keys of block {self.block} cover {len(tokens)} tokens each: name all of {', '.join(map(str, tokens))}"
            )
        found = []
        for grid, (tokens, covered) in enumerate(zip(of_queries, of_keys, strict=True)):
            rows = torch.isin(tokens, torch.tensor(self.queries)).nonzero().flatten()
            if len(rows) and named[grid].any():
                found.append((grid, rows, cut_edges(cuts, heads, tokens[rows], covered)))
        if not found:
            raise TraceError(
                f"there is nothing to cut in block {self.block}: none of these queries attends to one of these keys, "
                "which are on other interleaved grids"
            )
        if any(cut.all(dim=-1).any() for _, _, cut in found):
            raise TraceError(f"a cut in block {self.block} leaves a query no key to attend to: leave it at least one")
        return found


@contextmanager
def noted(attend: Attend, edges: Edges) -> Iterator[None]:
    """Note edges as cut where a look will find them, beside those of other cuts."""
    CUTS[attend] = (*CUTS.get(attend, ()), edges)
    try:
        yield
    finally:
        left = list(CUTS[attend])
        left.remove(edges)
        CUTS[attend] = tuple(left)
        if not left:
            del CUTS[attend]
