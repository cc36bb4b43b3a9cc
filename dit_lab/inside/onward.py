"""The rest of a U-DiT's path from some stage on with all later blocks left out: halving, skips, doubling, the neck.

A block that is left out is the identity (its branches are 0), and what lies between blocks is linear but for biases. So
the lens shows what the model would say after any block, and a part of the residual stream has a part in the output.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy

import torch
import torch.nn.functional as F
from einops import einsum, rearrange

from dit_lab.models import UDiT

BATCH = 2**25  # bytes of the widest maps of those that go on together; more at once are not faster


class Onward:
    """What lies between the blocks of a U-DiT, run in `dtype` (None: the model's own), up to the last norm.

    Stages are numbered as in the config: the encoder's, the middle, the decoder's.
    """

    def __init__(self, model: UDiT, dtype: torch.dtype | None = None):
        dtype = dtype or model.neck.weight.dtype
        copied = lambda convs: convs if dtype == model.neck.weight.dtype else deepcopy(convs).to(dtype)
        self.down, self.up = copied(model.down), copied(model.up)
        *self.merge, self.neck = ((conv.weight.to(dtype), conv.bias.to(dtype)) for conv in (*model.merge, model.neck))

    def __call__(self, stage: int, x, skips: Sequence[torch.Tensor | None]):
        """From a stage's output to what the last norm is given, laid out: `x: (m b) d h w -> (m b) d h w`.

        `skips: b d h w` are the outputs of the encoder's stages before it, None where nothing comes that way.
        """
        return convolved(self.merged(stage, x, skips), *self.neck)

    def merged(self, stage: int, x, skips: Sequence[torch.Tensor | None]):
        """The same up to the last merge: `x: (m b) d h w -> (m b) d h w`."""
        bottom, skips = len(self.down), list(skips)
        for level in range(stage, bottom):
            skips.append(x)
            x = self.down[level](x)
        for level in range(max(stage - bottom, 0), bottom):
            x = merged(self.up[level](x), skips[bottom - 1 - level], *self.merge[level])
        return x


class LinearOnward(Onward):
    """The same without biases, on to `rows: f d` of what the norm is given: parts of a sum come out as parts of it.

    The last merge, the neck and the rows are one convolution, so that parts are never as wide as the neck.
    """

    def __init__(self, model: UDiT, dtype: torch.dtype, rows: torch.Tensor):
        super().__init__(model, dtype)
        self.neck = einsum(rows, self.neck[0], "f m, m d p q -> f d p q"), None
        self.merge = [(weight, None) for weight, _ in self.merge]
        last = rearrange(self.merge[-1][0], "d m 1 1 -> d m")
        self.merge[-1] = einsum(self.neck[0], last, "f d p q, d m -> f m p q"), None

    def __call__(self, stage: int, x, skips: Sequence[torch.Tensor | None]):
        """From a stage's output to the rows: `x: part d h w -> part f h w`."""
        x = self.merged(stage, x, skips)
        return convolved(x, *self.neck) if stage == 2 * len(self.down) else x


def convolved(x, weight, bias=None):
    """A convolution that keeps the size: `x: b d h w, weight: m d p q -> b m h w`, in its weight's precision."""
    return F.conv2d(x.to(weight.dtype), weight, bias, padding=weight.shape[-1] // 2).to(x.dtype)


def merged(x, skip, weight, bias=None):
    """What a merge makes of `x: (m b) d h w` and `skip: b d h w`, or `(m b) d h w`, or None: `-> (m b) d h w`."""
    of_x, of_skip = weight.split([x.shape[1], weight.shape[1] - x.shape[1]], dim=1)
    x = convolved(x, of_x, bias)
    if skip is None:
        return x
    skip = convolved(skip, of_skip)  # once, however many share it
    return rearrange(rearrange(x, "(m b) d h w -> m b d h w", b=len(skip)) + skip, "m b d h w -> (m b) d h w")


def batches(x, widest: int) -> Iterator[torch.Tensor]:
    """Cut `x: m d h w` along m so that maps with as many numbers as `widest`, one each, stay within `BATCH` bytes."""
    return iter(x.split(max(1, BATCH // (widest * x.element_size()))))


def widest(model: UDiT, size: tuple[int, int]) -> int:
    """The numbers of the largest map on the way to the end, for one input of `size` (h, w)."""
    config = model.config
    maps = [shape.dim * size[0] * size[1] // shape.patch**2 for shape in config.stages]
    return 2 * max(maps)  # what is doubled or merged lies beside what it was made of
