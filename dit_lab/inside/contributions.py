"""What each block and head gave to the network's prediction, exactly: parts that add up to it.

The residual stream is a sum, and with the statistics of the last norm held as they were, everything behind it is
linear. Elhage et al. 2021 (transformer-circuits.pub/2021/framework) read language models so; here gates and the
condition come in too, and what is read are pictures. A part is what a block gave to the output directly, not what other
blocks made of it.
"""

import math
from dataclasses import dataclass, replace

import torch
from einops import rearrange, reduce
from tqdm.auto import tqdm

from dit_lab.diffusion.process import split_output
from dit_lab.inside.endings import ConvEnding, TokenEnding
from dit_lab.inside.parts import Part, check_eager, halves, noting, parts_of, row
from dit_lab.inside.run import LIMIT, Run, bytes_of, check_bytes
from dit_lab.inside.trace import TraceError, place
from dit_lab.models import UDiT
from dit_lab.program import quoted

# How far a sum may be off, relative to its parts: a hundred times what rounding does, a hundredth of a missing branch.
ABSURD = {torch.float32: 1e-4, torch.float64: 1e-10}


@dataclass(frozen=True, eq=False)
class Contributions:
    """One step's prediction in parts, `parts` naming them; each tensor is `part c h w` and sums to what it is of.

    `output` sums to the network's prediction (without the variance value), `eps` and `x0` to those read from it,
    unclipped: the part "x_t" is what they take of x_t itself. `error` is how far the sum of `output` was from the
    model's, relative to its norm.
    """

    parts: list[Part]
    output: torch.Tensor
    eps: torch.Tensor
    x0: torch.Tensor
    error: float

    def of(self, kind: str, block: int | None = None, head: int | None = None) -> "Contributions":
        """The parts of a kind, of all blocks and heads or of one: `of("mlp").x0.sum(0)` is what all MLPs gave to x0.

        Raises TraceError, naming what there is, where there are none.
        """
        there = [number for number, part in enumerate(self.parts) if part.kind == kind]
        if not there:
            kinds = dict.fromkeys(part.kind for part in self.parts)
            raise TraceError(f"kind must be one of {', '.join(kinds)}, not {quoted(kind)}")
        fits = lambda part: block in (None, part.block) and head in (None, part.head)
        chosen = [number for number in there if fits(self.parts[number])]
        if not chosen:
            told = f"there is no {kind} of block {quoted(block)} and head {quoted(head)}"
            raise TraceError(f"{told}: they go from {self.parts[there[0]]} to {self.parts[there[-1]]}")
        tensors = {name: getattr(self, name)[chosen] for name in ("output", "eps", "x0")}
        return replace(self, parts=[self.parts[i] for i in chosen], **tensors)


def contributions(run: Run, model, step, *, sample=0, half="cond", limit=LIMIT) -> Contributions:
    """Split the network's prediction at a step into parts that add up to it, from one forward: `-> part c h w`.

    Half "guided" is the mix of both halves' that the step was taken with. Computed in fp32 at least, in fp64 where the
    model is: the sums are right to 1e-5 and 1e-10. A bf16 or fp16 model rounds the stream itself, and there they are
    right to its own precision only. In a U-DiT each part goes alone through all convolutions that are left, so there it
    costs more than two forwards: 2.2 in all in the zoo's mnist_udit, 7 in U-DiT-S, 16 in U-DiT-L with its 797 parts.

    Raises TraceError when the result would take more than `limit` bytes (while it is computed there is as much again,
    and what the branches gave), and where blocks do not add gated branches, as `trace.branches` says they do.
    """
    reading = run.reading(step)
    parts = checked(run, model, sample, 3, limit)
    output, error = split(run, model, step, sample, half)
    x = run.x[step, sample].to(output)
    eps, x0 = (of_output * output for _, of_output in (reading.eps, reading.x0))
    eps[-1], x0[-1] = reading.eps[0] * x, reading.x0[0] * x
    return Contributions(parts, output, eps, x0, error)


def contribution_norms(run: Run, model, *, sample=0, half="cond") -> tuple[list[Part], torch.Tensor]:
    """The parts, and how large each is in eps at every step of a run (root mean square): `-> part step`.

    It costs as much as `contributions` of each step, and holds one step at a time. Raises TraceError as that does.
    """
    parts, norms = checked(run, model, sample, 1, LIMIT), []
    for step in tqdm(range(len(run.t)), desc="contributions", leave=False, disable=None):
        of_x, of_output = run.reading(step).eps
        eps = of_output * split(run, model, step, sample, half)[0]
        eps[-1] = of_x * run.x[step, sample]
        norms.append(reduce(eps**2, "part c h w -> part", "mean").sqrt())
    return parts, torch.stack(norms, dim=1)


def checked(run: Run, model, sample: int, copies: int, limit: int) -> list[Part]:
    """The parts that there will be. Raises TraceError where there can be none, or `copies` of all are too large."""
    check_eager(model)
    run.check_model(model)
    place("sample", sample, len(run.labels))
    parts = parts_of(model)
    size = copies * len(parts) * run.x[0, 0].numel() * bytes_of(model)
    check_bytes(f"{len(parts)} parts of {tuple(run.x.shape[2:])} take", size, limit)
    return parts


@torch.no_grad()
def split(run: Run, model, step: int, sample: int, half: str) -> tuple[torch.Tensor, float]:
    """The parts of the prediction on the CPU, the last ("x_t") 0, and the sum's error: `-> part c h w`."""
    passes, mix = halves(run, step, half)
    x, t, y = run.joined(model, step, sample, passes)
    with noting(model) as noted:
        outputs = split_output(model(x, t, y), x)[0]
    ending = ConvEnding if isinstance(model, UDiT) else TokenEnding
    rows = [row(noted, number) for number in range(len(x))] if len(x) > 1 else [noted]
    parts = mix(*(ending(model, each, tuple(x.shape[-2:])).parts() for each in rows))
    prediction = mix(*rearrange(outputs.to(parts), "b c h w -> b 1 c h w"))
    return parts.cpu(), missed(parts, prediction, outputs.dtype)


def missed(parts, prediction, dtype: torch.dtype) -> float:
    """How far parts are from adding up to a prediction in `dtype`, relative to its norm: `part c h w, 1 c h w`.

    Raises TraceError when they do not add up at all, or the model gives NaN.
    """
    norm, off = prediction.norm().item(), (parts.sum(0) - prediction).norm().item()
    if not math.isfinite(norm):
        raise TraceError("the model's output holds NaN or Inf, so there is nothing to split")
    error = off / norm if norm else off  # a model that says 0 is 0 in all its parts
    if dtype in ABSURD and not off <= ABSURD[dtype] * (norm + parts.norm().item()):
        raise TraceError(
            f"the parts miss the model's output by {error:.1g} of it: a block must add to its input its attn, cross "
            "and mlp, each times the gate of its name, and nothing else (an active edit may come between: of the "
            "residual stream, or of an attention as a whole)"
        )
    return error
