"""The path of a recorded run: what guidance added at each step, how the picture settled, and in which frequencies.

Only `guidance_field` runs the model. The rest reads what was recorded, each channel apart: a picture's colours, or the
channels of a latent, which need not be alike.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange, reduce
from tqdm.auto import tqdm

from dit_lab.diffusion.process import split_output
from dit_lab.inside.spectrum import frequencies, radius, ring_means
from dit_lab.inside.trace import TraceError, place
from dit_lab.inside.trajectory import Trajectory


@dataclass(frozen=True, eq=False)
class GuidanceField:
    """What the label changes in eps at each timestep of `t`: `field: step c h w`, eps_cond - eps_uncond.

    `norm: step` and `channel_norm: step c` are its root mean squares over c h w and over h w, `angle: step` that
    between it and eps_cond in degrees (90: the label asks for something else than more of the same), `active: step` in
    bool whether the run was guided there.
    """

    t: list[int | float]
    field: torch.Tensor
    norm: torch.Tensor
    channel_norm: torch.Tensor
    angle: torch.Tensor
    active: torch.Tensor


class Changes(NamedTuple):
    """How far predicted x0 moved, one entry for each step but the first, told at `t`: `channels: step c, whole: step`.

    Root mean squares, over h w and over c h w, in the units of x0.
    """

    t: list[int | float]
    channels: torch.Tensor
    whole: torch.Tensor


class ChannelNumbers(NamedTuple):
    """Predicted x0 in numbers by channel: its mean, standard deviation, lowest and highest value, each `step c`."""

    mean: torch.Tensor
    std: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor


@dataclass(frozen=True, eq=False)
class PathSpectra:
    """Power by frequency along a run: `x` (of x_t) and `x0` (as predicted), both `step c f` at `frequency: f`.

    Frequencies are in cycles per pixel; a power is that of one Fourier mode, as large as the variance where every pixel
    is noise. `noise: step` is that of the process's noise at each timestep of `t`, s^2 at every frequency, and
    `noised: step c f` what the process would make of the finished sample, a^2 times its power plus s^2.
    """

    t: list[int | float]
    frequency: torch.Tensor
    x: torch.Tensor
    x0: torch.Tensor
    noise: torch.Tensor
    noised: torch.Tensor


@torch.no_grad()
def guidance_field(trajectory: Trajectory, model, *, sample: int = 0) -> GuidanceField:
    """What the label changes in eps at every step of a sample, from one doubled forward a step.

    eps is as it is read from the network's output, before any clipping, and the field is there on all channels and at
    all steps, guided or not. Where it is 0, as where a flow begins and x_t is eps whatever the network says, it has no
    angle: nan. Raises TraceError on a model without null label, another model, or a sample that is not there.
    """
    fields, conds = [], []
    for step in tqdm(range(len(trajectory.t)), leave=False, disable=None):
        cond, uncond = eps_halves(trajectory, model, step, sample)
        fields.append(cond - uncond)
        conds.append(cond)
    field, cond = torch.stack(fields), torch.stack(conds)
    return GuidanceField(
        list(trajectory.t),
        field,
        root_mean_square(field, "step c h w -> step"),
        root_mean_square(field, "step c h w -> step c"),
        angles(field, cond),
        torch.tensor([trajectory.guidance(step) is not None for step in range(len(trajectory.t))]),
    )


def eps_halves(trajectory: Trajectory, model, step: int, sample: int) -> tuple[torch.Tensor, torch.Tensor]:
    """eps of the conditional and the unconditional half of a sample at a step, from one forward: `-> two of c h w`."""
    x, t, y = trajectory.joined(model, step, sample, ("cond", "uncond"))
    output, _ = split_output(model(x, t, y), x)
    of_x, of_output = trajectory.reading(step).eps
    exact = torch.promote_types(output.dtype, torch.float32)
    cond, uncond = of_x * x.to("cpu", exact) + of_output * output.to("cpu", exact)
    return cond, uncond


def x0_changes(trajectory: Trajectory, *, sample: int = 0) -> Changes:
    """How far predicted x0 moves from each step to the next. Raises TraceError on a sample that is not there."""
    x0 = trajectory.x0[:, place("sample", sample, len(trajectory.labels))]
    moved = x0[1:] - x0[:-1]
    channels, whole = (root_mean_square(moved, f"step c h w -> {axes}") for axes in ("step c", "step"))
    return Changes(list(trajectory.t[1:]), channels, whole)


def x0_channels(trajectory: Trajectory, *, sample: int = 0) -> ChannelNumbers:
    """Predicted x0 in numbers, by channel and step. Raises TraceError on a sample that is not there."""
    x0 = trajectory.x0[:, place("sample", sample, len(trajectory.labels))]
    low, high = (reduce(x0, "step c h w -> step c", way) for way in ("min", "max"))
    flat = rearrange(x0, "step c h w -> step c (h w)")
    return ChannelNumbers(flat.mean(-1), flat.std(-1, correction=0), low, high)


def signal_to_noise(trajectory: Trajectory, *, log: bool = False) -> torch.Tensor:
    """a^2 / s^2 of the process at every step, `-> step`; with `log` its natural logarithm.

    That is -inf where a flow begins, with nothing of the picture. Raises TraceError where the process is not known.
    """
    a, s = levels(trajectory)
    return (2 * (a.log() - s.log()) if log else (a / s) ** 2).float()


def path_spectra(trajectory: Trajectory, *, sample: int | None = None) -> PathSpectra:
    """The radial power spectra of x_t and of predicted x0 by step and channel: of one sample, or the mean over all.

    Raises TraceError on a sample that is not there, a process that is not known, or pictures too small for a wave.
    """
    size = tuple(trajectory.x.shape[-2:])
    if min(size) < 2:
        raise TraceError(f"pictures of {size[0]} x {size[1]} have no frequency: it takes two pixels each way")
    chosen = slice(None) if sample is None else [place("sample", sample, len(trajectory.labels))]
    a, s = (rearrange(level**2, "step -> step 1 1") for level in levels(trajectory))
    finished = spectrum_of(trajectory.sample[chosen])
    return PathSpectra(
        list(trajectory.t),
        frequencies(size),
        *(torch.stack([spectrum_of(x[chosen]) for x in walked]) for walked in (trajectory.x, trajectory.x0)),
        rearrange(s, "step 1 1 -> step").float(),
        (a * finished + s).float(),
    )


def spectrum_of(x: torch.Tensor) -> torch.Tensor:
    """The power in rings around frequency 0, each channel apart, the mean over samples: `x: b c h w -> c f`."""
    power = reduce(torch.fft.fft2(x, norm="ortho").abs() ** 2, "b c h w -> c h w", "mean")
    radii = radius(tuple(x.shape[-2:]))
    return torch.stack([ring_means(channel, radii) for channel in power])


def levels(trajectory: Trajectory) -> tuple[torch.Tensor, torch.Tensor]:
    """a and s of all steps, x_t = a x0 + s eps: `-> two of step` in fp64."""
    a, s = zip(*map(trajectory.levels, range(len(trajectory.t))), strict=True)
    return torch.tensor(a, dtype=torch.float64), torch.tensor(s, dtype=torch.float64)


def root_mean_square(x: torch.Tensor, axes: str) -> torch.Tensor:
    """The root of the mean square, over what the einops pattern `axes` leaves out."""
    return reduce(x**2, axes, "mean").sqrt()


def angles(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Degrees between the vectors of each step, nan where one is 0: `x, y: step c h w -> step`."""
    x, y = (rearrange(each, "step c h w -> step (c h w)").double() for each in (x, y))
    x, y = (each / each.norm(dim=-1, keepdim=True) for each in (x, y))
    # As accurate for vectors that are nearly parallel as for others, which acos of their product is not (Kahan 2006).
    half = torch.atan2((x - y).norm(dim=-1), (x + y).norm(dim=-1))
    return torch.rad2deg(2 * half).float()
