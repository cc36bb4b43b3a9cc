"""Attention whose tokens know their neighbours: on interleaved grids, by cosine, with 2-D RoPE (U-DiT, section 3).

Blocks hand over a sequence, `b n d`. A stage notes in its `Grid` how the sequence lies on the picture, and what is
made with that grid lays it out. Tokens are stored with the channels last, so laying them out moves no memory.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from torch import nn

from dit_lab.models.layers import Attend, Linear, check_heads, xavier

FACTOR = 2  # every downsampling halves the rows and the columns
THETA = 10000.0
MOST_LOG_SCALE = 4.6052  # ln 100 as the released code rounds it


class Grid:
    """How the tokens of a stage lie on the picture during one forward: `rows` x `columns`, row by row.

    It is the stage's only state, so a model runs one forward at a time: threads need copies of their own.
    """

    def __init__(self):
        self.enter(0, 0)

    def enter(self, rows: int, columns: int) -> None:
        """Note the grid of the forward that begins."""
        self.rows, self.columns, self.made = rows, columns, {}

    def lay_out(self, x):
        """`b (h w) d -> b d h w`."""
        return rearrange(x, "b (h w) d -> b d h w", h=self.rows)

    def rotations(self, heads: int, width: int, factor: int, stride: int, device, dtype):
        """`rotations` of all heads on a grid `factor` times coarser: `-> n (head pair)`, made once a forward."""
        key = heads, width, factor, stride
        if key not in self.made:
            table = rotations(width, self.rows // factor, self.columns // factor, stride, device, dtype)
            self.made[key] = repeat(table, "n pair -> n (head pair)", head=heads)
        return self.made[key]


def rotations(width: int, rows: int, columns: int, stride=1, device=None, dtype=torch.float32) -> torch.Tensor:
    """2-D rotary positions for heads of `width` e, as unit complex numbers: `-> (h w) (e/2)`.

    Frequencies 10000^(-4i/e); column and row alternate (x0, y0, x1, y1 ...), one rotation for each pair of neighbouring
    features. A place that stands for `stride` x `stride` others lies in their middle, counted in theirs. Raises
    ValueError unless 4 divides the width.
    """
    if width % 4:
        raise ValueError(f"2-D rotary positions need heads of a width that 4 divides, not {width}")
    frequencies = THETA ** (-torch.arange(0, width, 4, device=device, dtype=dtype) / width)
    middles = lambda side: torch.arange(side, device=device, dtype=dtype) * stride + (stride - 1) / 2
    places = [middles(side) for side in (rows, columns)]
    row, column = torch.meshgrid(*places, indexing="ij")
    angles = rearrange([column, row], "coordinate h w -> (h w) 1 coordinate") * rearrange(frequencies, "i -> i 1")
    angles = rearrange(angles, "n i coordinate -> n (i coordinate)")
    return torch.polar(torch.ones_like(angles), angles)


def rotate(x, rotations):
    """Turn each pair of neighbouring features: `x: b n (head e), rotations: n (head pair) -> b n (head e)`."""
    pairs = torch.view_as_complex(rearrange(x, "b n (pair two) -> b n pair two", two=2))
    return rearrange(torch.view_as_real(pairs * rotations), "b n pair two -> b n (pair two)")


class Conv(nn.Conv2d):
    """A convolution that keeps the size, `b c h w -> b d h w`, with its own initialisation and a zero bias."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 3, *, groups: int = 1, bias: bool = True, init=xavier):
        self.init = init
        super().__init__(c_in, c_out, kernel, padding=kernel // 2, groups=groups, bias=bias)

    def reset_parameters(self):
        self.init(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class DepthwiseConv(Conv):
    """One kernel a channel: `x: b d h w -> b d h w`."""

    def __init__(self, dim: int, kernel: int = 5):
        super().__init__(dim, dim, kernel, groups=dim)


class ShortcutConv(DepthwiseConv):
    """A depthwise convolution plus its input, `b d h w -> b d h w`; the input is a 1 in the middle of each kernel."""

    def forward(self, x):
        middle = self.kernel_size[0] // 2
        shortcut = F.pad(torch.ones_like(self.weight[..., :1, :1]), [middle] * 4)
        return F.conv2d(x, self.weight + shortcut, self.bias, padding=middle, groups=self.groups)


class Whole(nn.Module):
    """Attention as it is, over all tokens of the grid; the other two say what they downsample.

    `queries` and `keys` are how many times coarser than the grid each side is.
    """

    queries = keys = 1

    def __init__(self, dim: int, grid: Grid):
        super().__init__()
        self.grid = grid

    def split(self, x):
        """What attends: `b n d -> (b g) m d`, g grids of m tokens."""
        return x

    def thin(self, kv):
        """What is attended to, keys and then values side by side: `kv: b n d -> b m d`."""
        return kv

    def join(self, x):
        """The inverse of `split`."""
        return x


class DownsampledKeys(Whole):
    """Keys and values alone are downsampled: a depthwise convolution with a shortcut, then the mean of 2 x 2 tokens."""

    keys = FACTOR

    def __init__(self, dim: int, grid: Grid):
        super().__init__(dim, grid)
        self.conv = ShortcutConv(2 * dim)

    def thin(self, kv):
        x = reduce(self.conv(self.grid.lay_out(kv)), "b d (h p) (w q) -> b d h w", "mean", p=FACTOR, q=FACTOR)
        return rearrange(x, "b d h w -> b (h w) d").contiguous()


class DownsampledTokens(Whole):
    """Queries, keys and values are downsampled: the grid becomes 4 interleaved ones of half the resolution.

    A depthwise convolution with a shortcut runs before, so that a token also tells of its neighbours in the other
    grids. No token is lost, and attention on 4 grids of n/4 tokens costs a quarter (section 3.2).
    """

    queries = keys = FACTOR

    def __init__(self, dim: int, grid: Grid):
        super().__init__(dim, grid)
        self.conv = ShortcutConv(dim)

    def split(self, x):
        x = self.grid.lay_out(x)
        return rearrange(self.conv(x), "b d (h p) (w q) -> (b p q) (h w) d", p=FACTOR, q=FACTOR)

    def join(self, x):
        rows = self.grid.rows // FACTOR
        return rearrange(x, "(b p q) (h w) d -> b (h p w q) d", h=rows, p=FACTOR, q=FACTOR)


DOWNSAMPLE = {"none": Whole, "kv": DownsampledKeys, "token": DownsampledTokens}


class Layout(NamedTuple):
    """How queries and keys lie on a grid of rows x columns: how many times coarser each side is.

    Equally coarse, both are on factor^2 interleaved grids that do not see each other; else a key covers a square.
    """

    rows: int
    columns: int
    queries: int
    keys: int


class GridAttention(nn.Module):
    """Self-attention on a grid: `x: b n d -> b n d`, with what U-DiT changes in it switched one by one.

    `downsample` is one of `DOWNSAMPLE`; `cosine` compares directions of q and k only, at a learned temperature a head
    (Swin v2); `rope` turns q and k by their places. Raises ValueError when `heads` does not divide `dim`.
    """

    def __init__(self, dim: int, heads: int, grid: Grid, *, downsample="token", cosine=True, rope=True):
        super().__init__()
        check_heads(dim, heads)
        self.heads, self.width, self.grid, self.rope = heads, dim // heads, grid, rope
        self.sampler = DOWNSAMPLE[downsample](dim, grid)
        self.qkv = Linear(dim, 3 * dim)
        self.log_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10))) if cosine else None
        self.attend = Attend()
        self.out = Linear(dim, dim)

    def forward(self, x):
        dim, sampler = x.shape[-1], self.sampler
        qkv = self.qkv(sampler.split(x))
        if sampler.keys == sampler.queries:
            # Side by side: one long operation is faster than two short ones.
            qk, v = qkv.split([2 * dim, dim], dim=-1)
            q, k = self.compared(qk, sampler.queries).chunk(2, dim=2)
        else:
            q, kv = qkv.split([dim, 2 * dim], dim=-1)
            k, v = sampler.thin(kv).chunk(2, dim=-1)
            q, k = self.compared(q, sampler.queries), self.compared(k, sampler.keys, keys=True)
        v = rearrange(v, "b n (head e) -> b n head e", head=self.heads)
        x = self.attend(*(rearrange(part, "b n head e -> b head n e") for part in (q, k, v)))
        return self.out(sampler.join(rearrange(x, "b head n e -> b n (head e)")))

    @property
    def layout(self) -> "Layout":
        """How the queries and keys of the last forward lie on the grid."""
        return Layout(self.grid.rows, self.grid.columns, self.sampler.queries, self.sampler.keys)

    def compared(self, x, factor: int, *, keys: bool = False):
        """Queries, queries and then keys, or `keys` alone, as `Attend` compares them: `b n (head e) -> b n head e`.

        With RoPE they are turned by their places on a grid `factor` times coarser; with cosine attention they have
        length 1, but queries that of the temperature (100 at most) times the root of e, by which `Attend` divides.
        In fp32 at least, also under autocast.
        """
        e, dtype = self.width, x.dtype
        x = x.to(torch.promote_types(dtype, torch.float32))
        if self.rope:
            stride = factor // self.sampler.queries  # of coarser keys, in the queries' places
            x = rotate(x, self.grid.rotations(x.shape[-1] // e, e, factor, stride, x.device, x.dtype))
        x = rearrange(x, "b n (head e) -> b n head e", e=e)
        if self.log_scale is not None:
            scale = rearrange(self.log_scale, "head 1 1 -> head 1").clamp(max=MOST_LOG_SCALE).exp() * math.sqrt(e)
            lengths = torch.ones_like(scale) if keys else torch.cat([scale, torch.ones_like(scale)])[: x.shape[2]]
            x = x * (lengths / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=1e-12))
        return x.to(dtype)
