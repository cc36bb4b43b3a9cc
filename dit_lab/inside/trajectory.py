"""A sampling run that can be looked into afterwards: kilobytes of x_t a step, and one forward replayed on demand.

A guided run of DiT-XL/2 has gigabytes of attention maps. A `Trajectory` keeps none: it holds what the network was given
at every step, runs that one step again, and computes the rows that somebody asks for.
"""

import math
from dataclasses import dataclass, replace

import torch
from einops import rearrange, reduce

from dit_lab.inside.contributions import Contributions, contribution_norms, contributions
from dit_lab.inside.edits import Edit
from dit_lab.inside.geometry import token_under
from dit_lab.inside.lens import lens
from dit_lab.inside.parts import Part
from dit_lab.inside.rerun import rerun
from dit_lab.inside.run import CONDITION_TOKENS, LIMIT, Run, check_bytes, numbers
from dit_lab.inside.trace import Seen, TraceError, modulation_of, place
from dit_lab.models import BLOCKS


@dataclass(frozen=True, eq=False)
class Trajectory(Run):
    """A recorded run, and what people ask of it; further questions are functions of a trajectory beside this file."""

    def contributions(self, model, step, *, sample=0, half="cond", limit=LIMIT) -> Contributions:
        """What every part of the network gave to a step's prediction, adding up to it: see `contributions`."""
        return contributions(self, model, step, sample=sample, half=half, limit=limit)

    def contribution_norms(self, model, *, sample=0, half="cond") -> tuple[list[Part], torch.Tensor]:
        """How large each part is at every step, `-> part step`: see `contributions.contribution_norms`."""
        return contribution_norms(self, model, sample=sample, half=half)

    def lens(self, model, step, *, sample=0, half=None) -> torch.Tensor:
        """The x0 that the model would predict if it stopped after each block, `-> block c h w`: see `lens`."""
        return lens(self, model, step, sample=sample, half=half)

    def edited(self, model, *edits: Edit, steps=None) -> "Trajectory":
        """The same run, from the same noise with the same labels, while edits are active on a range of `steps`.

        None is all steps. Without edits it is the run itself, bit for bit. Raises TraceError as `rerun` does.
        """
        return replace(self, **rerun(self, model, *edits, steps=steps))

    def attention(
        self, model, step, *, sample=0, block=0, head=None, half="cond", queries=None, kind="attn", limit=LIMIT
    ) -> torch.Tensor:
        """The map of one block at one step in fp32, `-> head i j`; one `head` keeps the axis, all is None.

        `queries` (a list of token numbers) asks for those rows only. `half` is "cond", or "uncond" for the pass with
        the null label. `kind` "cross" is the map of a cross-attention block over the time and label token, `head i k`.
        Raises TraceError when the map would take more than `limit` bytes.
        """
        heads = range(self.config.heads) if head is None else [place("head", head, self.config.heads)]
        queries = numbers("queries", queries)
        size = self.attention_bytes(queries=queries, blocks=[block], heads=heads, kind=kind)
        instead = "ask for the rows of some queries, for one head, or with a higher limit"
        check_bytes("this attention map takes", size, limit, instead)
        seen = self.replay(model, step, sample, half, attention=[block], modulation=False, features=False)
        return seen.attention(block, kind=kind, queries=queries)[0, heads].cpu()

    def attention_rows(self, model, step, query, *, stage=None, sample=0, half="cond", kind="attn") -> torch.Tensor:
        """Where one token attends to in every block and head, from one replay: `-> block head j` in fp32.

        Of a model with several stages, in the blocks of one; `query` is then a token of its grid.
        """
        blocks = self.blocks_of(stage)
        query = place("query", query, self.tokens_of(blocks[0]))
        seen = self.replay(model, step, sample, half, attention=blocks, modulation=False, features=False)
        return rows_of(seen, blocks, query, kind)

    def patch_rows(self, model, step, patch, *, sample=0, half="cond", kind="attn") -> dict[str, torch.Tensor]:
        """Where a patch of the finest grid attends to, stage by stage, from one replay: name `-> block head j`.

        On a coarser grid it is the token that covers the patch; j counts that grid's tokens.
        """
        place("patch", patch, math.prod(self.grid))
        seen = self.replay(model, step, sample, half, modulation=False, features=False)
        rows, finest = {}, self.config.stages[0].patch
        for stage, (name, blocks) in zip(self.config.stages, self.config.stage_blocks.items(), strict=True):
            query = token_under(patch, self.grid, finest, self.grid_of(blocks[0]), stage.patch)
            rows[name] = rows_of(seen, blocks, query, kind)
        return rows

    def attention_bytes(self, *, queries=None, blocks=None, heads=None, kind="attn") -> int:
        """Bytes of the fp32 maps of one step, before anything runs; each argument a list of numbers, or None for all.

        While it is computed, a map takes about twice that.
        """
        for what, asked, count in ("block", blocks, self.config.depth), ("head", heads, self.config.heads):
            for number in numbers(what, asked) or ():
                place(what, number, count)
        total, queries = 0, numbers("query", queries)
        for block in range(self.config.depth) if blocks is None else blocks:
            tokens = self.tokens_of(block)
            for number in queries or ():
                place("query", number, tokens)
            asked = tokens if queries is None else len(queries)
            total += asked * (CONDITION_TOKENS if kind == "cross" else tokens)
        return 4 * total * (self.config.heads if heads is None else len(heads))

    @torch.no_grad()
    def modulation(self, model, step=None, *, stage=None, sample=0, half="cond") -> dict[str, torch.Tensor]:
        """The shifts, scales and gates by part name, `-> block d` at one step, `-> step block d` over all of them.

        They depend on the timestep and the label alone, so nothing is replayed and all steps are cheap. Of a model with
        several stages, those of one. Raises TraceError for a block without modulation.
        """
        blocks = self.blocks_of(stage)
        t = self.t if step is None else [self.t[place("step", step, len(self.t))]]
        y = self.label(model, sample, half)
        modulators = [modulation_of(model.blocks[block]) for block in blocks]
        if None in modulators:
            raise TraceError(f"{BLOCKS[self.config.block].title} blocks have no modulation; adaLN and adaLN-Zero have")
        t = torch.tensor(t, device=next(model.parameters()).device)
        conds = model.block_conditions(t, torch.full_like(t, y, dtype=torch.long))[blocks.start : blocks.stop]
        vectors = [torch.stack(modulator(cond)) for modulator, cond in zip(modulators, conds, strict=True)]
        vectors = rearrange(torch.stack(vectors).float().cpu(), "block part step 1 d -> part step block d")
        return dict(zip(modulators[0].parts, vectors if step is None else vectors[:, 0], strict=True))

    def modulation_norms(self, model, *, sample=0, half="cond") -> dict[str, torch.Tensor]:
        """The root mean square over d of every shift, scale and gate, by part name, all stages: `-> block step`."""
        norms = {}
        for stage in self.config.stage_blocks:
            for part, vectors in self.modulation(model, stage=stage, sample=sample, half=half).items():
                norms.setdefault(part, []).append(reduce(vectors**2, "step block d -> block step", "mean").sqrt())
        return {part: torch.cat(of_stages) for part, of_stages in norms.items()}

    def features(self, model, step, *, stage=None, sample=0, half="cond") -> torch.Tensor:
        """The image tokens after each block at one step, `-> block n d` in fp32; of several stages, in one."""
        blocks = self.blocks_of(stage)
        seen = self.replay(model, step, sample, half, attention=None, modulation=False)
        features = torch.cat([seen.features[block] for block in blocks])
        return features[:, : math.prod(self.grid_of(blocks[0]))].float().cpu()


def rows_of(seen: Seen, blocks: range, query: int, kind: str) -> torch.Tensor:
    """One query's rows in blocks on one grid: `-> block head j`."""
    rows = [seen.attention(block, kind=kind, queries=[query]) for block in blocks]
    return rearrange(rows, "block 1 head 1 j -> block head j").cpu()
