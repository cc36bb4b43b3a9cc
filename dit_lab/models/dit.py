"""DiT, a transformer that denoises images or latents (arXiv 2212.09748, section 3.2, figure 3)."""

from dataclasses import dataclass

from einops import rearrange
from torch import nn

from dit_lab.models.blocks.base import Block
from dit_lab.models.config import MOST, Config, StageShape
from dit_lab.models.layers import (
    MLP,
    Attention,
    LabelEmbedding,
    Linear,
    TimestepEmbedding,
    check_heads,
    condition_tokens,
    position_table,
    zeros,
)


@dataclass(frozen=True)
class DiTConfig(Config):
    """Everything that fixes a DiT's tensors, and what its output means. Raises ValueError on an impossible one."""

    architecture = "DiT"

    dim: int = 1152
    heads: int = 16
    patch_size: int = 2
    depth: int = 28

    def __post_init__(self):
        super().__post_init__()
        self.check_whole(patch_size=1, depth=1)
        if any(side % self.patch_size for side in self.size):
            raise ValueError(
                f"input_size {self.input_size} must be one or two positive multiples of patch_size {self.patch_size}"
            )
        self.check_tokens()
        if self.grid[0] * self.grid[1] * self.dim > MOST["table"]:
            told = f"{self.grid[0]} x {self.grid[1]} tokens of dim {self.dim} make a position table"
            raise ValueError(f"{told} of more than {MOST['table']} numbers")
        if self.dim % 4:
            raise ValueError(f"dim must be a multiple of 4 (2-D sine and cosine positions), not {self.dim}")
        check_heads(self.dim, self.heads)

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the patch grid; their product is n, the number of image tokens."""
        return self.size[0] // self.patch_size, self.size[1] // self.patch_size

    @property
    def stages(self) -> tuple[StageShape, ...]:
        """One: all blocks are on the patch grid."""
        return (StageShape("block", tuple(map(str, range(self.depth))), self.patch_size, self.dim),)


class DiT(nn.Module):
    """`x: b c h w, t: b, y: b -> b (2c) h w` (prediction, variance value), or `b c h w` without learned variance.

    `y` holds labels below `num_classes`, or `num_classes` itself, the null label; without `y` all are null. Inputs of
    another size than the trained one get a freshly computed position table. Raises ValueError when `x` does not fit, or
    without `y` where the config has no null label.
    """

    def __init__(self, config: DiTConfig, block: type[Block]):
        super().__init__()
        dim, patch = config.dim, config.patch_size
        self.config = config
        self.patch_embedding = Linear(config.in_channels * patch**2, dim)
        self.register_buffer("positions", position_table(dim, *config.grid))
        self.time_embedding = TimestepEmbedding(dim)
        self.label_embedding = LabelEmbedding(config.num_classes, dim, config.null_label)
        self.blocks = nn.ModuleList(
            block(dim, config.heads, Attention(dim, config.heads), MLP(dim, config.mlp_ratio))
            for _ in range(config.depth)
        )
        self.final_norm = block.final_norm(dim)
        self.out = Linear(dim, config.out_channels * patch**2, init=zeros)

    def forward(self, x, t, y=None):
        rows, columns = self.token_grid(x)
        cond = self.condition(t, y)
        x = self.patchify(x) + self.positions_of(rows, columns)
        x = self.blocks[0].enter(x, cond)
        for block in self.blocks:
            x = block(x, cond)
        x = self.blocks[-1].exit(x, cond)
        return self.unpatchify(self.out(self.final_norm(x, cond)), rows)

    def condition(self, t, y=None):
        """The two condition tokens, time and label: `t: b, y: b -> b k d`, k = 2."""
        self.config.check_labels(y)
        return condition_tokens(self.time_embedding, self.label_embedding, t, y)

    def block_conditions(self, t, y=None):
        """The condition that each block is given, the same for all: `t: b, y: b -> b k d`."""
        return [self.condition(t, y)] * len(self.blocks)

    def patchify(self, x):
        """Cut into patches and embed each: `x: b c (h p) (w q) -> b (h w) d`."""
        p = self.config.patch_size
        return self.patch_embedding(rearrange(x, "b c (h p) (w q) -> b (h w) (c p q)", p=p, q=p))

    def unpatchify(self, x, rows: int):
        """Lay the patches out again: `x: b (h w) (p q c) -> b c (h p) (w q)`, h = `rows`."""
        p = self.config.patch_size
        return rearrange(x, "b (h w) (p q c) -> b c (h p) (w q)", h=rows, p=p, q=p)

    def positions_of(self, rows: int, columns: int):
        """The position table of a grid: `-> n d`; the stored one at the trained size, else computed."""
        if (rows, columns) == self.config.grid:
            return self.positions
        return position_table(self.config.dim, rows, columns).to(self.positions)

    def token_grid(self, x) -> tuple[int, int]:
        """(rows, columns) of the patches that `x: b c h w` is cut into. Raises ValueError when it cannot be."""
        channels, patch = self.config.in_channels, self.config.patch_size
        if x.ndim != 4 or x.shape[1] != channels or any(side % patch or not side for side in x.shape[2:]):
            told = f"this DiT takes b {channels} h w with h, w positive multiples of its patch size {patch}"
            raise ValueError(f"{told}, not {tuple(x.shape)}")
        return x.shape[2] // patch, x.shape[3] // patch
