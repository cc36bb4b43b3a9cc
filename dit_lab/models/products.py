"""Attention in half precision on a CPU: two products around a softmax, for as many maps at once as a cache holds.

PyTorch's fused kernel never keeps a map, but on CPUs without AMX it leaves half of the rate of their 16-bit products,
and going backward most of it. What is looked at is the same: the queries, keys and values that `Attend` is given.
"""

from contextlib import contextmanager
from itertools import product

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from dit_lab.models.layers import Attend

CACHE_BYTES = 2**21  # of maps at a time: about what two cores have to themselves
LEAST_BYTES = 2**17  # of all maps of a block: with less, what is done around the products takes longer than they do
MOST_BYTES = 2**24  # of a head's map: from here on the fused kernel is as fast, and keeps none
MOST_KEPT_BYTES = 2**26  # of all maps of a block in training, which stay for the backward pass


class PackedAttend(Attend):
    """`Attend` by `products`, for as many heads at once as a cache holds the maps of.

    Maps too small or too large to be worth it are left to the fused kernel.
    """

    def __init__(self, attend: Attend):
        super().__init__()

    def forward(self, q, k, v):
        batch, heads, n, e = q.shape
        each = map_bytes(q, k)
        if each > MOST_BYTES or batch * heads * each < LEAST_BYTES:
            return super().forward(q, k, v)
        most = max(1, CACHE_BYTES // each)
        pictures = max(1, most // heads)
        out = rearrange(q.new_empty(batch, n, heads, e), "b i head e -> b head i e")  # as what follows would have it
        for first, head in product(range(0, batch, pictures), range(0, heads, min(most, heads))):
            part = slice(first, first + pictures), slice(head, head + most)
            out[part] = products(q[part], k[part], v[part])
        return out


def map_bytes(q, k) -> int:
    """Of one head's map."""
    return q.shape[2] * k.shape[2] * q.element_size()


def products(q, k, v):
    """Attention as two products around a softmax: `q: b head i e, k: b head j e, v: b head j e -> b head i e`."""
    heads, e = q.shape[1], q.shape[-1]
    q, k, v = (rearrange(x, "b head n e -> (b head) n e") for x in (q, k, v))
    scores = torch.baddbmm(q.new_empty(1), q, rearrange(k, "b j e -> b e j"), beta=0, alpha=e**-0.5)
    return rearrange(torch.bmm(scores.softmax(dim=-1), v), "(b head) i e -> b head i e", head=heads)


def trained(q, k, v):
    """`Attend` for training: in half precision by `products`, a few pictures at once, where that keeps maps small."""
    most = CACHE_BYTES // (q.shape[1] * map_bytes(q, k))  # pictures whose maps a cache holds
    if q.element_size() > 2 or len(q) * q.shape[1] * map_bytes(q, k) > MOST_KEPT_BYTES:
        return F.scaled_dot_product_attention(q, k, v)
    with torch.autocast(q.device.type, enabled=False):  # which would have a softmax in fp32
        return torch.cat([products(*some) for some in zip(*(x.split(max(1, most)) for x in (q, k, v)), strict=True)])


@contextmanager
def attending_by_products(model: nn.Module):
    """Inside, a model that trains on a CPU without AMX takes `trained` for its attention."""
    slow = next(model.parameters()).device.type == "cpu" and not has_amx()
    attends = [module for module in model.modules() if slow and isinstance(module, Attend)]
    for attend in attends:
        attend.forward = trained
    try:
        yield
    finally:
        for attend in attends:
            vars(attend).pop("forward", None)  # which another run of the same model may have done


def has_amx() -> bool:
    """Whether this CPU makes products by AMX, of which PyTorch's fused attention makes use."""
    return bool(torch.cpu.get_capabilities().get("amx_tile"))
