"""Named models: the paper's twelve (table 1: S, B, L, XL, each with patches of 2, 4, 8) and small ones for learning."""

from dataclasses import fields, replace
from difflib import get_close_matches

from dit_lab.blocks import BLOCKS
from dit_lab.dit import DiT, DiTConfig

SIZES = {
    "XL": dict(depth=28, dim=1152, heads=16),
    "L": dict(depth=24, dim=1024, heads=16),
    "B": dict(depth=12, dim=768, heads=12),
    "S": dict(depth=12, dim=384, heads=6),
    "tiny": dict(depth=6, dim=128, heads=4),
    "nano": dict(depth=4, dim=96, heads=4),
}
PRESETS = {f"DiT-{size}/{patch}": dict(shape, patch_size=patch) for size, shape in SIZES.items() for patch in (2, 4, 8)}


def preset(name: str, **changes) -> DiTConfig:
    """The config of a preset with some fields changed, say `preset("DiT-S/4", num_classes=10)`.

    Raises ValueError that names the nearest presets, or the fields there are.
    """
    if name not in PRESETS:
        near = get_close_matches(name, PRESETS, n=3, cutoff=0.3)
        there = f"the nearest are {', '.join(near)}" if near else f"there are {', '.join(PRESETS)}"
        raise ValueError(f"there is no preset {name!r}; {there}")
    return changed(DiTConfig(**PRESETS[name]), **changes)


def changed(config: DiTConfig, **changes) -> DiTConfig:
    """A config with some fields changed. Raises ValueError that names the fields there are."""
    known = [field.name for field in fields(config)]
    if unknown := sorted(set(changes) - set(known)):
        raise ValueError(f"a DiT config has no field {', '.join(unknown)}; its fields are {', '.join(known)}")
    return replace(config, **changes)


def build(model: str | DiTConfig, **changes) -> DiT:
    """Make a freshly initialised DiT from a preset's name or a config; the only place that resolves a block's name.

    `build("DiT-XL/2", block="adaln_zero", input_size=32, num_classes=1000)`. Raises ValueError on an unknown preset,
    block or field.
    """
    config = preset(model, **changes) if isinstance(model, str) else changed(model, **changes)
    if config.block not in BLOCKS:
        raise ValueError(f"there is no conditioning block {config.block!r}; there are {', '.join(BLOCKS)}")
    return DiT(config, BLOCKS[config.block])
