"""dit_lab: learn, train and look inside diffusion transformers.

The public names come from their modules when they are first used, so that importing the package costs nothing.
"""

from importlib import import_module

PUBLIC = {
    "build": "presets",
    "preset": "presets",
    "DiT": "dit",
    "DiTConfig": "dit",
    "UDiT": "udit",
    "UDiTConfig": "udit",
    "fold": "udit",
    "load": "checkpoints",
    "save": "checkpoints",
    "sample": "sampling",
    "generate": "sampling",
    "Diffusion": "diffusion",
    "open_data": "data",
    "record": "trajectory",
    "Trajectory": "trajectory",
    "watch": "trace",
}
__all__ = list(PUBLIC)


def __getattr__(name: str):
    if name not in PUBLIC:
        raise AttributeError(f"dit_lab has no {name!r}; its public names are {', '.join(PUBLIC)}")
    return getattr(import_module(f"dit_lab.{PUBLIC[name]}"), name)


def __dir__():
    return sorted([*globals(), *PUBLIC])
