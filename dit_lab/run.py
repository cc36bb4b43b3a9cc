"""`python -m dit_lab train`: the command-line caller of `train`, with a bar and a Ctrl-C that saves."""

import signal
import sys
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from tqdm.auto import tqdm

from dit_lab.blocks import BLOCKS
from dit_lab.data import open_data
from dit_lab.diffusion import PREDICTIONS, SCHEDULES
from dit_lab.presets import PRESETS, build
from dit_lab.train import NonFiniteLoss, TrainOptions, train


def train_command(
    options: Annotated[TrainOptions, tyro.conf.arg(name="")] = TrainOptions(),  # noqa: B008
    *,
    out: Path,
    preset: Literal[tuple(PRESETS)] = "DiT-tiny/4",
    block: Literal[tuple(BLOCKS)] = "adaln_zero",
    dim: int | None = None,
    depth: int | None = None,
    heads: int | None = None,
    data: str = "digits",
    split: str = "train",
    size: int | None = None,
    labelled: bool = True,
    prediction: Literal[tuple(PREDICTIONS)] = "eps",
    schedule: Literal[tuple(SCHEDULES)] = "linear",
    learned_variance: bool = True,
    device: str = "auto",
    resume: bool = False,
) -> None:
    """Train a DiT on labelled pictures. Ctrl-C (or SIGTERM) saves and stops; --resume continues, on a CPU bit by bit.

    Exit codes: 0 done, 1 the loss turned NaN, 2 bad input, 130 stopped by Ctrl-C and 143 by SIGTERM, both saved.

    Args:
        options: The run.
        out: Folder for the checkpoint, the state to resume from, and the loss log (log.jsonl).
        preset: Size and patch of the model.
        block: How conditioning enters.
        dim: Width of the tokens, instead of the preset's.
        depth: Number of blocks, instead of the preset's.
        heads: Attention heads, instead of the preset's.
        data: `digits`, a hub id such as ylecun/mnist, or a local folder of parquet files or pictures.
        split: Which part of the data to train on.
        size: Crop pictures to their middle square and resize it to this side (default: as they are).
        labelled: Train with the data's classes; without, the model is unconditional.
        prediction: What the network predicts.
        schedule: The noise schedule.
        learned_variance: Whether the network also predicts the variance of each step.
        device: cpu, cuda, mps, or auto.
        resume: Continue the run in `out`.
    """
    device = pick_device(device)
    images = open_data(data, split=split, size=size, labelled=labelled)
    torch.manual_seed(options.seed)
    channels, *side = images.shape
    shape = {name: value for name, value in dict(dim=dim, depth=depth, heads=heads).items() if value is not None}
    model = build(
        preset, block=block, in_channels=channels, input_size=tuple(side), num_classes=len(images.names),
        prediction=prediction, schedule=schedule, learned_variance=learned_variance, **shape,
    )  # fmt: skip
    steps = train(model.to(device), images, options, out=out, resume=resume)
    try:
        stopped = follow(steps, options.steps)
    except NonFiniteLoss as error:
        print(f"dit_lab: {error}", file=sys.stderr)
        sys.exit(1)
    if stopped:
        print(f"dit_lab: stopped and saved in {out}; the same command with --resume continues", file=sys.stderr)
        sys.exit(128 + stopped)


def follow(steps, total: int) -> int | None:
    """Drive a training generator under a bar; returns the signal that stopped it, None where it came to its end."""
    # A log file gets a line twice a minute, a terminal twice a second.
    interval = 0.5 if sys.stderr.isatty() else 30
    with closing(steps), stop_flag() as stopped, tqdm(total=total, unit="step", mininterval=interval) as bar:
        for step in steps:
            rates = f"{step.images_per_second:.0f} images/s"
            losses = f"loss {step.loss:.4f}, mse {step.mse:.4f}, vb {step.vb:.5f}"
            bar.set_postfix_str(f"{losses}, {rates}", refresh=False)
            if bar.n == 0:
                bar.initial = bar.n = step.step - 1
            bar.update()
            if stopped and step.step < total:
                return stopped[0]
        if bar.n == 0:
            bar.write("this run has all its steps already; ask for more with --steps", file=sys.stderr)


@contextmanager
def stop_flag():
    """Collect the first Ctrl-C or SIGTERM in a list instead of dying within a step; a second one does interrupt."""
    stopped, previous = [], {}

    def put_back():
        for number, handler in previous.items():
            signal.signal(number, handler)

    def note(number, frame):
        put_back()
        stopped.append(number)

    previous |= {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        put_back()


def pick_device(name: str) -> torch.device:
    """`auto` is the first of cuda, mps and cpu that is there. Raises ValueError on one that is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, usable in there.items() if usable))
    usable = ", ".join(kind for kind in there if there[kind])
    if not there.get(name.partition(":")[0], False):
        raise ValueError(f"there is no device {name!r} here; there is {usable}")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"{name!r} is no device's name; there is {usable}") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"there is no device {name!r} here; the last is cuda:{torch.cuda.device_count() - 1}")
    return device
