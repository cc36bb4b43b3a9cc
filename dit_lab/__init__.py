"""dit_lab: learn, train and look inside diffusion transformers.

The public names come from their modules when they are first used, so that importing the package costs nothing.
"""

from importlib import import_module

PUBLIC = {
    "build": "models.presets",
    "preset": "models.presets",
    "DiT": "models.dit",
    "DiTConfig": "models.dit",
    "UDiT": "models.udit",
    "UDiTConfig": "models.udit",
    "fold": "models.udit",
    "load": "checkpoints",
    "save": "checkpoints",
    "sample": "diffusion.sampling",
    "generate": "diffusion.sampling",
    "Diffusion": "diffusion.gaussian",
    "open_data": "data.images",
    "record": "inside.trajectory",
    "Trajectory": "inside.trajectory",
    "watch": "inside.trace",
}
__all__ = list(PUBLIC)


def __getattr__(name: str):
    if name not in PUBLIC:
        raise AttributeError(f"dit_lab has no {name!r}; its public names are {', '.join(PUBLIC)}")
    return getattr(import_module(f"dit_lab.{PUBLIC[name]}"), name)


def __dir__():
    return sorted([*globals(), *PUBLIC])
