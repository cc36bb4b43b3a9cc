"""How conditioning enters: one block, one file. Every module in this folder is imported, so each registers itself."""

from importlib import import_module
from pkgutil import iter_modules

from dit_lab.models.blocks.base import BLOCKS, Block

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["BLOCKS", "Block"]
