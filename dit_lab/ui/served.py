"""A checkpoint as the app serves it: what the page says of it, what a run of it costs, and runs that borrow it."""

import math
from collections.abc import Callable
from functools import cached_property

import torch

from dit_lab.checkpoints import Loaded
from dit_lab.data import Pixels, codec_of
from dit_lab.inside import Trajectory
from dit_lab.models import clocked, count, fast
from dit_lab.models.ahead import laid_out
from dit_lab.models.fast import halves
from dit_lab.panels import Opened
from dit_lab.panels.words import facts
from dit_lab.ui.settings import (
    ETA,
    LARGER,
    MOST_STEPS,
    as_sentence,
    defaults,
    guidable,
    is_square,
    kept_bytes,
    passes,
    qualities,
    read,
    samplers,
)


def held(weight: torch.Tensor) -> tuple[int, int]:
    """What tells a tensor's memory from another's, and its bytes; what a kernel laid out itself has no storage."""
    if weight.layout is not torch.strided:
        return id(weight), weight.numel() * weight.element_size()
    storage = weight.untyped_storage()
    return storage.data_ptr(), storage.nbytes()


class Lent(Opened):
    """A run that asks for its model and codec when they are looked at: to keep it keeps no model in memory."""

    def __init__(self, lend: Callable[[], "Served"], trajectory: Trajectory, **told):
        self.lend = lend
        super().__init__(trajectory, **told)

    # `Opened` sets both, to nothing here.
    model = property(lambda self: self.lend().model, lambda self, _: None)
    codec = property(lambda self: self.lend().codec, lambda self, _: None)


class Served:
    """A loaded checkpoint with its codec, opened when a picture is first wanted, and what is measured of it."""

    def __init__(self, name: str, loaded: Loaded, vae: str | None, device: torch.device, compile: bool = False):
        self.name, self.loaded, self.vae, self.device = name, loaded, vae, device
        self.model, self.config = loaded.model, loaded.config
        self.labels = [str(label) for label in loaded.labels or []]
        self.seconds: dict[tuple, float] = {}  # of a pass, by precision, pictures and size
        self.compile, self.shapes = compile, set()  # of the runs whose steps are compiled already
        self.running = {} if compile else {"fp32": self.model}

    @cached_property
    def codec(self):
        return codec_of(self.loaded, self.vae, self.device)

    @cached_property
    def macs(self) -> int:
        return count(self.config).macs

    @property
    def bytes(self) -> int:
        """Of the weights, those of other precisions among them, and those that are laid out for a CPU's kernels.

        What twins share counts once.
        """
        models = self.model, *self.running.values()
        weights = [w for model in models for w in (*model.parameters(), *laid_out(model))]
        return sum(dict(map(held, weights)).values())

    @property
    def precisions(self) -> list[str]:
        there = halves(self.device)
        return ["fp32", *there, *(["auto"] if there else [])]

    def fast(self, precision: str):
        """The model that samples in a precision: itself in fp32, else, or where it is compiled, a twin made once."""
        if precision not in self.running:
            self.running[precision] = fast(self.model, precision=precision, compile=self.compile)
        return self.running[precision]

    def gives_up(self) -> None:
        """Compile nothing from here on, where it failed."""
        self.compile, self.running = False, {"fp32": self.model}

    def about(self) -> dict:
        """What the page says of the checkpoint, and what it can be asked for."""
        config = self.config
        parameters = sum(p.numel() for p in self.model.parameters())
        told = facts(config, parameters, latent=not isinstance(self.codec, Pixels))
        told |= {"Runs": self.runs("fp32")}
        sizes = {"trained": config.input_size, "most": LARGER * config.input_size} if is_square(config) else None
        return {
            "name": self.name, "title": self.name, "note": as_sentence(self.loaded.note),
            "facts": [{"name": name, "text": text} for name, text in told.items()],
            "codecNote": as_sentence(self.codec.note), "classes": self.labels,
            "defaults": defaults(config, self.name, self.loaded.qualities),
            "qualities": qualities(config, self.loaded.qualities),
            "samplers": samplers(config), "channels": config.in_channels,
            "guidable": guidable(config), "etaSamplers": ETA, "precisions": self.precisions, "macs": self.macs,
            "sizes": sizes, "steps_max": MOST_STEPS, "device": self.device.type,
        }  # fmt: skip

    def runs(self, precision: str) -> str:
        """What runs where, in a precision that was asked for: of auto what came out, once it has run."""
        asked = precision + ", compiled" * self.compile
        return f"{getattr(self.running.get(precision), 'speed', asked)} on {self.device.type}"

    def cost(self, settings: dict) -> dict:
        """What a run with these settings would take: passes, MACs of one, seconds, bytes kept; and what then runs.

        Raises ValueError on settings that make no sense.
        """
        labels, options, precision = read(self.config, self.precisions, settings)
        pace = self.pace(precision, len(labels), options.get("size"))
        return {
            "passes": passes(options, len(labels)), "macs": self.macs,
            "seconds": None if pace is None else pace * passes(options, 1),
            "bytes": kept_bytes(self.config, options, len(labels)), "runs": self.runs(precision),
        }  # fmt: skip

    def pace(self, precision: str, pictures: int, size: int | None) -> float | None:
        """Seconds of a pass, as it was measured, or by the measured one that is most alike, as the pixels go."""
        if not self.seconds:
            return None
        pixels = lambda key: key[1] * (key[2] ** 2 if key[2] else math.prod(self.config.size))
        wanted = precision, pictures, size
        key = min(self.seconds, key=lambda key: (key[0] != precision, abs(math.log(pixels(key) / pixels(wanted)))))
        return self.seconds[key] * pixels(wanted) / pixels(key)

    def measured(self) -> float:
        """Seconds of a pass of one picture in fp32, measured where nothing was yet; in the model's thread."""
        if not self.seconds:
            x = torch.zeros(1, self.config.in_channels, *self.config.size, device=self.device)
            nothing = torch.zeros(1, dtype=torch.long, device=self.device)
            with torch.no_grad():
                self.model(x, nothing, nothing)  # warms up
                self.seconds["fp32", 1, None] = clocked(lambda: self.model(x, nothing, nothing), self.device)
        return self.pace("fp32", 1, None)
