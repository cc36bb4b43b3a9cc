"""The file of a trajectory: one safetensors file with a versioned JSON description, checked before it is believed."""

from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import NamedTuple

import torch

from dit_lab.checkpoints import map_tensors
from dit_lab.diffusion import SAMPLERS, Keeping, Task, process_of, sample
from dit_lab.diffusion.checks import ETA, OWN, check, whole_labels
from dit_lab.diffusion.guides import guide_of
from dit_lab.diffusion.whole import check_steps, whole
from dit_lab.files import json_object, write_tensors
from dit_lab.inside.trace import TraceError
from dit_lab.models import BLOCKS, Config, config_of
from dit_lab.program import quoted

MOST_STEPS = 2**20
FORMAT, VERSION = "dit_lab trajectory", 1
TENSORS = ("x", "x0", "eps", "sample")
MASK, STEPPED = "anew", "anew_by"  # only of runs that drew a part of a picture anew: where, and by which sampler
DESCRIPTION = ("config", "labels", "options", "t")
# Every option of `sample` that a file can hold; injected noise and a process of one's own are not among them, and of a
# sampler or a guide that was a function only that it was (`OWN`), but for guides that have words.
OPTIONS = {
    name: option.default
    for name, option in signature(sample).parameters.items()
    if option.kind is option.KEYWORD_ONLY and name not in ("noise", "process")
}


class Anew(NamedTuple):
    """Where a walk drew a picture anew, `mask: h w` or `b 1 h w` in bool, and the name of the sampler that stepped."""

    mask: torch.Tensor
    sampler: str


def anew_of(sampler) -> Anew | None:
    """Where a sampler draws anew, None where it keeps no picture, or steps as a function of the caller's own."""
    kept = isinstance(sampler, Keeping) and isinstance(sampler.sampler, str)
    return Anew(sampler.mask, sampler.sampler) if kept else None


def write_parts(path, parts: dict) -> None:
    """Write the fields of a trajectory, atomically. Raises TraceError when the file cannot be written."""
    about = {name: parts[name] for name in DESCRIPTION} | {"config": parts["config"].as_json()}
    tensors, anew = {name: parts[name] for name in TENSORS}, parts["anew"]
    if anew is not None:
        tensors, about = tensors | {MASK: anew.mask}, about | {STEPPED: anew.sampler}
    try:
        write_tensors(path, tensors, {"format": FORMAT, "version": VERSION, **about})
    except OSError as error:
        raise TraceError(str(error)) from error


def read_parts(path) -> dict:
    """The fields of a trajectory, not yet checked against each other. Raises TraceError where one is none."""
    if not Path(path).is_file():  # a pipe would be waited for
        raise TraceError(f"{path} is not a whole trajectory file: it is no file")
    try:
        stored, metadata = map_tensors(Path(path))
    except Exception as error:  # a damaged header can name types and shapes that fail in any way
        raise TraceError(f"{path} is not a whole trajectory file: {quoted(str(error), 200)}") from error
    about = described(path, metadata)
    if missing := [name for name in TENSORS if name not in stored]:
        raise TraceError(f"{path} is not a whole trajectory file: it lacks {', '.join(missing)}")
    tensors = {name: stored[name].clone() for name in TENSORS}
    anew = Anew(stored[MASK].clone(), about.get(STEPPED)) if MASK in stored else None
    told = {name: about[name] for name in DESCRIPTION} | {"options": of_today(about["options"])}
    return told | tensors | {"anew": anew}


def described(path, metadata: dict) -> dict:
    """The JSON description of a trajectory file. Raises TraceError on a foreign, a newer or an incomplete one."""
    try:
        about = json_object(metadata.get("dit_lab", "{}"))
    except ValueError as error:
        raise TraceError(f"{path} is damaged: its description should be a JSON object: {error}") from error
    if about.get("format") != FORMAT:
        raise TraceError(f"{path} is a safetensors file, but not a trajectory")
    if (version := about.get("version")) != VERSION:
        raise TraceError(f"{path} is a trajectory of version {quoted(version)}; this dit_lab reads {VERSION}")
    if missing := [name for name in DESCRIPTION if name not in about]:
        raise TraceError(f"{path} is damaged: its description lacks {', '.join(missing)}")
    try:
        return about | {"config": sampled_by(about["config"])}
    except (TypeError, ValueError) as error:
        raise TraceError(f"{path} is damaged: {error}") from error


