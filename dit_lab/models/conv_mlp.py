"""U-DiT's convolutional MLP, and its re-parameterised form that folds into it (section 5.4)."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from dit_lab.models.grid_layers import DepthwiseConv, Grid
from dit_lab.models.layers import Linear


class LinearPair(nn.Module):
    """Two linears in a row, `... d_in -> ... d_out`, trained as two and computed as the one that they are."""

    def __init__(self, d_in: int, d_middle: int, d_out: int):
        super().__init__()
        self.first = Linear(d_in, d_middle)
        self.second = Linear(d_middle, d_out)

    def folded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(weight, bias) of the one linear: W2 W1 and W2 b1 + b2."""
        return self.second.weight @ self.first.weight, self.second(self.first.bias)

    def forward(self, x):
        return F.linear(x, *self.folded())


class ConvBranches(nn.Module):
    """The sum of x and its depthwise 5x5, 3x3 and 1x1 convolutions, computed as one 5x5: `b d h w -> b d h w`."""

    kernels = (5, 3, 1)

    def __init__(self, dim: int):
        super().__init__()
        self.branches = nn.ModuleList(DepthwiseConv(dim, kernel) for kernel in self.kernels)

    def folded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(weight, bias) of the one convolution: smaller kernels sit in the middle of the largest, x is a 1."""
        *larger, smallest = (branch.weight for branch in self.branches)
        weights = [F.pad(weight, [(self.kernels[0] - weight.shape[-1]) // 2] * 4) for weight in (*larger, smallest + 1)]
        return sum(weights), sum(branch.bias for branch in self.branches)

    def forward(self, x):
        weight, bias = self.folded()
        return F.conv2d(x, weight, bias, padding=self.kernels[0] // 2, groups=len(bias))


class DepthwiseMLP(nn.Module):
    """An MLP with a depthwise 5x5 convolution after its GELU: `x: b n d -> b n d`, `ratio * d` wide inside."""

    def __init__(self, dim: int, ratio: float, grid: Grid):
        super().__init__()
        self.grid = grid
        self.up, self.conv, self.down = self.layers(dim, round(dim * ratio))

    def layers(self, dim: int, hidden: int):
        """Linear, depthwise convolution, linear."""
        return Linear(dim, hidden), DepthwiseConv(hidden), Linear(hidden, dim)

    def forward(self, x):
        return self.convolved(F.gelu(self.up(x)))

    def convolved(self, x):
        """What follows the GELU: `b n hidden -> b n d`."""
        return self.down(rearrange(self.conv(self.grid.lay_out(x)), "b d h w -> b (h w) d"))


class ReparameterisedMLP(DepthwiseMLP):
    """The same function in more parameters, which trains better (section 5.4); `fold` makes it a `DepthwiseMLP`."""

    def layers(self, dim: int, hidden: int):
        middle = max(hidden // 2, 1)
        return LinearPair(dim, middle, hidden), ConvBranches(hidden), LinearPair(hidden, middle, dim)
