"""Pictures made when they are wanted: of a run under way, other samples, channels apart, what guidance adds."""

from collections.abc import Generator

import torch
from einops import rearrange, reduce

from dit_lab.inside import GuidanceField
from dit_lab.inside.path import angles, eps_halves, root_mean_square
from dit_lab.inside.plots import as_pictures
from dit_lab.panels.opened import NOISE_REACH, Opened, is_latent, noise_pictures
from dit_lab.panels.packing import atlas, data_uri, pack
from dit_lab.panels.panel import Progress
from dit_lab.panels.trajectory.numbers import numbers

MOST_FINALS = 64  # of a batch that are shown side by side


def frames(opened: Opened, sample: int) -> Generator[Progress, None, dict]:
    """The frames of a sample, as `Opened.frames`, and its numbers; yields where a VAE makes its pictures."""
    steps = len(opened.trajectory.t)
    for done in opened.decoding(sample):
        yield Progress(done, steps, f"Decoding sample {sample + 1}")
    return {"sample": sample, "frames": opened.frames(sample), "numbers": numbers(opened, sample)}


def preview(step, codec, sample: int = 0, picture: torch.Tensor | None = None) -> dict[str, str]:
    """A `Step` of a run under way as data URIs, `{x, x0, eps}`; `picture: 1 3 h w` is its x0 where it was decoded."""
    latent = is_latent(codec, step.x.shape[1])
    shown = {
        "x": noise_pictures(step.x[[sample]], latent),
        "x0": codec.decode(step.x0[[sample]]) if picture is None else picture,
        "eps": noise_pictures(step.eps[[sample]], latent),
    }
    return {kind: data_uri(as_pictures(each)[0], max(each.shape[-2:])) for kind, each in shown.items()}


def final_pictures(opened: Opened) -> Generator[Progress, None, dict]:
    """What each sample of a batch ended with, one after the other in an atlas: `{finals: atlas}`."""
    latents, done = opened.trajectory.sample[:MOST_FINALS], []
    for latent in latents:
        yield Progress(len(done), len(latents), "Decoding the samples of the batch")
        done.append(opened.codec.decode(latent[None]))
    return {"finals": atlas(torch.cat(done))}


def channels(opened: Opened, sample: int, kind: str) -> dict:
    """Each channel of x_t, x0 or eps apart, in grey: black is -3 and white 3, of a picture's x0 -1 and 1."""
    values = getattr(opened.trajectory, kind)[:, sample]
    reach = 1.0 if kind == "x0" and not opened.latent else NOISE_REACH
    return {"sample": sample, "reach": reach, "frames": greys(values / reach, kind)}


def guidance(opened: Opened, sample: int) -> Generator[Progress, None, dict]:
    """What the label changes in eps at every step of a sample, from one doubled forward a step, and its numbers.

    The same as `guidance_field`. Frames are grey: black is -reach and white reach, of the mean over channels and of
    each channel apart.
    """
    steps, halves = len(opened.trajectory.t), []
    for step in range(steps):
        yield Progress(step, steps, "Asking with the label and without")
        halves.append(field_halves(opened, step, sample))
    found = field_of(opened.trajectory, halves)
    mean = reduce(found.field, "step c h w -> step 1 h w", "mean")
    reaches = {"guidance": reach_of(mean), "channels": reach_of(found.field)}
    frames = {"guidance": atlas(rgb(mean / reaches["guidance"]))}
    if found.field.shape[1] > 1:
        frames |= greys(found.field / reaches["channels"], "guidance")
    return {
        "sample": sample, "reach": reaches["guidance"], "channelReach": reaches["channels"], "frames": frames,
        "norm": pack(found.norm), "angle": pack(found.angle), "active": found.active.tolist(),
    }  # fmt: skip


@torch.no_grad()
def field_halves(opened: Opened, step: int, sample: int) -> tuple[torch.Tensor, torch.Tensor]:
    """eps with the label and without at a step, from one forward: `-> two of c h w`."""
    return eps_halves(opened.trajectory, opened.model, step, sample)


def field_of(run, halves) -> GuidanceField:
    """The field from eps with the label and without at every step, as `guidance_field` makes it."""
    cond, uncond = map(torch.stack, zip(*halves, strict=True))
    field = cond - uncond
    norm, channel_norm = (root_mean_square(field, f"step c h w -> {axes}") for axes in ("step", "step c"))
    active = torch.tensor([run.guidance(step) is not None for step in range(len(run.t))])
    return GuidanceField(list(run.t), field, norm, channel_norm, angles(field, cond), active)


def greys(values: torch.Tensor, kind: str) -> dict:
    """An atlas a channel by name, `values: step c h w` in [-1, 1]: `{"x.0": atlas, "x.1": atlas}`."""
    return {f"{kind}.{number}": atlas(rgb(values[:, [number]])) for number in range(values.shape[1])}


def rgb(grey: torch.Tensor) -> torch.Tensor:
    """`step 1 h w -> step 3 h w`, clipped to [-1, 1]."""
    return rearrange([grey[:, 0]] * 3, "rgb step h w -> step rgb h w").float().clamp(-1, 1)


def reach_of(field: torch.Tensor) -> float:
    """The largest magnitude, 1 where there is none."""
    return torch.nan_to_num(field).abs().max().item() or 1.0
