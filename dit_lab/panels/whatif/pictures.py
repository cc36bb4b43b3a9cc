"""The pictures of an edited run and its controls: x0 on the way, the end, and what each has changed, on one scale."""

from collections.abc import Generator
from functools import partial

import torch
from einops import rearrange, repeat

from dit_lab.data import Pixels
from dit_lab.inside.plots.base import one_channel, reach_of
from dit_lab.inside.walking import relayed
from dit_lab.panels.frames import decoding, frame_steps, frames_of
from dit_lab.panels.opened import Opened
from dit_lab.panels.packing import atlas
from dit_lab.panels.panel import Progress

DECODED_RUNS = 2  # whose way a VAE decodes: the edited one and its first control


def showing(opened: Opened, walks: list[dict], samples: list[int]) -> Generator[Progress, None, dict]:
    """Frames of the untouched run and of each walk, the edited one first, by sample.

    A frame a step of `steps` and one of the end; `x0` are pictures, `change` is what was added to x0 (the mean of its
    channels) over `reach: f`, the largest change of any walk in that frame: an early x0 may be far out of any picture.
    """
    run = {"x0": opened.trajectory.x0, "sample": opened.trajectory.sample}
    steps = frame_steps(opened.codec, len(opened.trajectory.t))
    pixels, shown = isinstance(opened.codec, Pixels), {}
    whole = len(walks) if pixels else min(DECODED_RUNS, len(walks))
    total, before = len(samples) * ((1 + whole) * (len(steps) + 1) + len(walks) - whole), 0
    for sample in samples:
        frames = [frames_of(each, steps, sample) for each in (run, *walks)]
        changes = [one_channel(each - frames[0]) for each in frames[1:]]
        reach = torch.tensor([max(map(reach_of, walks)) for walks in zip(*changes, strict=True)])
        shown[str(sample)] = {"reach": reach.tolist(), "runs": []}
        for number, each in enumerate(frames):
            # Of the further controls of a latent run the end alone.
            kept = each if number <= whole else each[-1:]
            count = partial(decoded, before, total) if not pixels else lambda done: None
            pictures = yield from relayed(decoding(opened.codec, kept), count)
            before += len(kept)
            told = {"steps": steps[: len(kept) - 1], "x0": atlas(pictures)}
            if number:
                change = changes[number - 1][-len(kept) :] / rearrange(reach[-len(kept) :], "f -> f 1 1")
                told["change"] = atlas(repeat(change, "f h w -> f 3 h w"))
            shown[str(sample)]["runs"].append(told)
    return {"shown": shown, "channels": opened.config.in_channels}


def decoded(before: int, total: int, done: int) -> Progress:
    """How many pictures of all a VAE has decoded."""
    return Progress(before + done, total, "decoding pictures")
