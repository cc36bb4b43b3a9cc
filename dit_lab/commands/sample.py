"""`python -m dit_lab sample`: draw pictures with a checkpoint and write them as one PNG."""

import os
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from tqdm.auto import tqdm

from dit_lab.checkpoints import Told, load
from dit_lab.data import Pixels, class_numbers, codec_of, named_classes, write_grid
from dit_lab.data.classes import names_of, namesakes
from dit_lab.data.given import given_picture
from dit_lab.data.pictures import say
from dit_lab.diffusion import (
    QUALITIES,
    SAMPLERS,
    Unusual,
    check_finite,
    check_walk,
    chosen,
    from_picture,
    how_many,
    late,
    process_of,
)
from dit_lab.files import apart, make_folder, writable
from dit_lab.inside import Recording
from dit_lab.models import COMPILE, PRECISION, fast, pick_device


@dataclass(frozen=True)
class Walk(Unusual):
    """Ways of walking that are not the usual one, and what is begun with."""

    from_picture: Path | None = None
    """A picture to begin with, for all labels, instead of noise alone."""
    strength: float | None = None
    """Which share of the steps is walked from the picture, 0 to 1 (default: 0.6, with a mask 1): of even steps so much
    of the way back to noise, of Karras' or of one's own more or less."""
    mask: Path | None = None
    """A picture as large as that one, white where it is drawn anew and black where it is kept."""

    def check_begun(self, steps) -> None:
        """Raise ValueError where no picture is begun with that should be, and on files that are not there."""
        if self.from_picture is None:
            check_walk(steps)
        for name, value in ("strength", self.strength), ("mask", self.mask):
            if value is not None and self.from_picture is None:
                raise ValueError(f"--{name} is for a picture that is begun with: give it by --from-picture")
        for path in filter(None, (self.from_picture, self.mask)):
            if not path.is_file():
                raise ValueError(f"there is no file {path}")

    def begun(self, model, codec, size, **options) -> dict:
        """The options of sampling, some of them changed where a picture is begun with."""
        if self.from_picture is None:
            return options
        config = model.config if size is None else replace(model.config, input_size=size)
        picture, mask = given_picture(self.from_picture, self.mask, codec, config.in_channels, config.size)
        strength = (0.6 if mask is None else 1.0) if self.strength is None else self.strength
        return options | from_picture(model, picture, mask=mask, strength=strength, **options)


