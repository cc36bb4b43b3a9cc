"""dit_lab: learn, train and look inside diffusion transformers.

The public names come from their wings when they are first used, so that importing the package costs nothing.
"""

import sys
from importlib import import_module


def lazily(package: str, homes: dict[str, str]):
    """`__getattr__`, `__dir__` and `__all__` of a package whose names come from their homes when they are first used.

    `homes` maps a name to the module or package below `package` that has it.
    """

    def get(name: str):
        if name not in homes:
            raise AttributeError(f"{package} has no {name!r}; its public names are {', '.join(homes)}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return get, lambda: sorted({*vars(sys.modules[package]), *homes}), list(homes)


__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        "build": "models",
        "preset": "models",
        "count": "models",
        "DiT": "models",
        "DiTConfig": "models",
        "UDiT": "models",
        "UDiTConfig": "models",
        "fold": "models",
        "load": "checkpoints",
        "save": "checkpoints",
        "sample": "diffusion",
        "generate": "diffusion",
        "Diffusion": "diffusion",
        "open_data": "data",
        "train": "training",
        "TrainOptions": "training",
        "record": "inside",
        "Trajectory": "inside",
        "watch": "inside",
    },
)
