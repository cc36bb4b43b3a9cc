"""The end of a model as one linear map, and how every part of its residual stream goes through it."""

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, reduce, repeat

from dit_lab.inside.onward import LinearOnward, Onward, batches, widest
from dit_lab.inside.trace import branches
from dit_lab.models import DiT, UDiT
from dit_lab.models.layers import ModulatedNorm


class Ending:
    """The last norm and the last linear as one linear map, the norm's mean and deviation held as one forward had them.

    A token's features go by `rows: f d` (the norm's centring and scale and the linear in one) to the f numbers that it
    gives to the prediction, and are divided by `deviation: n 1`; `last` are what the norm's shift and the linear's
    bias come to: `part n f`.
    """

    def __init__(self, model: DiT | UDiT, noted: dict, size: tuple[int, int]):
        self.model, self.noted, self.size = model, noted, size
        self.dtype = torch.promote_types(model.out.weight.dtype, torch.float32)
        weight, bias = self.linear(model.out.weight.to(self.dtype), model.out.bias.to(self.dtype))
        norm, (x, self.cond) = model.final_norm, noted["last"]
        if isinstance(norm, ModulatedNorm):
            shift, scale = (self.vector(noted["modulation"][name]) for name in ("shift", "scale"))
            scale, statistics = 1 + scale, norm.norm
        else:
            shift, scale, statistics = self.vector(norm.bias), self.vector(norm.weight), norm
        rows = weight * scale
        self.rows = rows - reduce(rows, "f d -> f 1", "mean")
        x = rearrange(x.to(self.dtype), "1 n d -> n d")
        self.deviation = (x.var(dim=1, correction=0, keepdim=True) + statistics.eps).sqrt()
        self.last = repeat([weight @ shift, bias], "part f -> part n f", n=len(x))

    def vector(self, x):
        """A shift, scale, gate or bias in the precision that is computed in: `1 1 d -> d`, or `d -> d`."""
        return rearrange(x, "... d -> (... d)").to(self.dtype)

    def linear(self, weight, bias):
        """The last linear, for the prediction's channels alone: `-> f d, f`."""
        raise NotImplementedError

    def lay_out(self, x):
        """The picture of what tokens give: `x: part n f -> part c h w`."""
        raise NotImplementedError

    def gate(self, number: int, name: str):
        """The gate of a block's branch: `-> 1 1 d`, or 1 where it has none."""
        return self.noted.get((number, "gates"), {}).get(f"gate_{name}", 1.0)


