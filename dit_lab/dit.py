"""DiT, a transformer that denoises images or latents (arXiv 2212.09748, section 3.2, figure 3)."""

from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from torch import nn

from dit_lab.blocks.base import Block
from dit_lab.layers import MLP, Attention, LabelEmbedding, Linear, TimestepEmbedding, check_heads, position_table, zeros


@dataclass(frozen=True)
class DiTConfig:
    """Everything that fixes a DiT's tensors, and what its output means. Raises ValueError on an impossible one.

    `input_size` is a side or (rows, columns), in latent or image pixels; `num_classes=0` is an unconditional model.
    """

    input_size: int | tuple[int, int] = 32
    patch_size: int = 2
    in_channels: int = 4
    dim: int = 1152
    depth: int = 28
    heads: int = 16
    mlp_ratio: float = 4.0
    num_classes: int = 1000
    learned_variance: bool = True
    block: str = "adaln_zero"
    # The network never reads these two; samplers do, so that a checkpoint carries what its output stands for.
    prediction: str = "eps"
    schedule: str = "linear"

    def __post_init__(self):
        size = self.input_size
        size = tuple(size) if isinstance(size, list) else size
        # A square has one name, so that equal configs compare equal.
        square = isinstance(size, tuple) and len(size) == 2 and size[0] == size[1]
        object.__setattr__(self, "input_size", size[0] if square else size)
        for field, least in dict(patch_size=1, in_channels=1, dim=4, depth=1, heads=1, num_classes=0).items():
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{field} must be a whole number of at least {least}, not {value!r}")
        sides = self.size if isinstance(self.size, tuple) else ()
        if len(sides) != 2 or not all(isinstance(s, int) and s > 0 and s % self.patch_size == 0 for s in sides):
            raise ValueError(f"input_size {size} must be one or two positive multiples of patch_size {self.patch_size}")
        if not isinstance(self.learned_variance, bool):
            raise ValueError(f"learned_variance must be true or false, not {self.learned_variance!r}")
        if self.dim % 4:
            raise ValueError(f"dim must be a multiple of 4 (2-D sine and cosine positions), not {self.dim}")
        if not isinstance(self.mlp_ratio, int | float) or not 1 <= self.dim * self.mlp_ratio < float("inf"):
            raise ValueError(f"mlp_ratio must be a number that leaves the MLP some width, not {self.mlp_ratio!r}")
        check_heads(self.dim, self.heads)

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the input."""
        return (self.input_size, self.input_size) if isinstance(self.input_size, int) else self.input_size

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the patch grid; their product is n, the number of image tokens."""
        return self.size[0] // self.patch_size, self.size[1] // self.patch_size

    @property
    def out_channels(self) -> int:
        """Channels of the output: twice the input's with a learned variance."""
        return self.in_channels * (2 if self.learned_variance else 1)


class DiT(nn.Module):
    """`x: b c h w, t: b, y: b -> b (2c) h w` (prediction, variance value), or `b c h w` without learned variance.

    `y` holds labels below `num_classes`, or `num_classes` itself, the null label; without `y` all are null. Inputs of
    another size than the trained one get a freshly computed position table. Raises ValueError when `x` does not fit.
    """

    def __init__(self, config: DiTConfig, block: type[Block]):
        super().__init__()
        dim, patch = config.dim, config.patch_size
        self.config = config
        self.patch_embedding = Linear(config.in_channels * patch**2, dim)
        self.register_buffer("positions", position_table(dim, *config.grid))
        self.time_embedding = TimestepEmbedding(dim)
        self.label_embedding = LabelEmbedding(config.num_classes, dim)
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
        if y is None:
            y = repeat(torch.tensor(self.config.num_classes, device=t.device), "-> b", b=t.shape[0])
        return torch.stack([self.time_embedding(t), self.label_embedding(y)], dim=1)

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
        if x.ndim != 4 or x.shape[1] != channels or x.shape[2] % patch or x.shape[3] % patch:
            raise ValueError(
                f"this DiT takes b {channels} h w with h, w multiples of its patch size {patch}, not {tuple(x.shape)}"
            )
        return x.shape[2] // patch, x.shape[3] // patch
