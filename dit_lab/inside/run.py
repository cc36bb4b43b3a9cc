"""A sampling run that was recorded: what the network was given at every step, and each step run again on demand."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch

from dit_lab.diffusion import Process, Step, process_of
from dit_lab.diffusion.guides import guide_of
from dit_lab.diffusion.process import PREDICTIONS
from dit_lab.diffusion.sampling import Guidance
from dit_lab.diffusion.solvers import shortened
from dit_lab.inside.geometry import Box
from dit_lab.inside.trace import Seen, TraceError, place, watch
from dit_lab.inside.trajectory_file import Anew, check_parts, read_parts, write_parts
from dit_lab.models import BLOCKS, Config
from dit_lab.program import quoted

CONDITION_TOKENS = 2
LIMIT = 2**30


class Reading(NamedTuple):
    """x0 and eps from x_t and the network's output: each is the first number times x_t plus the second times that."""

    x0: tuple[float, float]
    eps: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Run:
    """What a sampling run went through, on the CPU in fp32: `x` (x_t), `x0`, `eps`: s b c h w; `sample`: b c h w.

    `t` are the s timesteps, noisiest first (in flow matching not whole); `options` those of `sample`, its `seed` None
    where the noise was injected. `anew` is where a part of a picture was drawn anew, None where all of it was. Replays
    run one sample alone in the model's own dtype; a batch may round differently, by about 1e-7 in fp32. They take any
    model of the same config: with other weights they show what those weights would have done with the same x_t. Raises
    TraceError when the parts do not fit each other.
    """

    config: Config
    labels: list[int]
    options: dict
    t: list[int | float]
    x: torch.Tensor
    x0: torch.Tensor
    eps: torch.Tensor
    sample: torch.Tensor
    anew: Anew | None = None

    def __post_init__(self):
        try:
            check_parts(self)
        except (TypeError, ValueError) as error:
            raise TraceError(f"this is not a whole trajectory: {error}") from error

    @property
    def asked(self) -> dict:
        """The `options` as `sample` takes them, for another run like this one."""
        return self.options | {"guide": guide_of(self.options["guide"])}

    @property
    def sampler(self) -> str:
        """The sampler that stepped, where a part of a picture was kept too; `OWN` is one that nobody knows."""
        return self.options["sampler"] if self.anew is None else self.anew.sampler

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the first block's tokens, the finest grid."""
        return self.grid_of(0)

    def grid_of(self, block: int) -> tuple[int, int]:
        """(rows, columns) of a block's tokens."""
        return self.config.grid_of(block, tuple(self.x.shape[-2:]))

    def tokens_of(self, block: int) -> int:
        """Tokens in a block: n, and n + k where the condition joins the sequence, after the image tokens."""
        image, cond = (torch.empty(1, n, 1, device="meta") for n in (math.prod(self.grid_of(block)), CONDITION_TOKENS))
        return BLOCKS[self.config.block].enter(image, cond).shape[1]

    def blocks_of(self, stage: str | None) -> range:
        """The numbers of a stage's blocks; None where the model has only one. Raises TraceError, naming the stages."""
        stages = self.config.stage_blocks
        if stage is None and len(stages) == 1:
            return next(iter(stages.values()))
        if stage not in stages:
            raise TraceError(f"stage must be one of {', '.join(stages)}, whose grids differ, not {quoted(stage)}")
        return stages[stage]

    @torch.no_grad()
    def replay(self, model, step, sample, half, **what) -> Seen:
        """Look into one step's forward of a sample, or a list of them, run again; `what` are options of `watch`."""
        inputs = self.inputs(model, step, sample, half)
        with watch(model, **what) as seen:
            model(*inputs)
        return seen

    def inputs(self, model, step, sample, half) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What the network was given for a half of a sample, or a list of them: `-> x: b c h w, t: b, y: b`."""
        samples = list(sample) if isinstance(sample, Sequence) else [sample]
        labels = [self.label(model, number, half) for number in samples]
        step = place("step", step, len(self.t))
        weight = next(model.parameters())
        x = self.x[step, samples].to(weight.device, weight.dtype)
        t, y = (torch.tensor(each, device=weight.device) for each in ([self.t[step]] * len(samples), labels))
        return x, t, y

    def joined(self, model, step, sample, halves: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """`inputs` of several halves of a sample in one batch, one after the other."""
        return tuple(map(torch.cat, zip(*(self.inputs(model, step, sample, half) for half in halves), strict=True)))

    @cached_property
    def process(self) -> Process:
        """The shortened process that was walked; its last step came first. Raises TraceError where it is not known."""
        options = self.options
        process = shortened(process_of(self.config), options["sampler"], options["steps"], options["clip_x0"])
        middle = len(self.t) // 2
        a, s = process.levels(len(self.t) - 1 - middle)
        fits = torch.allclose(a * self.x0[middle] + s * self.eps[middle], self.x[middle], rtol=1e-3, atol=1e-3)
        if process.timesteps.tolist()[::-1] != self.t or not fits:
            raise TraceError(
                "this run walked a process of its own, which a trajectory does not keep, so how x0 and eps follow from "
                "the output is not known: record it with the process that the model's config names"
            )
        return process

    def levels(self, step: int) -> tuple[float, float]:
        """a and s of a step, x_t = a x0 + s eps. Raises TraceError on a step that is not there."""
        return self.process.levels(len(self.t) - 1 - place("step", step, len(self.t)))

    def reading(self, step: int) -> Reading:
        """How x0 and eps were read from x_t and the network's output at a step (before any clipping)."""
        return reading(self.config.prediction, *self.levels(step))

    def guidance(self, step: int) -> Guidance | None:
        """The guidance that a step was taken with, None where it asked the network for one half only."""
        options = self.options
        interval = options["cfg_interval"] and tuple(options["cfg_interval"])
        guidance = Guidance(float(options["cfg_scale"]), options["cfg_channels"], interval)
        active = self.config.num_classes > 0 and guidance.active(self.t[place("step", step, len(self.t))])
        return guidance if active else None

    def check_model(self, model) -> None:
        """Raise TraceError unless a model is of the config that the run was recorded with; folded, it may be either."""
        if unfolded(model.config) == unfolded(self.config):
            return
        ours, theirs = self.config.as_json(), model.config.as_json()
        unlike = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
        raise TraceError(f"this trajectory was recorded with another model; they differ in {', '.join(unlike)}")

    def label(self, model, sample: int, half: str) -> int:
        """The label that a half of a sample's pass is given. Raises TraceError on another model, sample or half."""
        self.check_model(model)
        if half not in ("cond", "uncond"):
            raise TraceError(f'half must be "cond" or "uncond", not {quoted(half)}')
        if half == "uncond" and not self.config.num_classes:
            raise TraceError("a model without classes has no unconditional half")
        if half == "uncond" and not self.config.null_label:
            raise TraceError("this model has no null label, so no unconditional half: it was trained without")
        label = self.labels[place("sample", sample, len(self.labels))]
        return label if half == "cond" else self.config.num_classes

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, atomically. Raises TraceError when it cannot be written."""
        write_parts(path, {field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: str | Path) -> "Run":
        """Read what `save` wrote; nothing in it is executed. Raises TraceError, in a sentence, on any other file."""
        parts = read_parts(path)
        try:
            return cls(**parts)
        except TraceError as error:
            raise TraceError(f"{path} is damaged: {error}") from error


def region_mask(region: torch.Tensor | Box | None, size: tuple[int, int]) -> torch.Tensor:
    """A region of a picture of `size` (h, w) as a mask `h w` of bools; None is all of it.

    Raises TraceError on a region that is empty, or that does not fit the picture.
    """
    rows, columns = size
    mask = torch.zeros(rows, columns, dtype=torch.bool)
    if region is None:
        return ~mask
    if isinstance(region, Box):
        if min(region) < 0 or region.top + region.height > rows or region.left + region.width > columns:
            raise TraceError(f"the picture is {rows} x {columns} pixels; {region} reaches out of it")
        mask[region.top : region.top + region.height, region.left : region.left + region.width] = True
    else:
        mask = torch.as_tensor(region).cpu()
        if mask.dtype != torch.bool or mask.shape != (rows, columns):
            told = f"{mask.dtype} of shape {tuple(mask.shape)}"
            raise TraceError(f"a region is a mask of bools of shape {(rows, columns)}, or a Box, not {told}")
    if not mask.any():
        raise TraceError("the region is empty: it has no pixel")
    return mask


def reading(prediction: str, a: float, s: float) -> Reading:
    """How x0 and eps follow from x_t = a x0 + s eps and a prediction of that name."""
    x0 = PREDICTIONS[prediction].x0
    of_x, of_output = x0(1.0, 0.0, a, s), x0(0.0, 1.0, a, s)
    # With eps the network says it itself; the detour over x0 would only round.
    eps = (0.0, 1.0) if prediction == "eps" else ((1 - a * of_x) / s, -a * of_output / s)
    return Reading((of_x, of_output), eps)


def unfolded(config: Config) -> Config:
    """The config of a model before it was folded, which computes the same: any other's as it is."""
    return replace(config, mlp="reparameterised") if getattr(config, "mlp", None) == "depthwise" else config


