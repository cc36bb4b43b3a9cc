"""What made a region of the picture: which step range, block, head or MLP, by attribution and by intervention.

Attribution splits the picture as it is. A sampler's step is linear in x_t and in the velocity that it is given, so the
picture is what is left of the first noise plus every step's velocity times a weight, and each velocity is the exact sum
of `contributions`. It is cheap and takes later steps' answers as given. Intervention switches a part off and samples
again: it is dear, and later steps answer to what they then see. Where both agree, a part did what it seems to do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from einops import einsum, rearrange
from tqdm.auto import tqdm

from dit_lab.diffusion import SAMPLERS, Flow
from dit_lab.diffusion.process import PREDICTIONS
from dit_lab.diffusion.solvers import Now
from dit_lab.inside.edits import Scale
from dit_lab.inside.geometry import Box
from dit_lab.inside.parts import Part
from dit_lab.inside.run import LIMIT, reading, region_mask
from dit_lab.inside.trace import TraceError, branches, place
from dit_lab.inside.trajectory import Trajectory
from dit_lab.program import quoted

ONE_PREDICTION = "ddim", "ddpm", "euler", "sde"  # the samplers whose step follows from one prediction alone


class Cell(NamedTuple):
    """A part of the network during some steps: a head of a branch, or its MLP (`head` None)."""

    block: int
    branch: str
    head: int | None
    steps: range

    @property
    def part(self) -> Part:
        """The part of the network that it is."""
        return Part(self.branch, self.block, self.head)

    def __str__(self) -> str:
        return f"{self.part}, steps {self.steps.start} to {self.steps.stop - 1}"


@dataclass(frozen=True)
class Attribution:
    """The shares of a region's picture: `shares: step part`, and with `noise` and `rest` they add up to 1.

    `pictures: part c h w` is what each part gave to the final picture over all steps. `noise` is the share of the first
    noise, `rest` that of what no part did: a noisy sampler's noise, clipping, and the second order of a solver.
    """

    parts: list[Part]
    t: list[int | float]
    shares: torch.Tensor
    pictures: torch.Tensor
    noise: float
    rest: float

    def of(self, cell: Cell) -> float:
        """The share of a cell."""
        return self.shares[list(cell.steps), self.parts.index(cell.part)].sum().item()


@dataclass(frozen=True)
class Interventions:
    """What happened to a region when a cell was switched off: each `cell`.

    `lost` is the share of the region's picture that went (comparable with `Attribution.of`), `moved` how far the region
    moved (root mean square) and `elsewhere` how far the rest of the picture did, NaN where the region is all of it.
    """

    cells: list[Cell]
    lost: torch.Tensor
    moved: torch.Tensor
    elsewhere: torch.Tensor


@dataclass(frozen=True)
class CausalMap:
    """Both answers for a region, `attributed: cell` as `Attribution.of` gives it for the cells of the interventions."""

    attribution: Attribution
    interventions: Interventions
    attributed: torch.Tensor

    @property
    def agreement(self) -> float:
        """Spearman's rank correlation between a cell's share and what was lost without it, from -1 to 1."""
        return rank_correlation(self.attributed, self.interventions.lost)


def attribute(
    trajectory: Trajectory, model, region: torch.Tensor | Box | None = None, *, sample: int = 0, limit: int = LIMIT
) -> Attribution:
    """Split a region of a sample into what each part of the network gave to it at each step.

    `region` is a mask `h w`, a `Box` in input pixels, or None for all of the picture. One part's share is the inner
    product of what it gave with the region's picture, over that picture's square. Guided steps count as they were
    mixed. Raises TraceError on an empty region, and on one where the picture is 0.
    """
    picture, direction = aim(trajectory, region, sample)
    gains, passed = weights(trajectory)
    shares, pictures = [], 0
    for step in tqdm(range(len(trajectory.t)), desc="attribution", leave=False, disable=None):
        half = "cond" if trajectory.guidance(step) is None else "guided"
        found = trajectory.contributions(model, step, sample=sample, half=half, limit=limit)
        given = gains[step] * velocity(trajectory, step, found.x0, found.eps)
        shares.append(einsum(given, direction, "part c h w, c h w -> part"))
        pictures = pictures + given
    noise = passed * trajectory.x[0, sample]
    rest = picture - noise - pictures.sum(0)
    told = [(each * direction).sum().item() for each in (noise, rest)]
    return Attribution(found.parts, trajectory.t, torch.stack(shares), pictures, *told)


def intervene(
    trajectory: Trajectory, model, cells: Sequence[Cell], region: torch.Tensor | Box | None = None, *, sample: int = 0
) -> Interventions:
    """Switch each cell off for its steps, sample again, and measure a region; one run of sampling a cell.

    A head is switched off by Scale with factor 0, an MLP likewise. Raises TraceError as `attribute` does.
    """
    picture, direction = aim(trajectory, region, sample)
    inside = region_mask(region, picture.shape[-2:])
    moves = []
    for cell in tqdm(cells, desc="interventions", leave=False, disable=None):
        edit = Scale(cell.block, cell.branch, 0.0, heads=None if cell.head is None else [cell.head])
        moved = trajectory.edited(model, edit, steps=cell.steps).sample[sample] - picture
        lost = -(moved * direction).sum()
        moves.append([lost, rms(moved[:, inside]), rms(moved[:, ~inside])])
    return Interventions(list(cells), *rearrange(torch.tensor(moves), "cell what -> what cell"))


def causal_map(
    trajectory: Trajectory, model, region: torch.Tensor | Box | None = None, *, sample: int = 0, ranges: int = 3,
    largest: int = 12,
) -> CausalMap:  # fmt: skip
    """Attribution over all cells, and intervention on the `largest` of them by share, either sign.

    The run is cut into `ranges` of about equally many steps. Raises TraceError as `attribute` does.
    """
    everywhere = cells(trajectory, model, ranges)
    found = attribute(trajectory, model, region, sample=sample)
    chosen = sorted(everywhere, key=lambda cell: -abs(found.of(cell)))[:largest]
    attributed = torch.tensor([found.of(cell) for cell in chosen])
    return CausalMap(found, intervene(trajectory, model, chosen, region, sample=sample), attributed)


def cells(trajectory: Trajectory, model, ranges: int = 3) -> list[Cell]:
    """Every head and MLP in every range of steps. Raises TraceError unless there are as many steps as ranges."""
    count = len(trajectory.t)
    if not 1 <= ranges <= count:
        raise TraceError(f"a run of {count} steps can be cut into 1 to {count} ranges, not {quoted(ranges)}")
    ends = [round(count * number / ranges) for number in range(ranges + 1)]
    spans = [range(*pair) for pair in pairwise(ends)]
    parts = []
    for number, block in enumerate(model.blocks):
        heads = [(kind, head) for kind in branches(block) if kind != "mlp" for head in range(trajectory.config.heads)]
        parts += [(number, *part) for part in (*heads, ("mlp", None))]
    return [Cell(*part, span) for span in spans for part in parts]


def aim(trajectory: Trajectory, region, sample: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The final picture, and the direction that a share is measured along: both `c h w`.

    What a picture has of the direction is 1 for the final one, and 0 for one that is 0 within the region.
    """
    picture = trajectory.sample[place("sample", sample, len(trajectory.labels))]
    seen = picture * region_mask(region, picture.shape[-2:])
    if not (power := seen.square().sum()):
        raise TraceError("the picture is 0 all over this region, so there are no shares of it: take another region")
    return picture, seen / power


