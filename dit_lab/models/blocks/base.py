"""The contract of a conditioning block, and the registry of all blocks (DiT paper, figure 3).

A block decides how the condition (a time token and a label token) reaches the image tokens. To add one, write one
file in this folder with a subclass of `Block` and a `name`: presets, tests, the command line and the app read `BLOCKS`.
"""

from typing import ClassVar

from torch import nn

from dit_lab.models.layers import ModulatedNorm, PlainNorm

BLOCKS: dict[str, type["Block"]] = {}


class Block(nn.Module):
    """One transformer block: `x: b n d, cond: b k d -> b n d`, around an `attn` and an `mlp` it is given.

    `attn` and `mlp` map `b n d -> b n d`; a U-shaped model passes its downsampled attention and convolutional MLP.
    `modulated` says whether the model's final norm is modulated by the condition too. `readers` names the submodules
    that alone read the condition, so that what they make of it can be made before a sampling run; none: it may be read
    anywhere.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    modulated: ClassVar[bool] = False
    readers: ClassVar[tuple[str, ...]] = ()

    def __init__(self, dim: int, heads: int, attn: nn.Module, mlp: nn.Module):
        super().__init__()
        self.attn = attn
        self.mlp = mlp

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "name" in vars(cls):
            BLOCKS[cls.name] = cls

    @staticmethod
    def enter(x, cond):
        """Before the first block: `x: b n d, cond: b k d -> b m d`. The identity, unless the condition joins in."""
        return x

    @staticmethod
    def exit(x, cond):
        """After the last block, the inverse of `enter`: `x: b m d, cond: b k d -> b n d`."""
        return x

    @classmethod
    def final_norm(cls, dim: int) -> nn.Module:
        """The norm before the model's last linear: `x: b n d, cond: b k d -> b n d`."""
        return ModulatedNorm(dim) if cls.modulated else PlainNorm(dim)
