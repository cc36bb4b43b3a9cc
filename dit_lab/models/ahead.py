"""What a model makes of its condition, for a whole sampling run at once: one product a block, before the loop.

A run's timesteps and labels are known before it starts, and shift, scale and gate depend on nothing else. In DiT-XL/2
they are a third of the weights, which every step would read again for two rows of numbers.
"""

from copy import deepcopy

import torch
from einops import pack, rearrange, repeat
from torch import nn

from dit_lab.models.compiling import compiled
from dit_lab.models.layers import Modulation

# Of tables; a run of more makes its modulation step by step, as any other.
MOST_BYTES = {"cpu": 256 * 2**20, "cuda": 2**31}


def twin(model: nn.Module) -> nn.Module:
    """Another model for inference, of the same numbers in memory, whose modules may be replaced."""
    shared = {id(tensor): nn.Parameter(tensor.detach(), requires_grad=False) for tensor in model.parameters()}
    return deepcopy(model, shared | {id(tensor): tensor for tensor in (*model.buffers(), *laid_out(model))})


def laid_out(model: nn.Module) -> list[torch.Tensor]:
    """The weights that a model has a second time, as a CPU's kernels like them."""
    return [module.laid_out for module in model.modules() if hasattr(module, "laid_out")]


class Looked(nn.Module):
    """Stands for a module that reads the condition: its part of what was made, `made: b m by dtype -> as it gives`."""

    def __init__(self, module: nn.Module, part: slice):
        super().__init__()
        self.part, self.dtype, self.parts = part, dtype_of(module), getattr(module, "parts", None)

    def forward(self, made):
        mine = self.mine(made)
        if self.parts is None:  # a linear on both condition tokens
            return rearrange(mine, "b (k d) -> b k d", k=2)
        return tuple(rearrange(mine, "b (parts d) -> parts b 1 d", parts=len(self.parts)))

    def mine(self, made):
        """This reader's part: `b m by dtype -> b (parts d)`."""
        return made[self.dtype][:, self.part]


class Ahead:
    """`ahead(t: s, y: l) -> ask`; then `ask(x: b c h w, t: b, y: b)` is what the model gives, at those t and y alone.

    While somebody has hung hooks in the model, to watch it or to edit it, the model itself is asked; else, where that
    was wished for, compiled code.
    """

    def __init__(self, model: nn.Module, compile: bool = False):
        self.model, self.modules = model, list(model.modules())
        self.hooks = self.hung()
        self.plain = twin(model) if compile else model
        self.looking, self.widths = looking_up(model)
        if compile:
            device = next(model.parameters()).device
            self.plain = compiled(self.plain, device)
            self.looking = self.looking and compiled(self.looking, device)

    def hung(self) -> int:
        """How many hooks hang in the model."""
        return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in self.modules)

    @torch.no_grad()
    def __call__(self, t: torch.Tensor, y: torch.Tensor):
        """`t`, the timesteps of a run, and `y`, its labels, each of them once: `s`, `l`, on the model's device."""
        row = sum(dtype.itemsize * count for dtype, count in self.widths.items())
        if self.looking is None or len(t) * len(y) * row > MOST_BYTES.get(y.device.type, MOST_BYTES["cpu"]):
            return self.asking(self.plain, lambda t, y: y)
        (times, order), count = t.float().sort(), len(y)
        tables = self.tables(repeat(t[order], "s -> (s l)", l=count), repeat(y, "l -> (s l)", s=len(t)))
        between = (times[1:] + times[:-1]) / 2
        slots = torch.zeros(self.model.config.labels, dtype=torch.int64, device=y.device)
        slots[y] = torch.arange(count, device=y.device)

        def looked_up(t, y):
            rows = torch.bucketize(t.float().contiguous(), between) * count + slots[y]  # else it warns of a copy
            return {dtype: table[rows] for dtype, table in tables.items()}

        return self.asking(self.looking, looked_up)

    def asking(self, view, given):
        """`ask` of one view, which takes what `given(t, y)` gives in the place of labels."""

        def ask(x, t, y):
            if self.hung() != self.hooks:
                return self.model(x, t, y)
            return view(x, t, given(t, y))

        return ask

    def tables(self, t, y) -> dict[torch.dtype, torch.Tensor]:
        """What the readers make of each pair, side by side: `t, y: r -> r m` by dtype."""
        conds, made = self.model.block_conditions(t, y), {dtype: [] for dtype in self.widths}
        for _, number, module in readers(self.model):
            parts = module(conds[number].to(dtype_of(module)))
            flat = pack(parts, "b * d")[0] if isinstance(parts, tuple) else parts
            made[dtype_of(module)].append(rearrange(flat, "b k d -> b (k d)"))
        return {dtype: torch.cat(parts, dim=1) for dtype, parts in made.items()}


def looking_up(model: nn.Module) -> tuple[nn.Module | None, dict[torch.dtype, int]]:
    """A twin that takes what its readers look up in the place of labels, and how many numbers that is by dtype.

    None of a model whose blocks may read the condition anywhere.
    """
    if not all(block.readers for block in model.blocks):
        return None, {}
    view, widths = twin(model), {}
    for name, _, module in readers(model):
        start = widths.get(dtype_of(module), 0)
        widths[dtype_of(module)] = start + width(module)
        view.set_submodule(name, Looked(module, slice(start, start + width(module))))
    # The condition is what was made of it, and passes through.
    view.condition = lambda t, made: made
    view.stage_conditions = lambda t, made: [made] * len(model.config.stages)
    return view, widths


def readers(model: nn.Module) -> list[tuple[str, int, nn.Module]]:
    """The modules that alone read the condition: name, number of the block whose condition it is, module."""
    names = {module: name for name, module in model.named_modules()}
    found = [(number, block.get_submodule(name)) for number, block in enumerate(model.blocks) for name in block.readers]
    if hasattr(model.final_norm, "modulation"):
        found.append((-1, model.final_norm.modulation))
    return [(names[module], number, module) for number, module in found]


def width(module: nn.Module) -> int:
    """How many numbers a reader makes of one condition: a modulation's parts, or a linear's features of two tokens."""
    return module.linear.out_features if isinstance(module, Modulation) else 2 * module.out_features


def dtype_of(module: nn.Module) -> torch.dtype:
    """What a module computes in."""
    return next(module.parameters()).dtype
