"""A run as work for the scheduler: a step a unit, with a preview of what comes, and a recorded run at the end."""

import time
from collections.abc import Generator
from contextlib import suppress

import torch

from dit_lab.data import Autoencoder, Pixels
from dit_lab.diffusion import Diffusion, Step, check_finite, how_many, process_of, sample
from dit_lab.inside import Recording, Trajectory
from dit_lab.panels import Opened
from dit_lab.panels.packing import atlas
from dit_lab.panels.trajectory import preview
from dit_lab.program import quoted
from dit_lab.ui.checkpoints import Checkpoints
from dit_lab.ui.scheduler import Halt
from dit_lab.ui.served import Served
from dit_lab.ui.settings import passes, read

PREVIEW_SECONDS = 0.1
DECODES = 8  # pictures that a VAE decodes on the way, of a run that has more steps
# Samplers whose last step goes to the predicted x0 whatever came before: a run that was stopped after some of its steps
# is the run of those steps alone.
ENDED_BY_X0 = "ddim", "ddpm", "euler", "heun", "dpmpp", "unipc", "sde", "dpmpp_sde"


def sampling(checkpoints: Checkpoints, settings: dict, made: dict[str, Served]) -> Generator[dict, None, Opened | None]:
    """Sample with the settings that a page sent; yields news after every step and gives the run, opened.

    News is `{step, steps, t, left, preview}`, with pictures at most every `PREVIEW_SECONDS`: steps done, seconds left
    by the pace so far, and `{pictures, batch}`. Where it is halted it gives the steps so far, or None before the first.
    Raises ValueError on settings and pictures that make no sense.
    """
    name = settings.get("checkpoint")
    served = checkpoints.get(name, made)
    labels, options, precision = read(served.config, served.precisions, settings)
    clip = None if isinstance(served.codec, Pixels) else False
    yield from compiling(served, precision, labels, options | {"clip_x0": clip})
    model, total = served.fast(precision), how_many(options["steps"])
    walk, halted = Walk(served, Recording(model, labels, **options, clip_x0=clip), total), False
    try:
        yield from walk.news()
    except Halt:
        halted = True
    if not (done := len(walk.steps)):
        return None
    each = passes(options | {"steps": done}, 1)
    served.seconds[precision, len(labels), options.get("size")] = walk.seconds / each
    decoded = {0: torch.cat(walk.decoded)} if len(walk.decoded) == done else None
    opened = checkpoints.opened(name, stopped(walk) if halted else walk.recording.trajectory, made, decoded)
    speed = getattr(model, "speed", None)  # of auto, what was chosen
    ran, code = (speed.precision, speed.compiled) if speed else (precision, False)
    opened.options = walk.recording.options
    opened.made = {"precision": ran} | ({"compiled": True} if code else {})
    opened.note = noted(ran, code, done if halted else None, total)
    for at in opened.decoding(0):  # of a VAE, whose pictures take their time
        with suppress(Halt):  # the steps are there; a second stop ends this too
            yield {"step": done, "steps": total, "left": None, "told": f"decoding step {at + 1} of {done}"}
    return opened


def compiling(served: Served, precision: str, labels: list[int], options: dict) -> Generator[dict, None, None]:
    """Have the steps of runs like this one compiled where they are to be and are not yet, by a step that nobody sees.

    Compiled code is of one shape, so it is made for each number of pictures and each size, guided or not. Where it
    fails it is said, and the model runs as it is.
    """
    guided = options.get("cfg_scale", 1.0) != 1
    shape = precision, len(labels), options.get("size"), guided, guided and options.get("cfg_interval") is not None
    if not served.compile or shape in served.shapes:
        return
    pictures = f"{len(labels)} picture{'s' * (len(labels) > 1)}"
    yield {"told": f"compiling the steps of {pictures}, which takes a minute or so, the first time alone"}
    try:
        next(sample(served.fast(precision), labels, **options))
        served.shapes.add(shape)
    except (RuntimeError, OSError) as error:  # of the compiler, or of where its code is written
        served.gives_up()
        why = quoted(str(error).partition("\n")[0], 120)
        yield {"told": f"compiling failed, so the steps run as they are ({why})"}


class Walk:
    """The steps of a run as they come, what they took, and x0 of the first picture where each step's is decoded."""

    def __init__(self, served: Served, recording: Recording, total: int):
        self.served, self.recording, self.total = served, recording, total
        self.steps: list[tuple] = []  # t, x, x0 and eps
        self.seconds, self.shown, self.decoded = 0.0, 0.0, []
        self.latent = isinstance(served.codec, Autoencoder)
        self.stride = max(1, total // DECODES) if self.latent else 1

    def news(self) -> Generator[dict, None, None]:
        """Take all steps, one a `next`. Raises ValueError where one comes to NaN."""
        steps = iter(self.recording)
        while True:
            began = time.monotonic()
            step = next(steps, None)
            if step is None:
                return
            check_finite("the picture", step.x0, step.previous)
            self.seconds += time.monotonic() - began
            self.steps.append((step.t, step.x, step.x0, step.eps))
            yield self.told(step)

    def told(self, step: Step) -> dict:
        """The news of a step, with pictures where they are due."""
        done, picture, now = step.index + 1, None, time.monotonic()
        if not self.latent:  # decoded as they come, so that no wait follows the last
            picture = self.served.codec.decode(step.x0[:1].cpu())
            self.decoded.append(picture)
        left = self.seconds / done * (self.total - done)
        news = {"step": done, "steps": self.total, "t": round(step.t, 1), "left": round(left, 2)}
        if now - self.shown < PREVIEW_SECONDS or done == self.total or step.index % self.stride:
            return news
        self.shown = now
        shown = {"pictures": preview(step, self.served.codec, 0, picture)}
        if len(step.x0) > 1 and not self.latent:
            shown["batch"] = atlas(self.served.codec.decode(step.x0.cpu()))
        return news | {"preview": shown}


def stopped(walk: Walk) -> Trajectory:
    """The steps that were taken before a run was stopped, as a run whose sample is the last predicted x0.

    Of most samplers of a diffusion that is the run of these timesteps alone; of others, whose steps would fall
    elsewhere, a run of a process of its own, which cannot be walked again.
    """
    recording, (t, *tensors) = walk.recording, zip(*walk.steps, strict=True)
    x, x0, eps = (torch.stack(tensor).cpu() for tensor in tensors)
    again = isinstance(process_of(recording.config), Diffusion) and recording.options["sampler"] in ENDED_BY_X0
    options = recording.options | {"steps": list(t) if again else len(t)}
    return Trajectory(recording.config, recording.labels, options, list(t), x, x0, eps, x0[-1].clone())


def noted(precision: str, compiled: bool, done: int | None, total: int) -> str:
    """What is to be said of a run besides its settings, "" where there is nothing."""
    parts = [f"Stopped after step {done} of {total}: its picture is the last prediction."] if done else []
    if precision != "fp32":
        parts.append(f"Sampled in {precision}; looks run each step again in fp32, so they differ by its rounding.")
    elif compiled:
        parts.append("Sampled by compiled code; looks run each step again as it is, and differ by rounding.")
    return " ".join(parts)