class TokenEnding(Ending):
    """DiT's: f is (p q c), a token's patch."""

    def linear(self, weight, bias):
        config = self.model.config
        split = dict(pq=config.patch_size**2, c=config.out_channels)
        weight = rearrange(weight, "(pq c) d -> pq c d", **split)[:, : config.in_channels]
        bias = rearrange(bias, "(pq c) -> pq c", **split)[:, : config.in_channels]
        return rearrange(weight, "pq c d -> (pq c) d"), rearrange(bias, "pq c -> (pq c)")

    def lay_out(self, x):
        return self.model.unpatchify(x, self.size[0] // self.model.config.patch_size)

    def parts(self):
        """All of the axis: `-> part c h w`."""
        grid = [side // self.model.config.patch_size for side in self.size]
        positions = rearrange(self.model.positions_of(*grid).to(self.dtype), "n d -> 1 n d")
        first = torch.cat([self.noted["embedded"].to(self.dtype), positions]) @ self.rows.T
        # All blocks at once: in a small model most of the time would go into the calls.
        added = [each for name in branches(self.model.blocks[0]) for each in self.branch(name)]
        added = rearrange(torch.cat(added, dim=1), "block part n f -> (block part) n f")
        x_t = torch.zeros_like(self.last[:1])
        return self.lay_out(torch.cat([torch.cat([first, added]) / self.deviation, self.last, x_t]))

    def branch(self, name: str):
        """The parts of all blocks' branches of a name, not yet divided: `-> [block part n f, ...]`."""
        layers = [getattr(block, name) for block in self.model.blocks]
        rows = rearrange(self.rows, "f d -> 1 f d")
        rows = torch.cat([rows * self.gate(number, name) for number in range(len(layers))])
        x = self.exit([self.noted[number, name] for number in range(len(layers))])
        if name == "mlp":
            return [rearrange(x @ rearrange(rows, "block f d -> block d f"), "block n f -> block 1 n f")]
        weights = [layer.out.weight.to(self.dtype) for layer in layers]
        biases = rearrange([layer.out.bias.to(self.dtype) for layer in layers], "block d -> block d 1")
        biases = repeat(rows @ biases, "block f 1 -> block 1 n f", n=x.shape[1])
        return [heads_through(x, weights, rows, layers[0].heads), biases]

    def exit(self, x):
        """The image tokens of all blocks, side by side: `x: [1 m d, ...] -> block n d`."""
        x = rearrange(x, "block 1 m d -> block m d")
        return self.model.blocks[-1].exit(x, repeat(self.cond, "1 k d -> block k d", block=len(x))).to(self.dtype)


def heads_through(x, weights, rows, heads: int):
    """What heads give by their output projection and on: `x: block n (head e) -> block head n f`.

    `weights: d (head e)` and `rows: f d` are a block's. Whichever of both products is smaller is made first.
    """
    (_, n, d), f = x.shape, len(rows[0])
    x = rearrange(x, "block n (head e) -> block head n e", head=heads)
    both = zip(rows, weights, strict=True)
    if f * d + n * f <= n * d + heads * n * f:
        return x @ rearrange([of @ weight for of, weight in both], "block f (head e) -> block head e f", head=heads)
    split = lambda weight: rearrange(weight, "d (head e) -> head e d", head=heads)
    return torch.stack([some @ split(weight) @ of.T for some, (of, weight) in zip(x, both, strict=True)])


class ConvEnding(Ending):
    """U-DiT's: f is (c p q), what a token gives to the pixels around it; the neck before the norm is taken in."""

    def linear(self, weight, bias):
        channels = self.model.config.in_channels
        # The kernel as what a token spreads, not as what a pixel gathers; a bias is what each gives to its own pixel.
        weight = rearrange(weight[:channels].flip(-2, -1), "c d p q -> (c p q) d")
        bias = F.pad(rearrange(bias[:channels], "c -> c 1 1"), [self.model.out.padding[0]] * 4)
        return weight, rearrange(bias, "c p q -> (c p q)")

    def lay_out(self, x):
        out = self.model.out
        return F.fold(rearrange(x, "part n f -> part f n"), self.size, out.kernel_size, padding=out.padding)

    def parts(self):
        """All of the axis: `-> part c h w`."""
        self.onward = LinearOnward(self.model, self.dtype, self.rows)
        parts = [self.through(0, self.noted["embedded"].to(self.dtype))]
        for stage, blocks in enumerate(self.model.config.stage_blocks.values()):
            rows = self.model.config.grid_of(blocks[0], self.size)[0]
            for number in blocks:
                added = rearrange(self.added(number), "part (h w) d -> part d h w", h=rows)
                parts.append(self.through(stage, added))
        return torch.cat([*parts, self.between(), self.lay_out(self.last), torch.zeros_like(parts[0])])

    def added(self, number: int):
        """What a block added to the stream, in parts: `-> part n d`."""
        parts = []
        for name, branch in branches(self.model.blocks[number]).items():
            gate = self.gate(number, name)
            if name == "mlp":
                parts.append(gate * self.noted[number, name].to(self.dtype))
                continue
            x = rearrange(self.noted[number, name].to(self.dtype), "1 n (head e) -> head n e", head=branch.heads)
            weight = rearrange(branch.out.weight.to(self.dtype), "d (head e) -> head e d", head=branch.heads)
            bias = repeat(branch.out.bias.to(self.dtype), "d -> 1 n d", n=x.shape[1])
            parts += [gate * (x @ weight), gate * bias]
        return torch.cat(parts)

    def through(self, stage: int, x):
        """What parts of a stage's output come to: `x: part d h w -> part c h w`."""
        skips, wide = [None] * min(stage, len(self.onward.down)), widest(self.model, self.size)
        return torch.cat([self.read(self.onward(stage, some, skips)) for some in batches(x, wide)])

    def read(self, x):
        """From the rows of what the norm is given to the prediction: `x: part f h w -> part c h w`."""
        return self.lay_out(rearrange(x, "part f h w -> part (h w) f") / self.deviation)

    def between(self):
        """What the biases of merges and neck come to: `-> 1 c h w`."""
        bottom, config = len(self.onward.down), self.model.config
        grid = config.grid_of(config.stage_blocks["middle"][0], self.size)
        nothing = self.deviation.new_zeros(1, config.stages[bottom].dim, *grid)
        x = Onward(self.model, self.dtype)(bottom, nothing, [None] * bottom)
        return self.read(einsum(self.rows, x, "f d, part d h w -> part f h w"))
