"""Parameters and multiply-accumulates of a model, part by part, counted on the meta device (DiT paper, table 1).

Matrix products and convolutions are counted, attention's two products among them; additions, norms and activations
are not. That is the number that the papers print as "Gflops" (a FLOP counter, which takes a multiplication and an
addition for two, gives twice as many). No tensor with data in it is made, so XL/2 counts as fast as S/8.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dit_lab.models.config import Config
from dit_lab.models.presets import build
from dit_lab.program import quoted

ELSEWHERE = "elsewhere"


@dataclass(frozen=True)
class Row:
    """One kind of part: its `copies` hold `trained` and `fixed` numbers together and do `macs` for one input."""

    part: str
    copies: int
    trained: int
    fixed: int
    macs: int


@dataclass(frozen=True)
class Count:
    """A model's table, one `Row` a kind of part, for one input of `shape` (c, h, w); printed, it is aligned text."""

    title: str
    shape: tuple[int, int, int]
    rows: tuple[Row, ...]

    @property
    def trained(self) -> int:
        """Parameters that training moves."""
        return sum(row.trained for row in self.rows)

    @property
    def fixed(self) -> int:
        """Numbers that are stored but never trained, such as the position table."""
        return sum(row.fixed for row in self.rows)

    @property
    def params(self) -> int:
        """All stored numbers. The papers' rounded millions leave the fixed ones out."""
        return self.trained + self.fixed

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one input."""
        return sum(row.macs for row in self.rows)

    def __getitem__(self, part: str) -> Row:
        """The row of a part, `count["blocks.*.attn"]`. Raises KeyError that lists the parts."""
        rows = {row.part: row for row in self.rows}
        if part not in rows:
            raise KeyError(f"there is no part {quoted(part)}; there are {', '.join(rows)}")
        return rows[part]

    def __str__(self) -> str:
        total = Row("total", 1, self.trained, self.fixed, self.macs)
        lines = [("part", "copies", "trained", "fixed", "GMACs", "share")]
        for row in (*self.rows, total):
            share = f"{100 * row.macs / max(self.macs, 1):.1f} %"
            numbers = (str(row.copies), f"{row.trained:,}", f"{row.fixed:,}", f"{row.macs / 1e9:.4f}", share)
            lines.append((row.part, *numbers))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines]
        note = "1 GMAC is 10^9 multiply-accumulates; papers call them Gflops."
        size = " x ".join(map(str, self.shape))
        summary = f"{self.params:,} parameters ({self.trained:,} trained), {self.macs / 1e9:.5g} GMACs"
        return "\n".join([f"{self.title}, one input of {size}", "", *table, "", f"{summary}. {note}"])


def count(model: str | Config | nn.Module, *, shape: tuple[int, int, int] | None = None, **changes) -> Count:
    """Count a preset, a config (both with `changes`, as for `build`) or any module with `model(x, t, y)`.

    `shape` is one input's (c, h, w), by default what the model's config says. The module itself is left as it is.
    Raises ValueError on what `build` refuses, and on a module that has neither a config nor a `shape`.
    """
    title = model if isinstance(model, str) else type(model).__name__
    title = ", ".join([title, *(f"{name}={value}" for name, value in changes.items())])
    if not isinstance(model, nn.Module):
        with torch.device("meta"):
            model = build(model, **changes)
    elif changes:
        raise ValueError(f"a built model cannot be counted with other fields ({', '.join(changes)}); count its config")
    if shape is None:
        if not hasattr(model, "config"):
            raise ValueError(f"{title} has no config to read its input's size from; give shape=(c, h, w)")
        shape = (model.config.in_channels, *model.config.size)
    return Count(title, tuple(shape), rows(model, shape))


def rows(model: nn.Module, shape: tuple[int, int, int]) -> tuple[Row, ...]:
    """The model's parts in order, those that hold and do nothing left out."""
    kinds = dict(parts(model))
    trained, fixed, macs = defaultdict(int), defaultdict(int), defaultdict(int)
    for held, named in (trained, model.named_parameters()), (fixed, model.named_buffers()):
        for name, tensor in named:
            held[part_of(name, kinds)] += tensor.numel()
    total, macs_of = measure(model, shape)
    for path, kind in kinds.items():
        macs[kind] += macs_of.get(path, 0)
    if rest := total - sum(macs.values()):
        macs[ELSEWHERE] = rest
    names = dict.fromkeys([*kinds.values(), *trained, *fixed, *macs])
    copies = {kind: list(kinds.values()).count(kind) or 1 for kind in names}
    table = (Row(kind, copies[kind], trained[kind], fixed[kind], macs[kind]) for kind in names)
    return tuple(row for row in table if row.trained or row.fixed or row.macs)


def parts(module: nn.Module, path: str = "", kind: str = "") -> Iterator[tuple[str, str]]:
    """(path, kind) of a model's parts: the children of its blocks, of one kind where only a block's number differs.

    `blocks.0.attn` and `blocks.1.attn` are both of the kind `blocks.*.attn`.
    """
    listed = isinstance(module, nn.ModuleList)
    for name, child in module.named_children():
        child_path, child_kind = path + name, kind + ("*" if listed else name)
        holds_blocks = any(isinstance(grandchild, nn.ModuleList) for grandchild in child.children())
        if isinstance(child, nn.ModuleList) or holds_blocks or (listed and any(child.children())):
            yield from parts(child, f"{child_path}.", f"{child_kind}.")
        else:
            yield child_path, child_kind


def part_of(name: str, kinds: dict[str, str]) -> str:
    """The kind of the part that a tensor lies in, or, for one that lies in none, its own name without numbers."""
    for path in accumulate(name.split("."), "{}.{}".format):
        if path in kinds:
            return kinds[path]
    return re.sub(r"\.\d+\.", ".*.", name)


def measure(model: nn.Module, shape: tuple[int, int, int]) -> tuple[int, dict[str, int]]:
    """Multiply-accumulates of one input, the whole and by module path: what a second input costs on top of a first.

    So products of weights alone (U-DiT's re-parameterised layers), made once whatever the batch, are not counted.
    """
    (one, one_at), (two, two_at) = (measure_batch(model, (b, *shape)) for b in (1, 2))
    return two - one, {path: two_at[path] - one_at.get(path, 0) for path in two_at}


@torch.no_grad()
def measure_batch(model: nn.Module, shape: tuple[int, int, int, int]) -> tuple[int, dict[str, int]]:
    """Multiply-accumulates of one pass, the whole and by module path; data-free stand-ins run in the tensors' place."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    stand_ins = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    dtype = next((tensor.dtype for tensor in model.parameters()), torch.float32)
    # The plain kernel is two matrix products, which every version of the counter knows; some fused ones it misses.
    with torch.device("meta"), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        x, t, y = torch.empty(shape, dtype=dtype), torch.zeros(shape[0]), torch.zeros(shape[0], dtype=torch.long)
        functional_call(model, stand_ins, (x, t, y))
    flops = {path: sum(by_kernel.values()) for path, by_kernel in counter.get_flop_counts().items()}
    return flops.get("Global", 0) // 2, {path.partition(".")[2]: number // 2 for path, number in flops.items()}