def sampled_by(fields) -> Config | Task:
    """The config of a trajectory, of a model that can be built and sampled. Raises ValueError on any other.

    Of a network of one's own it is the `Task`, which builds nothing.
    """
    if not isinstance(fields, dict):
        raise ValueError(f"its config should be a JSON object, not {quoted(fields)}")
    if fields.get("architecture") == Task.architecture:
        return Task(**{name: value for name, value in fields.items() if name != "architecture"})
    config = config_of(fields)
    process_of(config)
    return config


def of_today(options):
    """The options of a file, an older one's as they would be said now.

    There was no guide of one's own; before that nothing was clipped, and a vain eta is none.
    """
    if not isinstance(options, dict):
        return options
    options = {"guide": None} | options
    if "clip_x0" in options:
        return options
    vain = {"eta": 0.0} if "eta" in options and options.get("sampler") != ETA else {}
    return options | vain | {"clip_x0": False}


def check_parts(trajectory) -> None:
    """Raise ValueError or TypeError, in one sentence, unless the parts of a trajectory fit each other."""
    config, options = trajectory.config, trajectory.options
    if not isinstance(config, Task) and config.block not in BLOCKS:
        raise ValueError(f"there is no conditioning block {quoted(config.block)}; there are {', '.join(BLOCKS)}")
    if not isinstance(options, dict) or set(options) != set(OPTIONS):
        raise ValueError(f"the options must be {', '.join(OPTIONS)}")
    taken = {name: value for name, value in options.items() if name not in ("steps", "size", "guide")}
    check(config, (*SAMPLERS, OWN), **taken | {"seed": 0 if options["seed"] is None else options["seed"]})
    guide_of(options["guide"])
    check_anew(trajectory)
    t, listed = trajectory.t, isinstance(options["steps"], list)
    check_steps(steps := len(options["steps"]) if listed else options["steps"], MOST_STEPS)
    labels = whole_labels(trajectory.labels, config.num_classes, config.null_label)
    resized = config if options["size"] is None else replace(config, input_size=options["size"])
    shape = (steps, len(labels), config.in_channels, *resized.size)
    for name, expected in zip(TENSORS, (shape, shape, shape, shape[1:]), strict=True):
        tensor = getattr(trajectory, name)
        if tuple(tensor.shape) != expected or tensor.dtype != torch.float32:
            there = f"{tensor.dtype} of {quoted(tuple(tensor.shape))}"
            raise ValueError(f"{name} must be fp32 of shape {expected}, not {there}")
    if not isinstance(t, list) or len(t) != steps or not all(map(timestep, t)):
        raise ValueError(f"t must be {steps} timesteps, not {quoted(t)}")
    if listed and t != options["steps"]:
        raise ValueError(f"t must be the steps that were asked for, not {quoted(t)}")


def check_anew(trajectory) -> None:
    """Raise ValueError unless a part that was drawn anew is one of the pictures, by a sampler that there is."""
    if (anew := trajectory.anew) is None:
        return
    (b, _, h, w), mask = trajectory.sample.shape, anew.mask
    if mask.dtype != torch.bool or tuple(mask.shape) not in ((h, w), (1, 1, h, w), (b, 1, h, w)):
        raise ValueError(f"the mask must be bools of {(h, w)}, not {mask.dtype} of {quoted(tuple(mask.shape))}")
    if anew.sampler not in list(SAMPLERS) or trajectory.options["sampler"] != OWN:
        raise ValueError(f"a part was drawn anew by no sampler that there is, {quoted(anew.sampler)}")


def timestep(t) -> bool:
    """Whether `t` can be a timestep: a whole number, or any in flow matching."""
    return (whole(t) or isinstance(t, float)) and 0 <= t < 2**31
