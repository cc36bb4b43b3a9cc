"""Training in the app: a small DiT learns scikit-learn's digits, a short part at a time, and is kept if one likes.

Nothing is written but what `keep` is asked to, into the folder that is given.
"""

import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from time import perf_counter

import torch
from einops import rearrange

from dit_lab.checkpoints import Loaded, load, save
from dit_lab.data import Images, open_data
from dit_lab.diffusion import objective
from dit_lab.models import build, count, one_thread, taking
from dit_lab.panels.training import Settings, Watching, checked, look_steps
from dit_lab.program import quoted
from dit_lab.training import NonFiniteLoss, TrainOptions, train

DIM, HEADS = 64, 4
# Small models bear a high learning rate after a few steps of warm-up, and a short run an average that forgets sooner.
OPTIONS = TrainOptions(batch_size=64, warmup=30, ema_decay=0.995, precision="fp32")
EVERY = 5  # steps between two states, where no look comes between
PROBED = 5  # steps of a model that was not measured yet
NAME = re.compile("[A-Za-z0-9](?:[A-Za-z0-9 _-]{0,38}[A-Za-z0-9])?")
MOST_KEPT = 12  # checkpoints of a session
# Seconds of a step and of a look, by what they depend on: the newest that were measured.
MEASURED: dict[tuple, tuple[float, float]] = {}


@lru_cache(maxsize=1)
def digits() -> Images:
    """What is trained on."""
    return open_data("digits")


def reader(images: Images):
    """What reads samples: `x: b c h w ->` the label of the training picture that each is nearest to."""
    pictures, labels = images.batch(range(len(images)))
    flat = lambda x: rearrange(x, "b c h w -> b (c h w)")
    return lambda x: labels[torch.cdist(flat(x.clamp(-1, 1)), flat(pictures)).argmin(1)].tolist()


def new_model(settings: Settings):
    """The model of a run: flow matching, which learns the fastest, and nobody's random numbers disturbed."""
    with torch.random.fork_rng([]):
        torch.manual_seed(settings.seed)
        shape = dict(dim=DIM, heads=HEADS, depth=settings.depth, patch_size=settings.patch_size, block=settings.block)
        return build("DiT-nano/2", **taking(digits()), **objective("flow"), **shape)


def watched(settings: dict, folder) -> "Training":
    """A training run as an iterator of states (`Watching.state`): each `next` is one step, or a part of a look.

    There is a new state every `EVERY` steps and after each look; in between, `next` gives the last one again. Raises
    ValueError, in one sentence, on settings that make no sense, before any work.
    """
    return Training(checked(settings), folder)


def cost(settings: dict) -> dict:
    """What a run takes, from a few measured steps of its model: seconds, parameters and MACs of a picture.

    Raises ValueError, as `watched` does.
    """
    asked = checked(settings)
    if shape(asked) not in MEASURED:
        probe = Training(replace(asked, steps=PROBED), None)
        for _ in probe:
            pass
    step, look = MEASURED[shape(asked)]
    table, seconds = count(new_model(asked)), asked.steps * step + len(look_steps(asked.steps)) * look
    return {"seconds": round(seconds, 1), "perStep": step, "parameters": table.trained, "macs": table.macs}


def shape(settings: Settings) -> tuple:
    """What a step's seconds depend on."""
    return settings.block, settings.depth, settings.patch_size


class Training(Iterator):
    """A run that is under way: `state` is its newest, `keep` writes its checkpoint, `close` stops it."""

    def __init__(self, settings: Settings, folder):
        self.settings, self.folder, images = settings, folder, digits()
        model = new_model(settings)
        self.average = deepcopy(model)
        self.watching = Watching(
            self.average, images, settings.steps, name=settings.name, settings=settings.words, read=reader(images)
        )
        options = replace(OPTIONS, steps=settings.steps, lr=settings.lr, seed=settings.seed)
        self.state = self.watching.state()
        self.parts = self.working(train(model, images, options, average=self.average))

    def __next__(self) -> dict:
        with one_thread():
            next(self.parts)
        return self.state

    def working(self, steps) -> Iterator[None]:
        """The run, a short part at a time."""
        try:
            yield from self.looking()
            while self.watching.step < self.settings.steps:
                began = perf_counter()
                step = next(steps)
                self.watching.note(step.step, step.loss, perf_counter() - began)
                if self.watching.due():
                    yield from self.looking()
                elif step.step % EVERY == 0:
                    self.state = self.watching.state()
                yield
            self.end("done", "")
        except NonFiniteLoss as error:
            self.end("failed", f"Training diverged: {error}.")
        finally:
            steps.close()
        yield

    def looking(self) -> Iterator[None]:
        """A look at the average as it is now."""
        yield from self.watching.looking()
        self.state = self.watching.state()

    def end(self, status: str, told: str) -> None:
        """The run is over, however it went."""
        self.state = self.watching.state(status, told)
        if self.watching.seconds:
            MEASURED[shape(self.settings)] = (self.state["perStep"], self.watching.look_seconds)

    def close(self) -> dict:
        """Stop, and give the last state; what was learnt can still be kept. A run that is over stays as it is."""
        self.parts.close()
        if self.state["state"] == "running":
            self.end("stopped", "")
        return self.state

    def keep(self, name) -> Loaded:
        """Write the averaged weights as they are now into a folder of that name, and open it as any checkpoint.

        Raises ValueError on a name that makes no folder, or is taken, and where a session has kept enough.
        """
        if not isinstance(name, str) or not NAME.fullmatch(name):
            told = "1 to 40 letters, digits, spaces, - or _, with a letter or digit at both ends"
            raise ValueError(f"A checkpoint's name is {told}, not {quoted(name)}.")
        place, kept = Path(self.folder) / name, [*Path(self.folder).glob("*/")]
        if place.exists():
            raise ValueError(f"There is a checkpoint {name} already; give this one another name.")
        if len(kept) >= MOST_KEPT:
            raise ValueError(f"{len(kept)} checkpoints are kept already, which is all that a session may.")
        made = {"trained_steps": self.watching.step, "ema_decay": OPTIONS.ema_decay}
        save(place, self.average, labels=digits().names, codec_hint=digits().codec, extra=made)
        return replace(load(place), source=name)
