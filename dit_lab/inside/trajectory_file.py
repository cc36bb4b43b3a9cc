"""The file of a trajectory: one safetensors file with a versioned JSON description, checked before it is believed."""

import json
from dataclasses import replace
from inspect import signature

import torch
from safetensors import SafetensorError, safe_open

from dit_lab.diffusion import sample
from dit_lab.diffusion.process import whole
from dit_lab.diffusion.sampling import check, whole_labels
from dit_lab.files import write_tensors
from dit_lab.inside.trace import TraceError
from dit_lab.models import BLOCKS

FORMAT, VERSION = "dit_lab trajectory", 1
TENSORS = ("x", "x0", "eps", "sample")
DESCRIPTION = ("config", "labels", "options", "t")
# Every option of `sample` that a file can hold; injected noise and a process of one's own are not among them.
OPTIONS = {
    name: option.default
    for name, option in signature(sample).parameters.items()
    if option.kind is option.KEYWORD_ONLY and name not in ("noise", "process")
}


def write_parts(path, parts: dict) -> None:
    """Write the fields of a trajectory, atomically. Raises TraceError when the file cannot be written."""
    about = {name: parts[name] for name in DESCRIPTION} | {"config": parts["config"].as_json()}
    try:
        write_tensors(path, {name: parts[name] for name in TENSORS}, {"format": FORMAT, "version": VERSION, **about})
    except OSError as error:
        raise TraceError(str(error)) from error


def read_parts(path) -> dict:
    """The fields of a trajectory, its config as plain JSON; not yet checked against each other. Raises TraceError."""
    try:
        with safe_open(path, framework="pt") as file:
            about = described(path, (file.metadata() or {}).get("dit_lab", "null"))
            tensors = {name: file.get_tensor(name).clone() for name in TENSORS}
    except (OSError, SafetensorError) as error:
        raise TraceError(f"{path} is not a whole trajectory file: {error}") from error
    return {name: about[name] for name in DESCRIPTION} | tensors


def described(path, text: str) -> dict:
    """The JSON description of a trajectory file. Raises TraceError on a foreign, a newer or an incomplete one."""
    try:
        about = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{path} is damaged: its description is not JSON") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise TraceError(f"{path} is a safetensors file, but not a trajectory")
    if about.get("version") != VERSION:
        raise TraceError(f"{path} is a trajectory of version {about.get('version')!r}; this dit_lab reads {VERSION}")
    if missing := [name for name in DESCRIPTION if name not in about]:
        raise TraceError(f"{path} is damaged: its description lacks {', '.join(missing)}")
    return about


def check_parts(trajectory) -> None:
    """Raise ValueError or TypeError, in one sentence, unless the parts of a trajectory fit each other."""
    config, options = trajectory.config, trajectory.options
    if config.block not in BLOCKS:
        raise ValueError(f"there is no conditioning block {config.block!r}; there are {', '.join(BLOCKS)}")
    if not isinstance(options, dict) or set(options) != set(OPTIONS):
        raise ValueError(f"the options must be {', '.join(OPTIONS)}")
    taken = {name: value for name, value in options.items() if name not in ("steps", "size")}
    check(config, **taken | {"seed": options["seed"] or 0})
    labels = whole_labels(trajectory.labels, config.num_classes)
    resized = config if options["size"] is None else replace(config, input_size=options["size"])
    shape = (options["steps"], len(labels), config.in_channels, *resized.size)
    for name, expected in zip(TENSORS, (shape, shape, shape, shape[1:]), strict=True):
        tensor = getattr(trajectory, name)
        if tuple(tensor.shape) != expected or tensor.dtype != torch.float32:
            raise ValueError(f"{name} must be fp32 of shape {expected}, not {tensor.dtype} of {tuple(tensor.shape)}")
    if len(trajectory.t) != len(trajectory.x) or not all(timestep(t) for t in trajectory.t):
        raise ValueError(f"t must be {len(trajectory.x)} timesteps, not {trajectory.t!r}")


def timestep(t) -> bool:
    """Whether `t` can be a timestep: a whole number, or any in flow matching."""
    return (whole(t) or isinstance(t, float)) and 0 <= t < 2**31
