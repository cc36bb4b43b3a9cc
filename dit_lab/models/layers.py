"""The layers that every diffusion transformer here is made of (DiT paper, section 3.2).

Shapes use one alphabet: `b` batch, `c` channels, `h w` spatial, `p q` rows and columns inside a patch,
`n` image tokens, `k` condition tokens, `i j` query and key positions, `d` features, `e` features of a head.

Initialisation belongs to each module: nothing walks over a finished model and resets it, so a gate that is
born zero stays zero until training moves it.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from torch import nn

xavier = nn.init.xavier_uniform_
zeros = nn.init.zeros_
small_normal = partial(nn.init.normal_, std=0.02)
FREQUENCIES = 256


class Linear(nn.Linear):
    """`x: ... d_in -> ... d_out`, with its own initialisation (`xavier`, `zeros`, `small_normal`) and a zero bias."""

    def __init__(self, d_in: int, d_out: int, *, init=xavier):
        self.init = init
        super().__init__(d_in, d_out)

    def reset_parameters(self):
        self.init(self.weight)
        nn.init.zeros_(self.bias)


class LayerNorm(nn.LayerNorm):
    """`x: ... d -> ... d`, eps 1e-6. adaLN blocks use it without `affine`: shift and scale come from the condition."""

    def __init__(self, dim: int, *, affine: bool = False):
        super().__init__(dim, eps=1e-6, elementwise_affine=affine)


class Attend(nn.Module):
    """Attention itself, without parameters: `q: b head i e, k: b head j e, v: b head j e -> b head i e`.

    It is a module of its own so that a pre-hook can see q and k. Whoever wants the map recomputes it with
    `attention_map`, so looking inside never changes what runs.
    """

    def forward(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v)


def attention_map(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """The weights that `Attend` applies, in fp32: `q: b head i e, k: b head j e -> b head i j`; rows sum to 1."""
    q, k = q.float(), k.float()
    return torch.softmax((q / math.sqrt(q.shape[-1])) @ rearrange(k, "b head j e -> b head e j"), dim=-1)


class Attention(nn.Module):
    """Multi-head self-attention: `x: b n d -> b n d`. Raises ValueError when `heads` does not divide `dim`."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        check_heads(dim, heads)
        self.heads = heads
        self.qkv = Linear(dim, 3 * dim)
        self.attend = Attend()
        self.out = Linear(dim, dim)

    def forward(self, x):
        q, k, v = rearrange(self.qkv(x), "b n (qkv head e) -> qkv b head n e", qkv=3, head=self.heads)
        return self.out(rearrange(self.attend(q, k, v), "b head n e -> b n (head e)"))


class CrossAttention(nn.Module):
    """Multi-head attention from the image to the condition tokens: `x: b n d, cond: b k d -> b n d`."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        check_heads(dim, heads)
        self.heads = heads
        self.q = Linear(dim, dim)
        self.kv = Linear(dim, 2 * dim)
        self.attend = Attend()
        self.out = Linear(dim, dim)

    def forward(self, x, cond):
        q = rearrange(self.q(x), "b n (head e) -> b head n e", head=self.heads)
        k, v = rearrange(self.kv(cond), "b k (kv head e) -> kv b head k e", kv=2, head=self.heads)
        return self.out(rearrange(self.attend(q, k, v), "b head n e -> b n (head e)"))


class MLP(nn.Module):
    """Two linears with a tanh GELU between them: `x: b n d -> b n d`, `ratio * d` wide inside."""

    def __init__(self, dim: int, ratio: float = 4.0):
        super().__init__()
        self.up = Linear(dim, round(dim * ratio))
        self.down = Linear(round(dim * ratio), dim)

    def forward(self, x):
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class Modulation(nn.Module):
    """Regress `parts` vectors from the condition: `cond: b k d -> parts x (b 1 d)`; adaLN sums over k (figure 3).

    A forward hook on this module sees every shift, scale and gate by the name in `parts`.
    """

    def __init__(self, dim: int, parts: tuple[str, ...], *, init=zeros):
        super().__init__()
        self.parts = parts
        self.linear = Linear(dim, len(parts) * dim, init=init)

    def forward(self, cond):
        vectors = self.linear(F.silu(reduce(cond, "b k d -> b d", "sum")))
        return tuple(rearrange(vectors, "b (parts d) -> parts b 1 d", parts=len(self.parts)))


def modulate(x, shift, scale):
    """Equation of adaLN: `x * (1 + scale) + shift`, with `x: b n d; shift, scale: b 1 d -> b n d`."""
    return torch.addcmul(shift, x, 1 + scale)


class PlainNorm(LayerNorm):
    """The final norm of models whose blocks carry the condition in tokens: `x: b n d, cond (unused) -> b n d`."""

    def __init__(self, dim: int):
        super().__init__(dim, affine=True)

    def forward(self, x, cond):
        return super().forward(x)


class ModulatedNorm(nn.Module):
    """The final norm of adaLN models: `x: b n d, cond: b k d -> b n d`; modulation starts at zero (section 3.2)."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = LayerNorm(dim)
        self.modulation = Modulation(dim, ("shift", "scale"))

    def forward(self, x, cond):
        shift, scale = self.modulation(cond)
        return modulate(self.norm(x), shift, scale)


