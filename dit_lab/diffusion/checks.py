"""What sampling is asked for, its noise, and what comes of it: what makes no sense is refused in a sentence."""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from numbers import Real

import torch

from dit_lab.diffusion.process import Process
from dit_lab.diffusion.whole import whole
from dit_lab.program import quoted

ETA = "ddim"  # the sampler that has an eta
OWN = "own"  # what a recorded run says of a sampler or a guide that was a function of the caller's
PICTURE_CHANNELS = 1, 3


def whole_labels(labels, num_classes: int, null_label: bool = True) -> list[int]:
    """`labels`, a list, array or tensor of whole numbers, as a list. Raises ValueError on others.

    The null label is `num_classes`, in a model that has one (`null_label`).
    """
    last, what = (num_classes, "the null label") if null_label else (num_classes - 1, "this model has no null label")
    plain = labels.tolist() if hasattr(labels, "tolist") else labels
    plain = list(plain) if isinstance(plain, Iterable) else []
    if not plain:
        raise ValueError(f"labels must be a list of at least one whole number, not {quoted(labels)}")
    for label in plain:
        if not whole(label) or not 0 <= label <= last:
            told = f"labels must be whole numbers from 0 to {last} ({what})"
            raise ValueError(f"{told}, not {quoted(label)}")
    return [int(label) for label in plain]


def check(
    config, known: Collection[str], sampler, cfg_scale, cfg_channels, cfg_interval, eta, seed,
    noise=None, process=None, clip_x0=None, guide=None,
) -> None:  # fmt: skip
    """Raise ValueError, in one sentence, on sampling arguments that make no sense for a model of this config.

    `known` are the names of the samplers there are; a function is one of the caller's own, which may have an eta.
    """
    if not callable(sampler) and (not isinstance(sampler, str) or sampler not in known):
        raise ValueError(f"there is no sampler {quoted(sampler)}; there are {', '.join(known)}")
    if not (isinstance(eta, Real) and 0 <= eta <= 1):
        raise ValueError(f"eta must be between 0 and 1, not {quoted(eta)}")
    if eta and not callable(sampler) and sampler not in (ETA, OWN):
        raise ValueError(f"eta is {ETA}'s alone, {sampler} has none: leave it at 0, or take {ETA}")
    if not finite(cfg_scale):
        raise ValueError(f"cfg_scale must be a finite number, not {quoted(cfg_scale)}")
    if cfg_scale != 1 and not config.null_label:
        raise ValueError("this model was trained without a null label, so it cannot be guided: leave cfg_scale at 1")
    if cfg_channels is not None and not (whole(cfg_channels) and 1 <= cfg_channels <= config.in_channels):
        told = f"cfg_channels must be a whole number from 1 to {config.in_channels}"
        raise ValueError(f"{told}, not {quoted(cfg_channels)}")
    if cfg_interval is not None and not rising(cfg_interval):
        raise ValueError(f"cfg_interval must be two timesteps in rising order, not {quoted(cfg_interval)}")
    if not (whole(seed) and -(2**63) <= seed < 2**64):
        raise ValueError(f"seed must be a whole number of at most 64 bits, not {quoted(seed)}")
    if noise is not None and not callable(noise):
        raise ValueError(f"noise must be a function of a shape that gives a tensor, not a {type(noise).__name__}")
    if process is not None and not isinstance(process, Process):
        raise ValueError(f"process must be a Process such as Diffusion.named(), not {quoted(process)}")
    if clip_x0 is not None and not isinstance(clip_x0, bool):
        raise ValueError(f"clip_x0 must be true, false or None (as the model needs), not {quoted(clip_x0)}")
    if guide is not None and not callable(guide):
        raise ValueError(f"guide must be a function of cond, uncond and scale, not {quoted(guide)}")
    if guide is not None and cfg_scale == 1:
        raise ValueError("a guide mixes two passes, and at cfg_scale 1 only one is run: give it another cfg_scale")


def stepping(sampler: str | Callable, samplers: dict[str, Callable], fitting: Collection[str]) -> Callable:
    """The function that takes a step. Raises ValueError where it is not one of those `fitting` the process."""
    if callable(sampler):
        return fitted("sampler", sampler)
    if sampler not in fitting:
        raise ValueError(f"{sampler} takes a diffusion's steps; for flow matching take {', '.join(fitting)}")
    return samplers[sampler]


def fitted(what: str, function: Callable) -> Callable:
    """A function of the caller's own that raises ValueError where it does not give a tensor of the shape it was given.

    That is its first tensor's, or the x of the first `Now`.
    """

    def call(*given):
        like = next(x for each in given if isinstance(x := getattr(each, "x", each), torch.Tensor))
        made = function(*given)
        if not isinstance(made, torch.Tensor) or made.shape != like.shape:
            there = f"one of {tuple(made.shape)}" if isinstance(made, torch.Tensor) else f"a {type(made).__name__}"
            raise ValueError(f"the {what} must give a tensor of {tuple(like.shape)} and gave {there}")
        return made

    return call


def finite(value) -> bool:
    """Whether `value` is a number that a float can hold."""
    try:
        return isinstance(value, Real) and math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def rising(pair) -> bool:
    """Whether `pair` is two numbers, the second not below the first."""
    numbers = isinstance(pair, Sequence) and len(pair) == 2 and all(isinstance(end, Real) for end in pair)
    return numbers and pair[0] <= pair[1]


def clips(config, process: Process, clip_x0: bool | None) -> bool:
    """Whether a walk holds each predicted x0 to [-1, 1], which pictures never leave, as the original's clip_denoised.

    By itself (None) where the channels are a picture's and x0 cannot be read from eps at every step, where an error of
    eps would decide the picture. Latents have no such bounds: who knows that 1 or 3 channels are latents says False.
    """
    if clip_x0 is None:
        return config.in_channels in PICTURE_CHANNELS and process.readable() is not process
    return clip_x0


def seeded_noise(seed: int) -> Callable[[Sequence[int]], torch.Tensor]:
    """The default noise: `noise(shape) -> tensor`, drawn on the CPU so that a seed means the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return lambda shape: torch.randn(*shape, generator=generator)


def drawn(noise, shape, device):
    """One draw of `noise`, in fp32 on `device`. Raises ValueError when its shape is not the one asked for."""
    z = torch.as_tensor(noise(shape)).to(torch.float32)
    if tuple(z.shape) != shape:
        raise ValueError(f"noise was asked for {shape} and gave {tuple(z.shape)}")
    if torch.device(device).type == "cuda" and z.device.type == "cpu":
        z = z.pin_memory()  # so that the GPU takes it when it comes to it, and nobody waits
    return z.to(device, non_blocking=True)


def check_finite(what: str, *tensors) -> None:
    """Raise ValueError, in one sentence about `what`, where any of its tensors holds NaN or Inf.

    A decoder clips, and may overflow itself: both a sample and the pictures that are made of it are looked at.
    """
    if not all(tensor.isfinite().all() for tensor in tensors):
        raise ValueError(f"{what} holds NaN or Inf: the model diverged, or the guidance is too strong")