def weights(trajectory: Trajectory) -> tuple[list[float], float]:
    """What each step's velocity, and the first noise, is multiplied by on its way to the final picture.

    A step is x' = A x + B velocity; the weight of a velocity is its own B times the A of all steps after it. A solver
    that asks twice, or looks back, is taken as Euler's, which goes where one prediction points; so is one's own.
    """
    name = trajectory.sampler
    sampler, process = SAMPLERS[name if name in ONE_PREDICTION else "euler"], trajectory.process
    unit = rearrange(torch.eye(3, dtype=torch.float64), "what b -> what b 1 1 1")
    gains, passed = [], 1.0
    for i in range(len(trajectory.t)):  # from the last step, which is the process's first, back to the noise
        x0, eps = reading(kind_of(trajectory), *process.levels(i))
        now = Now(i, *unit, torch.zeros_like(unit[0]))
        of_x, of_x0, of_eps = sampler(process, now, None, None, torch.zeros_like(unit[0]), trajectory.options["eta"])
        gains.append(passed * float(of_x0 * x0[1] + of_eps * eps[1]))
        passed *= float(of_x + of_x0 * x0[0] + of_eps * eps[0])
    return gains[::-1], passed


def kind_of(trajectory: Trajectory) -> str:
    """The velocity of a path: along flow matching's straight line, or along a diffusion's quarter circle (v)."""
    return "velocity" if isinstance(trajectory.process, Flow) else "v"


def velocity(trajectory: Trajectory, step: int, x0, eps):
    """Parts of the path's velocity from those of x0 and eps, any equal shapes."""
    return PREDICTIONS[kind_of(trajectory)].target(x0, eps, *trajectory.levels(step))


def rms(x: torch.Tensor) -> torch.Tensor:
    """The root mean square, NaN of nothing."""
    return x.square().mean().sqrt()


def rank_correlation(first: torch.Tensor, second: torch.Tensor) -> float:
    """Spearman's, of two rows of numbers; NaN where all of one are equal."""
    from scipy.stats import spearmanr  # here, not above: it takes half a second

    return float(spearmanr(first.double(), second.double()).statistic)