class TimestepEmbedding(nn.Module):
    """`t: b -> b d`: 256 cosines and sines, then Linear-SiLU-Linear. `t` may be fractional."""

    def __init__(self, dim: int):
        super().__init__()
        self.up = Linear(FREQUENCIES, dim, init=small_normal)
        self.down = Linear(dim, dim, init=small_normal)

    def forward(self, t):
        waves = timestep_waves(t, FREQUENCIES).to(self.up.weight.dtype)
        return self.down(F.silu(self.up(waves)))


def timestep_waves(t: torch.Tensor, width: int) -> torch.Tensor:
    """Sinusoids of the timestep in fp32: `t: b -> b width`, cosines first, frequencies exp(-ln(10000) i / half)."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angles = rearrange(t.float(), "b -> b 1") * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class LabelEmbedding(nn.Embedding):
    """`y: b -> b d`, one row a class and, with `null`, a last one: the null label of unconditional passes."""

    def __init__(self, num_classes: int, dim: int, null: bool = True):
        self.null = null
        super().__init__(num_classes + null, dim)

    def reset_parameters(self):
        small_normal(self.weight)


def condition_tokens(time_embedding, label_embedding, t, y=None):
    """The two condition tokens, time and label: `t: b, y: b -> b k d`, k = 2; no `y` is all null, or ValueError."""
    if y is None and not label_embedding.null:
        raise ValueError("this model has no null label, which a call without y would take: give y, a class a picture")
    if y is None:
        null = torch.tensor(label_embedding.num_embeddings - 1, device=t.device)
        y = repeat(null, "-> b", b=t.shape[0])
    return torch.stack([time_embedding(t), label_embedding(y)], dim=1)


def position_table(dim: int, rows: int, columns: int) -> torch.Tensor:
    """The fixed 2-D sine-cosine table: `-> (rows columns) dim` in fp32; half the width a coordinate, column first.

    Computed in float64, as the original does. Raises ValueError unless 4 divides `dim`.
    """
    if dim % 4:
        raise ValueError(f"the position table needs a width that 4 divides, not {dim}")
    if torch.get_default_device().type == "meta":
        return torch.empty(rows * columns, dim)  # a shape is all that is asked for
    table = torch.empty(rows, columns, dim)
    table[..., : dim // 2] = position_waves(columns, dim // 2)
    table[..., dim // 2 :] = rearrange(position_waves(rows, dim // 2), "h d -> h 1 d")
    return rearrange(table, "h w d -> (h w) d")


def position_waves(count: int, width: int) -> torch.Tensor:
    """Sines, then cosines, of one coordinate from 0 to `count` - 1: `-> count width` in fp32."""
    omega = 10000.0 ** (-torch.arange(width // 2, dtype=torch.float64) / (width / 2))
    angles = rearrange(torch.arange(count).double(), "n -> n 1") * omega
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def check_heads(dim: int, heads: int) -> None:
    """Raise ValueError when the width cannot be split evenly into heads."""
    if heads < 1 or dim % heads:
        raise ValueError(f"{heads} heads do not divide a width of {dim}")
