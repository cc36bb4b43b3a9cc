"""Named models: the paper's twelve (table 1: S, B, L, XL, each with patches of 2, 4, 8) and small ones for learning."""

from dataclasses import fields, replace
from difflib import get_close_matches

from dit_lab.models.blocks import BLOCKS
from dit_lab.models.config import Config
from dit_lab.models.dit import DiT, DiTConfig
from dit_lab.models.udit import UDiT, UDiTConfig
from dit_lab.program import quoted

SIZES = {
    "XL": dict(depth=28, dim=1152, heads=16),
    "L": dict(depth=24, dim=1024, heads=16),
    "B": dict(depth=12, dim=768, heads=12),
    "S": dict(depth=12, dim=384, heads=6),
    "tiny": dict(depth=6, dim=128, heads=4),
    "nano": dict(depth=4, dim=96, heads=4),
}
U_SIZES = {"L": dict(dim=384, heads=16), "B": dict(dim=192, heads=8), "S": dict(dim=96, heads=4)}
U_TINY = dict(dim=24, heads=2, depths=(1, 1, 2, 1, 1))  # heads of 12 features: RoPE needs a multiple of 4
MODELS = {DiTConfig: DiT, UDiTConfig: UDiT}

# U-DiT's argument, step by step (sections 3 and 5.4): each rung changes one field of the one before. The first step
# alone changes the architecture, and with it the width, so that both have the same MACs.
UNET = UDiTConfig(
    dim=48, heads=4, depths=(1, 1, 2, 1, 1), mlp_ratio=4.0, downsample="none", cosine=False, rope=False, mlp="plain"
)
RUNGS = {
    "kv": dict(downsample="kv"),
    "token": dict(downsample="token"),
    "cosine": dict(cosine=True),
    "rope": dict(rope=True),
    "depthwise": dict(mlp="depthwise"),
    "reparameterised": dict(mlp="reparameterised"),
}


def ladder() -> dict[str, Config]:
    """The rungs of U-DiT's toy experiment by name, from DiT-S/4 up."""
    rungs = {"isotropic": DiTConfig(**SIZES["S"], patch_size=4), "unet": UNET}
    for name, change in RUNGS.items():
        rungs[name] = replace(list(rungs.values())[-1], **change)
    return {f"toy/{name}": config for name, config in rungs.items()}


PRESETS = {
    **{f"DiT-{size}/{p}": DiTConfig(**shape, patch_size=p) for size, shape in SIZES.items() for p in (2, 4, 8)},
    **{f"U-DiT-{size}": UDiTConfig(**shape) for size, shape in {**U_SIZES, "tiny": U_TINY}.items()},
    **ladder(),
}


def preset(name: str, **changes) -> Config:
    """The config of a preset with some fields changed, say `preset("DiT-S/4", num_classes=10)`.

    Raises ValueError that names the nearest presets, or the fields there are.
    """
    if name not in PRESETS:
        near = get_close_matches(name, PRESETS, n=3, cutoff=0.3)
        there = f"the nearest are {', '.join(near)}" if near else f"there are {', '.join(PRESETS)}"
        raise ValueError(f"there is no preset {quoted(name)}; {there}")
    return changed(PRESETS[name], **changes)


def taking(images) -> dict:
    """The fields of a config that a data set decides (an `Images` or `Latents`)."""
    channels, *side = images.shape
    return dict(in_channels=channels, input_size=tuple(side), num_classes=len(images.names))


def config_of(fields: dict) -> Config:
    """The way back from `Config.as_json`; a DiT where no architecture is named. Raises ValueError."""
    named = dict(fields)
    name = named.pop("architecture", DiTConfig.architecture)
    kinds = {kind.architecture: kind for kind in MODELS}
    if not isinstance(name, str) or name not in kinds:
        raise ValueError(f"there is no architecture {quoted(name)}; there are {', '.join(kinds)}")
    if wrong := unknown(kinds[name], named):
        raise ValueError(wrong)
    return kinds[name](**named)


def changed(config: Config, **changes) -> Config:
    """A config with some fields changed. Raises ValueError that names the fields there are."""
    if wrong := unknown(config, changes):
        raise ValueError(f"{wrong}; its fields are {', '.join(field.name for field in fields(config))}")
    return replace(config, **changes)


def unknown(config: Config | type[Config], changes: dict) -> str:
    """A sentence on fields that a config, or its class, does not have; empty where it has them all."""
    others = sorted(set(changes) - {field.name for field in fields(config)})
    named = ", ".join(quoted(name, 40)[1:-1] for name in others[:3])
    return f"a {config.architecture} config has no field {named}" if others else ""


def build(model: str | Config, **changes) -> DiT | UDiT:
    """Make a freshly initialised model from a preset's name or a config; the only place that resolves a block's name.

    `build("DiT-XL/2", block="adaln_zero", input_size=32, num_classes=1000)`. Raises ValueError on an unknown preset,
    block or field.
    """
    config = preset(model, **changes) if isinstance(model, str) else changed(model, **changes)
    if config.block not in BLOCKS:
        raise ValueError(f"there is no conditioning block {quoted(config.block)}; there are {', '.join(BLOCKS)}")
    return MODELS[type(config)](config, BLOCKS[config.block])