def sample_command(
    source: str,
    /,
    told: Annotated[Told, tyro.conf.arg(name="")] = Told(),  # noqa: B008
    *,
    labels: tuple[str, ...],
    out: Path,
    size: int | tuple[int, int] | None = None,
    seed: int = 0,
    quality: Literal[tuple(QUALITIES)] | None = None,
    steps: int | tuple[int | float, ...] | None = None,
    sampler: Literal[tuple(SAMPLERS)] | None = None,
    eta: float = 0.0,
    cfg_scale: float = 1.0,
    cfg_channels: int | None = None,
    cfg_interval: tuple[float, float] | None = None,
    weights: Literal["ema", "model"] = "ema",
    vae: str | None = None,
    trace: Path | None = None,
    walk: Annotated[Walk, tyro.conf.arg(name="")] = Walk(),  # noqa: B008
    device: str = "auto",
    precision: PRECISION = "auto",
    compile: Literal[tuple(COMPILE)] = "auto",
) -> None:
    """Draw one picture a label with a checkpoint and write them, side by side, as a PNG.

    Args:
        source: A zoo name such as mnist, a checkpoint's folder or file, or a hub id.
        told: What the checkpoint's file may not say of its model.
        labels: Classes, one a picture, by number or by name, digits always a number; null, or the number of classes
            itself, is the null label.
        out: The PNG to write.
        size: Side, or rows and columns, of what is drawn, in pixels of the model's own, latents or pictures, where that
            is not the trained size; a model of latents of 8 pixels takes 64 for pictures of 512.
        seed: Fixes the noise.
        quality: A sampler and its steps by name, instead of those two: draft, good, or the paper's own. Checkpoints may
            have better ones of their own.
        steps: Denoising steps (default: 50), or the timesteps themselves, two or more, noisiest first.
        sampler: How to step (default: ddim).
        eta: DDIM's noise, 0 (none) to 1 (as much as DDPM).
        cfg_scale: Guidance; 1 is none.
        cfg_channels: Guide only the first channels (the original: 3 of 4).
        cfg_interval: Guide only between these two timesteps.
        weights: Which weights of a training checkpoint that holds both.
        vae: Folder or hub id of the VAE of a latent model, instead of the one its config names.
        trace: Also write the trajectory to this file.
        walk: Ways of walking that are not the usual one.
        device: cpu, cuda, mps, or auto.
        precision: What the blocks compute in: fp32, as in Python but for rounding where steps are compiled or a
            re-parameterised U-DiT is folded; bf16 or fp16, sooner and a little off; or auto, what is faster for this
            model here, found out in a few steps and said.
        compile: Have the steps compiled, which takes a minute or so: auto tries it where the work that is left takes
            ten times as long, and stays with what is faster.
    """
    check_outputs(out, trace)
    walk.check(cfg_scale)
    walk.check_begun(steps)
    check_apart(out, trace, source, walk.from_picture, walk.mask)
    guide = walk.guide
    device = pick_device(device)
    loaded = load(source, weights=weights, device=device, **asdict(told))
    numbers = class_numbers(labels, loaded.labels, loaded.config.num_classes)
    codec = codec_of(loaded, vae, device)
    process = process_of(loaded.config)
    way = chosen(quality, process, sampler, steps, loaded.qualities)
    way = walk.begun(
        loaded.model, codec, size, sampler=way["sampler"], steps=walk.spaced(process, way["steps"]), seed=seed, eta=eta,
        clip_x0=None if isinstance(codec, Pixels) else False,  # latents have no bounds
    )  # fmt: skip
    recorded_of = lambda model: Recording(
        model, numbers, cfg_scale=cfg_scale, cfg_channels=cfg_channels, cfg_interval=cfg_interval, guide=guide,
        **{"size": size} | way,
    )  # fmt: skip
    recorded_of(loaded.model)  # which refuses what cannot be walked, before anything is timed or compiled
    model = fast(
        loaded.model, precision=precision, compile=COMPILE[compile], batch=len(labels) * (1 + (cfg_scale != 1)),
        size=size, forwards=how_many(way["steps"]), tell=say,
    )  # fmt: skip
    recording = recorded_of(model)
    called = named_classes(loaded.labels, names_of(source)), *namesakes(labels, loaded.labels)
    begins = late(process, way["steps"]) if walk.from_picture is None else ""
    for sentence in filter(None, (loaded.note, *called, begins)):
        say(sentence)
    sample = walked(recording, way["steps"], str(model.speed))
    pictures = codec.decode(sample)
    check_finite("a picture", sample, pictures)
    if codec.note:
        print(codec.note)
    write(out, pictures, trace, recording.trajectory)


def check_outputs(out: Path, trace: Path | None) -> None:
    """Raise ValueError or OSError, before any work, where a file cannot be written."""
    if out.suffix.lower() != ".png":
        raise ValueError(f"out must be the name of a .png file, not {out}")
    writable(*filter(None, (out, trace)))


def write(out: Path, pictures: torch.Tensor, trace: Path | None, trajectory) -> None:
    """Write the pictures side by side, and the trajectory where that was asked for, and say so."""
    written = [*filter(None, (out, trace))]
    for path in written:
        make_folder(path.parent)
    write_grid(out, pictures)
    if trace is not None:
        trajectory.save(trace)
    print(f"{', '.join(map(str, written))}: {len(pictures)} {'pictures' if len(pictures) > 1 else 'picture'}")


def check_apart(out: Path, trace: Path | None, *read: str | Path | None) -> None:
    """Raise ValueError where one of the files that are written is one that is read, and would be lost."""
    for one, other in product(filter(None, (out, trace)), [*filter(None, read)]):
        if os.path.isfile(other):  # else it may be a name of the zoo
            apart(one, other)


def walked(recording: Recording, steps: int | list, told: str) -> torch.Tensor:
    """What a run ends with, `b c h w`, under a bar that says what runs."""
    for step in tqdm(recording, total=how_many(steps), unit="step", mininterval=0.5, desc=told):
        sample = step.previous
    return sample
