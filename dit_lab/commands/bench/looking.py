"""What each look inside a recorded run costs: its time over that of a forward, of a replay or of the sampling itself.

The bounds are those that were promised: a look at one step takes a forward and a tenth, contributions two forwards, and
a look over a whole run twice the sampling.
"""

import sys
from collections.abc import Callable
from typing import NamedTuple

import torch

from dit_lab.checkpoints import load
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

finest = lambda run: next(iter(run.config.stage_blocks))  # the only stage of a DiT


class Row(NamedTuple):
    """A look, `(run, model) -> anything`; what it is measured against, and how many times that it may take."""

    name: str
    look: Callable
    against: str
    bound: float


BASES = {
    "forward": lambda run, model: model(*run.inputs(model, STEP, 0, "cond")),
    "replay": lambda run, model: run.replay(model, STEP, 0, "cond"),
    "sampling": lambda run, model: generate(model, run.labels, **run.options),
}
ROWS = [
    Row("replay", BASES["replay"], "forward", 1.1),
    Row("attention of a block", lambda run, model: run.attention(model, STEP), "forward", 1.1),
    Row("contributions", lambda run, model: contributions(run, model, STEP), "forward", 2.0),
    Row("lens", lambda run, model: lens(run, model, STEP, half="cond"), "replay", 1.1),
    Row("edited run, factor 1", lambda run, model: rerun(run, model, Scale(0, "attn", 1.0)), "sampling", 2.0),
    Row("attention in numbers", lambda run, model: attention_numbers(run, model), "sampling", 2.0),
    Row("norms of tokens", lambda run, model: token_norms(run, model, stage=finest(run)), "sampling", 2.0),
    Row("colours of tokens", lambda run, model: fit_colours(run, model, stage=finest(run)), "sampling", 2.0),
    Row("guidance field", lambda run, model: guidance_field(run, model), "sampling", 2.0),
    Row("norms of contributions", lambda run, model: contribution_norms(run, model), "sampling", 2.0),
    Row("spectra of the path", lambda run, model: path_spectra(run), "sampling", 2.0),
    Row("attribution", lambda run, model: attribute(run, model), "sampling", 2.0),
]


def bench_look(models: tuple[str, ...], rounds: int, place, told: str) -> None:
    """A table for each preset (with random weights) or checkpoint: every look at a guided run of one sample."""
    opened = {name: opened_model(name).to(place) for name in models}
    print(f"{told}; one sample, a guided run of {STEPS} steps")
    for name, model in opened.items():
        run = record(model, [0], steps=STEPS, cfg_scale=2.0)
        print(f"{name:24}{'measured against':>24}{'look':>12}{'ratio':>8}{'bound':>8}")
        for row in ROWS:
            print(timed(row, run, model, rounds, place))


def opened_model(name: str):
    """A preset with random weights, else a checkpoint as `load` finds it."""
    if name in PRESETS:
        return stirred(build(name)).eval()
    loaded = load(name)
    if loaded.note:
        print(f"dit_lab: {loaded.note}", file=sys.stderr)
    return loaded.model


@torch.no_grad()
def timed(row: Row, run: Trajectory, model, rounds: int, place) -> str:
    """The line of a look, or why the model has none."""
    base, look = (lambda: BASES[row.against](run, model)), (lambda: row.look(run, model))
    try:
        times = race({"base": base, "look": look}, rounds, place)
    except TraceError as error:
        return f"{row.name:24}{error}"
    base, look = (timing.median for timing in times.values())
    times = f"{row.against:>12}{base * 1e3:9.1f} ms{look * 1e3:9.1f} ms{look / base:7.2f}x{row.bound:7.1f}x"
    return f"{row.name:24}{times}{'  over its bound' if look / base > row.bound else ''}"
