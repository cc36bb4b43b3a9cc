"""Blocks in half precision around a stream in full: products, norms and modulation in 16 bits, what they add up to not.

The residual stream is where rounding would pile up, a block after the other: kept in fp32 it costs a tenth of the time
and leaves a tenth of the error. On a CPU the linears are laid out once as its kernels like them, and an MLP's GELU is
computed in the pass of the product before it: by itself it takes nearly as long as the MLP's two products.
"""

from functools import partial

import torch
from torch import nn

from dit_lab.models.conv_mlp import DepthwiseMLP
from dit_lab.models.grid_layers import GridAttention
from dit_lab.models.layers import MLP, Attend, Linear
from dit_lab.models.products import CACHE_BYTES, PackedAttend, has_amx
from dit_lab.models.udit import UDiT


class PackedLinear(Linear):
    """A linear for inference on a CPU, `x: ... d_in -> ... d_out`, and after it `gelu` ("tanh", "none", or None: none).

    `weight` and `bias` are those of the linear that it is made of, for who looks inside.
    """

    def __init__(self, linear: nn.Linear, gelu: str | None = None):
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.after = ("none", [], "") if gelu is None else ("gelu", [], gelu)
        self.laid_out = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach())

    def forward(self, x):
        return torch.ops.mkldnn._linear_pointwise(x, self.laid_out, self.bias, *self.after)


class PackedMLP(MLP):
    """`MLP` whose `up` ends with the GELU: `x: b n d -> b n d`."""

    def __init__(self, mlp: MLP):
        nn.Module.__init__(self)
        self.up, self.down = PackedLinear(mlp.up, gelu="tanh"), PackedLinear(mlp.down)

    def forward(self, x):
        return self.down(self.up(x))


class PackedDepthwiseMLP(DepthwiseMLP):
    """`DepthwiseMLP` whose `up` ends with the GELU: `x: b n d -> b n d`."""

    def __init__(self, mlp: DepthwiseMLP):
        nn.Module.__init__(self)
        self.grid, self.conv = mlp.grid, mlp.conv
        self.up, self.down = PackedLinear(mlp.up, gelu="none"), PackedLinear(mlp.down)

    def forward(self, x):
        return self.convolved(self.up(x))


class PackedGridAttention(GridAttention):
    """`GridAttention` that turns its queries and keys for as many pictures at once as a cache holds, `x: b n d`."""

    def __init__(self, attention: GridAttention):
        nn.Module.__init__(self)
        for name in ("heads", "width", "grid", "rope", "sampler", "log_scale"):
            setattr(self, name, getattr(attention, name))
        self.qkv, self.attend, self.out = map(pack, (attention.qkv, attention.attend, attention.out))

    def compared(self, x, factor, **how):
        batch, n, wide = x.shape
        out, most = x.new_empty(batch, n, wide // self.width, self.width), max(1, CACHE_BYTES // (4 * n * wide))
        for part in (slice(first, first + most) for first in range(0, batch, most)):
            out[part] = super().compared(x[part], factor, **how)
        return out


PACKED = {
    MLP: PackedMLP, DepthwiseMLP: PackedDepthwiseMLP, Linear: PackedLinear, Attend: PackedAttend,
    GridAttention: PackedGridAttention,
}  # fmt: skip


def pack(module: nn.Module) -> nn.Module:
    """The module with every part that there is a packed one for replaced by that, but what AMX does sooner itself."""
    packed = PACKED.get(type(module))
    if packed and not (packed is PackedAttend and has_amx()):
        return packed(module)
    for name, child in module.named_children():
        setattr(module, name, pack(child))
    return module


def packs(dtype: torch.dtype) -> bool:
    """Whether this machine's kernels take packed linears of a dtype."""
    able = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}
    return dtype in able and torch.backends.mkldnn.is_available() and getattr(torch.ops.mkldnn, able[dtype])()


def halve(model: nn.Module, dtype: torch.dtype, packed: bool) -> None:
    """Have a model's blocks compute in `dtype`; the stream between them, and both ends, stay what they are.

    What a block's children are given is cast to `dtype`, so that a block's own sums promote to the stream's. The
    weights are new ones: the old may be another model's too. With `packed` linears are laid out.
    """
    for block in model.blocks:
        convert(block, dtype)
        if packed:
            pack(block)
        for child in block.children():
            child.register_forward_pre_hook(partial(cast, dtype=dtype))
    if isinstance(model, UDiT):  # its convolutions between the stages are products too
        stream = model.stem.weight.dtype
        for conv in (*model.down, *model.up, *model.merge, model.neck):
            convert(conv, dtype)
            conv.register_forward_pre_hook(partial(cast, dtype=dtype))
            conv.register_forward_hook(partial(back, dtype=stream))


def unhook(model: nn.Module) -> None:
    """Take the hooks out of a model that `halve` did not hang: those of somebody who edits it, or looks in."""
    for module in model.modules():
        for hooks in module._forward_hooks, module._forward_pre_hooks:
            for key in [key for key, hook in hooks.items() if getattr(hook, "func", None) not in (cast, back)]:
                del hooks[key]


def convert(module: nn.Module, dtype: torch.dtype) -> None:
    """Give a module, and all in it, parameters of another dtype."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            setattr(part, name, nn.Parameter(parameter.detach().to(dtype), requires_grad=False))


def cast(module, inputs: tuple, dtype: torch.dtype) -> tuple:
    """A pre-hook: the floating inputs in another dtype."""
    return tuple(x.to(dtype) if torch.is_tensor(x) and x.is_floating_point() else x for x in inputs)


def back(module, inputs, output: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A hook: the output in the dtype of the stream."""
    return output.to(dtype)
