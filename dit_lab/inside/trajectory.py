"""A sampling run that can be looked into afterwards: kilobytes of x_t a step, and one forward replayed on demand.

A guided run of DiT-XL/2 has gigabytes of attention maps. A `Trajectory` keeps none: it holds what the network was given
at every step, runs that one step again, and computes the rows that somebody asks for.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from einops import rearrange, reduce

from dit_lab.inside.geometry import token_under
from dit_lab.inside.trace import Seen, TraceError, modulation_of, place, watch
from dit_lab.inside.trajectory_file import check_parts, read_parts, write_parts
from dit_lab.models import BLOCKS, Config
from dit_lab.program import quoted

CONDITION_TOKENS = 2
LIMIT = 2**30


@dataclass(frozen=True, eq=False)
class Trajectory:
    """What a sampling run went through, on the CPU in fp32: `x` (x_t), `x0`, `eps`: s b c h w; `sample`: b c h w.

    `t` are the s timesteps, noisiest first (in flow matching not whole); `options` those of `sample`, its `seed` None
    where the noise was injected. Replays run one sample alone in the model's own dtype; a batch may round differently,
    by about 1e-7 in fp32. They take any model of the same config: with other weights they show what those weights would
    have done with the same x_t. Raises TraceError when the parts do not fit each other.
    """

    config: Config
    labels: list[int]
    options: dict
    t: list[int | float]
    x: torch.Tensor
    x0: torch.Tensor
    eps: torch.Tensor
    sample: torch.Tensor

    def __post_init__(self):
        try:
            check_parts(self)
        except (TypeError, ValueError) as error:
            raise TraceError(f"this is not a whole trajectory: {error}") from error

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the first block's tokens, the finest grid."""
        return self.grid_of(0)

    def grid_of(self, block: int) -> tuple[int, int]:
        """(rows, columns) of a block's tokens."""
        return self.config.grid_of(block, tuple(self.x.shape[-2:]))

    def tokens_of(self, block: int) -> int:
        """Tokens in a block: n, and n + k where the condition joins the sequence, after the image tokens."""
        image, cond = (torch.empty(1, n, 1, device="meta") for n in (math.prod(self.grid_of(block)), CONDITION_TOKENS))
        return BLOCKS[self.config.block].enter(image, cond).shape[1]

    def blocks_of(self, stage: str | None) -> range:
        """The numbers of a stage's blocks; None where the model has only one. Raises TraceError, naming the stages."""
        stages = self.config.stage_blocks
        if stage is None and len(stages) == 1:
            return next(iter(stages.values()))
        if stage not in stages:
            raise TraceError(f"stage must be one of {', '.join(stages)}, whose grids differ, not {quoted(stage)}")
        return stages[stage]

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
        if size > limit:
            raise TraceError(
                f"this attention map takes {amount(size)}, more than the limit of {amount(limit)}; "
                f"ask for the rows of some queries, for one head, or with a higher limit"
            )
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

    @torch.no_grad()
    def replay(self, model, step, sample, half, **what) -> Seen:
        """Look into one step's forward of a sample, or a list of them, run again; `what` are options of `watch`."""
        samples = list(sample) if isinstance(sample, Sequence) else [sample]
        labels = [self.label(model, number, half) for number in samples]
        step = place("step", step, len(self.t))
        weight = next(model.parameters())
        x = self.x[step, samples].to(weight.device, weight.dtype)
        t, y = (torch.tensor(each, device=weight.device) for each in ([self.t[step]] * len(samples), labels))
        with watch(model, **what) as seen:
            model(x, t, y)
        return seen

    def label(self, model, sample: int, half: str) -> int:
        """The label that a half of a sample's pass is given. Raises TraceError on another model, sample or half."""
        if model.config != self.config:
            ours, theirs = self.config.as_json(), model.config.as_json()
            unlike = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
            raise TraceError(f"this trajectory was recorded with another model; they differ in {', '.join(unlike)}")
        if half not in ("cond", "uncond"):
            raise TraceError(f'half must be "cond" or "uncond", not {quoted(half)}')
        if half == "uncond" and not self.config.num_classes:
            raise TraceError("a model without classes has no unconditional half")
        if half == "uncond" and not self.config.null_label:
            raise TraceError("this model has no null label, so no unconditional half: it was trained without")
        label = self.labels[place("sample", sample, len(self.labels))]
        return label if half == "cond" else self.config.num_classes

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, atomically. Raises TraceError when it cannot be written."""
        write_parts(path, {field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: str | Path) -> "Trajectory":
        """Read what `save` wrote; nothing in it is executed. Raises TraceError, in a sentence, on any other file."""
        parts = read_parts(path)
        try:
            return cls(**parts)
        except TraceError as error:
            raise TraceError(f"{path} is damaged: {error}") from error


def rows_of(seen: Seen, blocks: range, query: int, kind: str) -> torch.Tensor:
    """One query's rows in blocks on one grid: `-> block head j`."""
    rows = [seen.attention(block, kind=kind, queries=[query]) for block in blocks]
    return rearrange(rows, "block 1 head 1 j -> block head j").cpu()


def numbers(what: str, asked) -> list | None:
    """A list, array or tensor of numbers as a list; None stays. Raises TraceError on anything else."""
    plain = asked.tolist() if hasattr(asked, "tolist") else asked
    if plain is not None and not isinstance(plain, Sequence | range):
        raise TraceError(f"{what} must be a list of numbers, not {quoted(asked)}")
    return plain


def amount(count: float) -> str:
    """Bytes for a reader: `105906176 -> 101 MiB`."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"
