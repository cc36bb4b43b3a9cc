"""A network of one's own: any `model(x, t, y)`, with what sampling, recording and training ask of a model beside it."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import ClassVar

import torch
from torch import nn

from dit_lab.diffusion.objectives import objective, process_of
from dit_lab.diffusion.whole import whole
from dit_lab.program import quoted

MOST = 2**20  # of a side, channels or classes: beyond, it is a slip of the finger


@dataclass(frozen=True)
class Task:
    """What a network is for, without a word on how it is built: the fields of a config that sampling and training read.

    `input_size` is a side or (rows, columns). `prediction` is by itself what the `schedule` is for: eps, or in flow
    matching the velocity. Raises ValueError on what cannot be.
    """

    architecture: ClassVar[str] = "a network of one's own"

    input_size: int | tuple[int, int]
    in_channels: int
    num_classes: int = 0
    learned_variance: bool = False
    prediction: str | None = None
    schedule: str = "linear"
    null_label: bool = True

    def __post_init__(self):
        size = tuple(self.input_size) if isinstance(self.input_size, list) else self.input_size
        square = isinstance(size, tuple) and len(size) == 2 and size[0] == size[1]
        object.__setattr__(self, "input_size", size[0] if square else size)
        sides = self.size if isinstance(self.size, tuple) else ()
        if len(sides) != 2 or not all(whole(side) and 1 <= side <= MOST for side in sides):
            raise ValueError(f"input_size must be a side or (rows, columns), whole numbers, not {quoted(size)}")
        for name, least in ("in_channels", 1), ("num_classes", 0):
            if not whole(value := getattr(self, name)) or not least <= value <= MOST:
                raise ValueError(f"{name} must be a whole number of at least {least}, not {quoted(value)}")
        for name in "learned_variance", "null_label":
            if not isinstance(value := getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, not {quoted(value)}")
        if not isinstance(self.schedule, str) or not isinstance(self.prediction, str | None):
            raise ValueError(f"schedule and prediction are names, not {quoted((self.schedule, self.prediction))}")
        object.__setattr__(self, "prediction", objective(self.schedule, self.prediction)["prediction"])
        process_of(self)

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the input."""
        return (self.input_size, self.input_size) if isinstance(self.input_size, int) else self.input_size

    def as_json(self) -> dict:
        """The fields, and the word that there is no more to say."""
        return {"architecture": self.architecture, **asdict(self)}


class Described(nn.Module):
    """A network and its `config`: `x: b c h w, t: b, y: b -> b c h w`, or `b (2c) h w` with learned variance.

    Raises ValueError where the network gives another shape. What else is asked of it, its blocks say, is the network's.
    """

    def __init__(self, network: Callable, config):
        super().__init__()
        self.network, self.config = network, config
        if not any(True for _ in self.parameters()):
            self.place = nn.Parameter(torch.zeros(()), requires_grad=False)  # where a function computes, and in what

    def forward(self, x, t, y):
        made = self.network(x, t, y)
        b, c, h, w = x.shape
        expected = (b, 2 * c if self.config.learned_variance else c, h, w)
        if not isinstance(made, torch.Tensor) or tuple(made.shape) != expected:
            there = f"one of {tuple(made.shape)}" if isinstance(made, torch.Tensor) else f"a {type(made).__name__}"
            raise ValueError(f"for x of {(b, c, h, w)} the network must give a tensor of {expected} and gave {there}")
        return made

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            network = self.__dict__.get("_modules", {}).get("network")
            if network is None:
                raise
            return getattr(network, name)


def described(network: Callable, config=None, **told) -> Described:
    """Any `network(x, t, y)`, a function or a module, as `sample`, `record` and `train` take a model.

    `config` is one that fits it (a `DiTConfig`, another model's), or the fields of a `Task` are `told`: of a data set
    `**taking(images)`, then `schedule` and `prediction`. The weights of a module are trained; a function has none.
    Raises ValueError where it cannot be called, or a field is wrong.
    """
    if not callable(network):
        raise ValueError(f"a network is a function or a module that is called with x, t and y, not {quoted(network)}")
    known = [field.name for field in fields(Task if config is None else config)]
    if others := [name for name in told if name not in known]:
        raise ValueError(f"there is no field {quoted(others[0])}; there are {', '.join(known)}")
    if config is None and (lacking := [name for name in ("input_size", "in_channels") if name not in told]):
        raise ValueError(f"say {' and '.join(lacking)} of the network, or give a config or **taking(images)")
    return Described(network, Task(**told) if config is None else replace(config, **told))
