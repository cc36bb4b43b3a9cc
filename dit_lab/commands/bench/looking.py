"""What each look inside a recorded run costs: its time over that of a forward, of a replay or of the sampling itself.

The bounds are those that were promised: a look at one step takes a forward and a tenth, contributions two forwards, and
a look over a whole run twice the sampling. A scrub has no row: it draws what the run holds and asks no model.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch

from dit_lab.checkpoints import load
from dit_lab.commands.bench.report import kept, spelt
from dit_lab.commands.bench.sampling import relative_error
from dit_lab.commands.bench.timing import race, stirred
from dit_lab.diffusion import generate
from dit_lab.inside import TraceError, Trajectory, record
from dit_lab.inside.attention import attention_numbers
from dit_lab.inside.causal import attribute
from dit_lab.inside.colours import fit_colours
from dit_lab.inside.contributions import contribution_norms, contributions
from dit_lab.inside.edits import Scale
from dit_lab.inside.lens import lens
from dit_lab.inside.path import guidance_field, path_spectra
from dit_lab.inside.rerun import rerun
from dit_lab.inside.tokens import token_norms
from dit_lab.models import PRESETS, build

STEPS, STEP = 4, 2
HEAD = ("look", "measured against", "that takes", "look takes", "spread", "ratio", "bound", "error")
SCRUB = "a scrub, which draws what a run holds and asks nothing of the model"

finest = lambda run: next(iter(run.config.stage_blocks))  # the only stage of a DiT


class Row(NamedTuple):
    """A look, `(run, model) -> anything`; what it is measured against, and how many times that it may take.

    `error(found, base)` is how far what it found is from what it should be, where it can be told.
    """

    name: str
    look: Callable
    against: str
    bound: float
    error: Callable | None = None


@dataclass(frozen=True)
class Cost:
    """A look inside a model's run: seconds of what it is measured against and its own (median and quartiles).

    `ratio` is of the medians, `error` relative. `why` says, instead of all figures, why the model has no such look.
    """

    model: str
    look: str
    against: str
    bound: float
    base: float | None = None
    median: float | None = None
    low: float | None = None
    high: float | None = None
    ratio: float | None = None
    error: float | None = None
    why: str = ""

    @property
    def over(self) -> bool:
        return self.ratio > self.bound

    def __str__(self):
        if self.median is None:
            return f"{self.look:24}{self.why}"
        times = f"{self.against:>12}{self.base * 1e3:9.1f} ms{self.median * 1e3:9.1f} ms{spread(self):>8}"
        ratios = f"{self.ratio:7.2f}x{self.bound:7.1f}x{wrong(self):>10}"
        return f"{self.look:24}{times}{ratios}{'  over its bound' * self.over}".rstrip()


BASES = {
    "forward": lambda run, model: model(*run.inputs(model, STEP, 0, "cond")),
    "replay": lambda run, model: run.replay(model, STEP, 0, "cond"),
    "sampling": lambda run, model: generate(model, run.labels, **run.options),
}
ROWS = [
    Row("replay", BASES["replay"], "forward", 1.1),
    Row("attention of a block", lambda run, model: run.attention(model, STEP), "forward", 1.1),
    Row(
        "contributions",
        lambda run, model: contributions(run, model, STEP),
        "forward",
        2.0,
        lambda found, _: found.error,
    ),
    Row("lens", lambda run, model: lens(run, model, STEP, half="cond"), "replay", 1.1),
    Row(
        "edited run, factor 1",
        lambda run, model: rerun(run, model, Scale(0, "attn", 1.0)),
        "sampling",
        2.0,
        lambda found, sample: relative_error(found["sample"].to(sample.device), sample),
    ),  # fmt: skip
    Row("attention in numbers", lambda run, model: attention_numbers(run, model), "sampling", 2.0),
    Row("norms of tokens", lambda run, model: token_norms(run, model, stage=finest(run)), "sampling", 2.0),
    Row("colours of tokens", lambda run, model: fit_colours(run, model, stage=finest(run)), "sampling", 2.0),
    Row("guidance field", lambda run, model: guidance_field(run, model), "sampling", 2.0),
    Row("norms of contributions", lambda run, model: contribution_norms(run, model), "sampling", 2.0),
    Row("spectra of the path", lambda run, model: path_spectra(run), "sampling", 2.0),
    Row("attribution", lambda run, model: attribute(run, model), "sampling", 2.0),
]


def bench_look(models: tuple[str, ...], rounds: int, place, about: dict, out: Path | None) -> None:
    """A table for each preset (with random weights) or checkpoint: every look at a guided run of one sample."""
    opened, costs = {name: opened_model(name).to(place) for name in models}, []
    about = about | {"looks into": f"one sample, a guided run of {STEPS} steps", "without a row": SCRUB}
    print(", ".join(f"{name}: {value}" for name, value in about.items()))
    for name, model in opened.items():
        run = record(model, [0], steps=STEPS, cfg_scale=2.0)
        print(f"{name:24}{'measured against':>24}{'look':>12}{'spread':>8}{'ratio':>8}{'bound':>8}{'error':>10}")
        for row in ROWS:
            costs.append(timed(name, row, run, model, rounds, place))
            print(costs[-1], flush=True)
    kept(out, "look", about, costs, page)


def opened_model(name: str):
    """A preset with random weights, else a checkpoint as `load` finds it."""
    if name in PRESETS:
        return stirred(build(name)).eval()
    loaded = load(name)
    if loaded.note:
        print(f"dit_lab: {loaded.note}", file=sys.stderr)
    return loaded.model


@torch.no_grad()
def timed(name: str, row: Row, run: Trajectory, model, rounds: int, place) -> Cost:
    """What a look costs, or why the model has none."""
    cost = Cost(name, row.name, row.against, row.bound)
    base, look = (lambda: BASES[row.against](run, model)), (lambda: row.look(run, model))
    try:
        error = row.error(look(), base()) if row.error else None
        base, took = race({"base": base, "look": look}, rounds, place).values()
    except TraceError as gone:
        return replace(cost, why=str(gone))
    return replace(cost, base=base.median, **took._asdict(), ratio=took.median / base.median, error=error)


def spread(cost: Cost) -> str:
    return f"{(cost.high - cost.low) / cost.median:.0%}"


def wrong(cost: Cost) -> str:
    return "" if cost.error is None else f"{cost.error:.1e}"


def page(name: str, about: dict, costs: list[Cost]) -> str:
    """The page of the bench: a table for each model."""
    lines = [f"# Bench: {name}", "", *(f"- {what}: {value}" for what, value in about.items())]
    for model in dict.fromkeys(cost.model for cost in costs):
        lines += ["", f"## {model}", "", f"| {' | '.join(HEAD)} |", f"| --- | --- |{' ---: |' * (len(HEAD) - 2)}"]
        lines += [told(cost) for cost in costs if cost.model == model]
    return "\n".join([*lines, ""])


def told(cost: Cost) -> str:
    """A line of a page's table."""
    if cost.median is None:
        return f"| {cost.look} | {cost.why.replace('|', '/')} |{' |' * (len(HEAD) - 2)}"
    times = f"{spelt(cost.base)} | {spelt(cost.median)} | {spread(cost)}"
    ratios = f"{cost.ratio:.2f}x{', over its bound' * cost.over} | {cost.bound}x | {wrong(cost)}"
    return f"| {cost.look} | {cost.against} | {times} | {ratios} |"
