"""Runs that are walked beside the opened one, as frames for the browser: x0 at some of their steps, then the end."""

from collections.abc import Generator

import torch

from dit_lab.data import Pixels
from dit_lab.inside.plots.base import spread

MOST_FRAMES = 64  # of a run, evenly over its steps
DECODED_FRAMES = 12  # where a VAE makes each
MOST_PIXELS = 2**21  # of all frames in an answer: with more, those of one sample alone are sent


def frame_steps(codec, steps: int) -> list[int]:
    """The steps of a run that have a frame."""
    return spread(steps, MOST_FRAMES if isinstance(codec, Pixels) else DECODED_FRAMES)


def samples_sent(codec, run, frames: int, sample: int) -> list[int]:
    """The samples of a run shown by an answer with so many frames of each: all where they are small, else `sample`."""
    finals = run.sample[:, 0]
    small = isinstance(codec, Pixels) and frames * finals.numel() <= MOST_PIXELS
    return list(range(len(finals))) if small else [sample]


def frames_of(run: dict, steps: list[int], sample: int) -> torch.Tensor:
    """A sample's x0 at some steps, then its end, as the model has them: `-> f c h w`; `run` is as `rerun` gives it."""
    return torch.cat([run["x0"][steps, sample], run["sample"][[sample]]])


def decoding(codec, frames: torch.Tensor) -> Generator[int, None, torch.Tensor]:
    """Frames as pictures, `f c h w -> f 3 h w`: yields how many are done, where a VAE makes them one by one."""
    done = []
    for part in frames.split(len(frames) if isinstance(codec, Pixels) else 1):
        done.append(codec.decode(part))
        yield sum(map(len, done))
    return torch.cat(done)
