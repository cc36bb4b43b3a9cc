"""U-DiT, a U-shaped diffusion transformer that downsamples its tokens for attention (arXiv 2405.02730, figure 3)."""

from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import nn

from dit_lab.models.blocks.base import Block
from dit_lab.models.config import MOST, Config, StageShape, is_whole
from dit_lab.models.conv_mlp import ConvBranches, DepthwiseMLP, LinearPair, ReparameterisedMLP
from dit_lab.models.grid_layers import DOWNSAMPLE, FACTOR, Conv, Grid, GridAttention
from dit_lab.models.layers import MLP, LabelEmbedding, TimestepEmbedding, check_heads, condition_tokens, zeros
from dit_lab.models.unfilled import unfilled
from dit_lab.program import quoted

PAIRS = 2  # the paper's block is two (attention, MLP) pairs, each with a modulation of its own: two of our blocks
MLPS = {"plain": MLP, "depthwise": DepthwiseMLP, "reparameterised": ReparameterisedMLP}


@dataclass(frozen=True)
class UDiTConfig(Config):
    """Everything that fixes a U-DiT's tensors, and what its output means. Raises ValueError on an impossible one.

    `dim` is the width of the first level; each further level doubles it and halves the resolution. `depths` are the
    paper's blocks (of two pairs) a stage: encoder, middle, decoder, so their number is odd. `downsample` is "token",
    "kv" or "none"; `mlp` is "reparameterised", "depthwise" (what it folds to) or "plain".
    """

    architecture = "U-DiT"

    dim: int = 96
    heads: int = 4
    mlp_ratio: float = 2.0
    depths: tuple[int, ...] = (2, 5, 8, 5, 2)
    downsample: str = "token"
    cosine: bool = True
    rope: bool = True
    mlp: str = "reparameterised"

    def __post_init__(self):
        super().__post_init__()
        depths = tuple(self.depths) if isinstance(self.depths, list | tuple) else ()
        object.__setattr__(self, "depths", depths)
        if len(depths) < 3 or len(depths) % 2 == 0 or not all(is_whole(depth) and depth > 0 for depth in depths):
            told = "depths must be an odd number of stages, at least 3, of at least 1 block"
            raise ValueError(f"{told}, not {quoted(self.depths)}")
        if self.depth > MOST["depth"] or self.dim * 2 ** (self.levels - 1) > MOST["dim"]:
            told = f"depths must have at most {MOST['depth'] // PAIRS} blocks in all, and levels that double dim"
            raise ValueError(f"{told} to at most {MOST['dim']}, not {quoted(depths)}")
        for field, known in dict(downsample=DOWNSAMPLE, mlp=MLPS).items():
            if getattr(self, field) not in tuple(known):
                raise ValueError(f"{field} must be one of {', '.join(known)}, not {quoted(getattr(self, field))}")
        for field in ("cosine", "rope"):
            if not isinstance(getattr(self, field), bool):
                raise ValueError(f"{field} must be true or false, not {quoted(getattr(self, field))}")
        self.check_tokens()
        check_heads(self.dim, self.heads)
        if self.rope and self.dim // self.heads % 4:
            raise ValueError(f"2-D RoPE needs heads of a width that 4 divides, not {self.dim} / {self.heads}")
        if self.dim % 2:
            raise ValueError(f"dim must be even, not {self.dim}: between levels it is halved and doubled")
        self.check_size(*self.size)

    @property
    def levels(self) -> int:
        """How many resolutions there are."""
        return len(self.depths) // 2 + 1

    @property
    def depth(self) -> int:
        """How many blocks of ours, (attention, MLP) pairs, there are in all."""
        return PAIRS * sum(self.depths)

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the first level's tokens: every pixel is one."""
        return self.size

    @property
    def stages(self) -> tuple[StageShape, ...]:
        """Encoder, middle and decoder. The last decoder stays as wide as the one before it (2h, not h)."""
        last = self.levels - 1
        down = [(f"encoder {level + 1}", level, level) for level in range(last)]
        up = [(f"decoder {level + 1}", level, max(level, 1)) for level in reversed(range(last))]
        return tuple(
            StageShape(name, block_names(depth), FACTOR**level, self.dim * 2**wide)
            for (name, level, wide), depth in zip([*down, ("middle", last, last), *up], self.depths, strict=True)
        )

    def check_size(self, h: int, w: int) -> None:
        """Raise ValueError, naming sizes that work, on a picture that cannot be halved as often as it must be."""
        multiple = FACTOR ** (self.levels - (self.downsample == "none"))
        if not h * w or h % multiple or w % multiple:
            near = sorted({max(side // multiple + more, 1) * multiple for side in (h, w) for more in (0, 1)})
            raise ValueError(
                f"this U-DiT takes sides that are multiples of {multiple} ({self.levels} resolutions"
                f"{'' if self.downsample == 'none' else ', halved once more for attention'}), "
                f"such as {' or '.join(map(str, near))}, not {h} x {w}"
            )


def block_names(depth: int) -> tuple[str, ...]:
    """Names of a stage's blocks: the paper's block, counted from 1, and the pair in it, `1a 1b 2a 2b`."""
    return tuple(f"{number + 1}{pair}" for number in range(depth) for pair in "ab"[:PAIRS])


class Down(Conv):
    """Half the resolution at twice the width: `b d (h p) (w q) -> b (2 d) h w`, by pixel-unshuffle."""

    def __init__(self, dim: int):
        super().__init__(dim, dim // 2, bias=False)

    def forward(self, x):
        return rearrange(super().forward(x), "b d (h p) (w q) -> b (d p q) h w", p=FACTOR, q=FACTOR)


class Up(Conv):
    """Twice the resolution at half the width: `b (2 d) h w -> b d (h p) (w q)`, by pixel-shuffle."""

    def __init__(self, dim: int):
        super().__init__(dim, 2 * dim, bias=False)

    def forward(self, x):
        return rearrange(super().forward(x), "b (d p q) h w -> b d (h p) (w q)", p=FACTOR, q=FACTOR)


class Condition(nn.Module):
    """The two condition tokens of one width, time and label: `t: b, y: b -> b k d`, k = 2."""

    def __init__(self, dim: int, num_classes: int, null: bool):
        super().__init__()
        self.time_embedding = TimestepEmbedding(dim)
        self.label_embedding = LabelEmbedding(num_classes, dim, null)

    def forward(self, t, y=None):
        return condition_tokens(self.time_embedding, self.label_embedding, t, y)


class Stage(nn.Module):
    """Blocks on one grid: `x: b d h w, cond: b k d -> b d h w`."""

    def __init__(self, config: UDiTConfig, shape: StageShape, block: type[Block]):
        super().__init__()
        dim, self.grid = shape.dim, Grid()
        how = dict(downsample=config.downsample, cosine=config.cosine, rope=config.rope)
        self.blocks = nn.ModuleList(
            block(dim, config.heads, GridAttention(dim, config.heads, self.grid, **how), self.mlp(config, dim))
            for _ in shape.blocks
        )

    def mlp(self, config: UDiTConfig, dim: int) -> nn.Module:
        """The config's MLP; the convolutional ones know the grid."""
        kind = MLPS[config.mlp]
        return kind(dim, config.mlp_ratio) if kind is MLP else kind(dim, config.mlp_ratio, self.grid)

    def forward(self, x, cond):
        self.grid.enter(*x.shape[-2:])
        x = rearrange(x, "b d h w -> b (h w) d").contiguous()
        for block in self.blocks:
            x = block(x, cond)
        return self.grid.lay_out(x)


class UDiT(nn.Module):
    """`x: b c h w, t: b, y: b -> b (2c) h w` (prediction, variance value), or `b c h w` without learned variance.

    The contract of `DiT`. Any size works whose sides the levels can halve; nothing in it is tied to the trained one.
    Raises ValueError when `x` does not fit, and for blocks that put condition tokens among the image's.
    """

    def __init__(self, config: UDiTConfig, block: type[Block]):
        super().__init__()
        if block.enter is not Block.enter:
            raise ValueError(
                f"U-DiT has no {block.title} blocks: condition tokens in the sequence have no place on a grid that is "
                "split, halved and convolved; adaLN-Zero, adaLN and cross-attention work"
            )
        self.config = config
        shapes, last = config.stages, config.levels - 1
        self.stem = Conv(config.in_channels, config.dim)
        self.conditions = nn.ModuleList(
            Condition(config.dim * 2**level, config.num_classes, config.null_label) for level in range(config.levels)
        )
        self.encoder = nn.ModuleList(Stage(config, shape, block) for shape in shapes[:last])
        self.down = nn.ModuleList(Down(shape.dim) for shape in shapes[:last])
        self.middle = Stage(config, shapes[last], block)
        self.up = nn.ModuleList(Up(shape.dim) for shape in shapes[last:-1])
        self.merge = nn.ModuleList(
            Conv(below.dim // 2 + skip.dim, shape.dim, 1)
            for below, shape, skip in zip(shapes[last:-1], shapes[last + 1 :], reversed(shapes[:last]), strict=True)
        )
        self.decoder = nn.ModuleList(Stage(config, shape, block) for shape in shapes[last + 1 :])
        self.neck = Conv(shapes[-1].dim, shapes[-1].dim)
        self.final_norm = block.final_norm(shapes[-1].dim)
        self.out = Conv(shapes[-1].dim, config.out_channels, init=zeros)

    def forward(self, x, t, y=None):
        self.check_input(x)
        conds = self.stage_conditions(t, y)
        x, skips, bottom = self.stem(x), [], len(self.encoder)
        for stage, down, cond in zip(self.encoder, self.down, conds[:bottom], strict=True):
            skips.append(stage(x, cond))
            x = down(skips[-1])
        x = self.middle(x, conds[bottom])
        for stage, up, merge, cond in zip(self.decoder, self.up, self.merge, conds[bottom + 1 :], strict=True):
            x = stage(merge(torch.cat([up(x), skips.pop()], dim=1)), cond)
        x = self.neck(x)
        rows = x.shape[-2]
        x = self.final_norm(rearrange(x, "b d h w -> b (h w) d"), conds[-1])
        return self.out(rearrange(x, "b (h w) d -> b d h w", h=rows))

    @property
    def stages(self) -> list[Stage]:
        """The stages in the order in which they run, as in the config."""
        return [*self.encoder, self.middle, *self.decoder]

    @property
    def blocks(self) -> list[Block]:
        """All blocks in the order in which they run."""
        return [block for stage in self.stages for block in stage.blocks]

    def stage_conditions(self, t, y=None) -> list[torch.Tensor]:
        """The condition that each stage is given, `t: b, y: b -> b k d`, of the stage's width."""
        self.config.check_labels(y)
        conds = {condition.label_embedding.embedding_dim: condition(t, y) for condition in self.conditions}
        return [conds[shape.dim] for shape in self.config.stages]

    def block_conditions(self, t, y=None) -> list[torch.Tensor]:
        """The condition that each block is given, `t: b, y: b -> b k d`."""
        conds = self.stage_conditions(t, y)
        return [cond for cond, stage in zip(conds, self.stages, strict=True) for _ in stage.blocks]

    def check_input(self, x) -> None:
        """Raise ValueError unless `x: b c h w` has the model's channels and a size that works."""
        if x.ndim != 4 or x.shape[1] != self.config.in_channels:
            raise ValueError(f"this U-DiT takes b {self.config.in_channels} h w, not {tuple(x.shape)}")
        self.config.check_size(*x.shape[2:])


@torch.no_grad()
def fold(model: nn.Module) -> nn.Module:
    """A new model for inference that computes the same with the re-parameterised MLPs folded into single layers.

    `model` stays as it is, also in training; the new one is an ordinary `UDiT` with `mlp="depthwise"`, in eval mode.
    Folding a model that has nothing to fold, such as a DiT, copies it. The products are made in float64.
    """
    if getattr(model.config, "mlp", None) != "reparameterised":
        return deepcopy(model).eval()
    weight = model.stem.weight
    with unfilled():
        folded = UDiT(replace(model.config, mlp="depthwise"), type(model.blocks[0]))
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, module in model.named_modules():
        if isinstance(module, (LinearPair, ConvBranches)):
            merged = deepcopy(module).double().folded()
            for kind, tensor in zip(("weight", "bias"), merged, strict=True):
                tensors[f"{name}.{kind}"] = tensor.to(weight.dtype)
    ours = folded.state_dict()
    folded.load_state_dict({name: tensors[name] for name in ours}, assign=True)
    return folded.eval()