def kept(step: Step) -> tuple:
    """What a run holds of a step: t, and copies of x_t, x0 and eps on the CPU.

    From a GPU they are under way still, while it computes the next step: `stacked` waits for them.
    """
    return step.t, *(tensor.to("cpu", copy=True, non_blocking=True) for tensor in (step.x, step.x0, step.eps))


def stacked(steps: list[tuple], last: Step) -> dict:
    """The steps that were `kept`, and the sample that the last of them came to, as fields of a run."""
    t, *tensors = zip(*steps, strict=True)
    sample = last.previous.cpu()  # which waits for all copies before it
    x, x0, eps = (torch.stack(tensor) for tensor in tensors)
    return dict(t=list(t), x=x, x0=x0, eps=eps, sample=sample)


def numbers(what: str, asked) -> list | None:
    """A list, array or tensor of numbers as a list; None stays. Raises TraceError on anything else."""
    plain = asked.tolist() if hasattr(asked, "tolist") else asked
    if plain is not None and not isinstance(plain, Sequence | range):
        raise TraceError(f"{what} must be a list of numbers, not {quoted(asked)}")
    return plain


def check_bytes(what: str, size: int, limit: int, instead: str = "ask with a higher limit") -> None:
    """Raise TraceError, saying what to do `instead`, where `what` (with its verb) takes more bytes than the limit."""
    if size > limit:
        raise TraceError(f"{what} {amount(size)}, more than the limit of {amount(limit)}; {instead}")


def bytes_of(model) -> int:
    """Bytes of a number as looks compute with it: 4, in a model of fp64 8."""
    return at_least_fp32(next(model.parameters())[:0]).element_size()


def at_least_fp32(x: torch.Tensor) -> torch.Tensor:
    """A tensor in fp32, or as it is in fp64."""
    return x.detach().to(torch.promote_types(x.dtype, torch.float32))


def amount(count: float) -> str:
    """Bytes for a reader: `105906176 -> 101 MiB`."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"
