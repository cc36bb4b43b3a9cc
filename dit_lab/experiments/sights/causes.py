"""What goes when a part goes: edits beside their controls, and causes by attribution and by intervention."""

from functools import partial
from statistics import quantiles

import torch

from dit_lab.experiments.causal import STROKE_BLOCK, pieces
from dit_lab.experiments.sights.base import Sight, Zoo
from dit_lab.inside import Box, Scale, attribute, causal_map, effect
from dit_lab.inside.causal import rank_correlation
from dit_lab.inside.plots import causal_table, effect_pictures, effect_plot, what_made_this

MEASURED = 24  # cells that are switched off
DRAWS = 200


def made_of(zoo: Zoo) -> Sight:
    """What made the stroke of a 7."""
    run, model = zoo.run("mnist", 7), zoo.model("mnist")
    stroke = run.sample[0].mean(0) > 0
    found = causal_map(run, model, stroke, largest=MEASURED)
    random, lost = torch.Generator().manual_seed(0), found.interventions.lost
    by_chance = [
        abs(rank_correlation(found.attributed, lost[torch.randperm(len(lost), generator=random)])) for _ in range(DRAWS)
    ]
    top = int(found.attributed.abs().argmax())
    return Sight(
        "What made this 7",
        "`mnist`, a 7, its stroke",
        partial(what_made_this, run, found, stroke, label="7"),
        "The 7 with its stroke outlined, what the largest parts gave to it, their shares by steps, and what is lost",
        f"The largest share has {found.interventions.cells[top]}: it gave {found.attributed[top]:.0%} of the stroke, "
        f"and {lost[top]:.0%} is lost without it; over {len(lost)} cells both have a rank correlation of "
        f"{found.agreement:.2f}.",
        f"With one of both in random order it is less than {quantiles(by_chance, n=20)[-1]:.2f}, either sign, in 95 "
        "of 100 draws.",
    )


def halves(zoo: Zoo) -> Sight:
    """What made the upper half of an 8."""
    name = "mnist_cross_attention"
    run, model = zoo.run(name, 8), zoo.model(name)
    rows, columns = run.x.shape[-2:]
    upper, lower = Box(0, 0, rows // 2, columns), Box(rows // 2, 0, rows - rows // 2, columns)
    found = causal_map(run, model, upper, largest=MEASURED)
    lost = found.interventions
    top = int(lost.lost.abs().argmax())
    cell = lost.cells[top]
    other = attribute(run, model, lower).of(cell)
    return Sight(
        "What made the upper half of this 8",
        f"`{name}`, an 8, its upper half",
        partial(causal_table, found),
        "Heat maps of what each head and MLP gave and of what is lost without it, and both against each other",
        f"Most is lost without {cell}: {lost.lost[top]:.0%} of the upper half, of which it gave "
        f"{found.attributed[top]:.0%}.",
        f"The lower half moves {lost.elsewhere[top] / lost.moved[top]:.1f} times as far as the upper one without it, "
        f"and of that it gave {other:.0%}.",
    )


def strokes_held(zoo: Zoo) -> Sight:
    """Heads that hold strokes together, against those of other blocks."""
    run, model, edit = zoo.run("mnist", *range(10)), zoo.model("mnist"), Scale(STROKE_BLOCK, "attn", 0.0)
    found = effect(run, model, edit, controls=model.config.depth - 1)
    others = found.picture_controls
    return Sight(
        "One block's heads switched off",
        "`mnist`, each class once",
        partial(effect_plot, found, run.t),
        "How far the run moved without one block's attention, and without each other block's, as curves and ranks",
        f"Without the attention of block {STROKE_BLOCK} the pictures move by {found.picture:.2f} (root mean square), "
        f"which is rank {found.rank} of {1 + len(others)}.",
        f"Without that of another block they move by {others.min():.2f} to {others.max():.2f}.",
    )


def strokes_apart(zoo: Zoo) -> Sight:
    """The same edit as pictures."""
    run, model = zoo.run("mnist", *range(10)), zoo.model("mnist")
    off = [run.edited(model, Scale(block, "attn", 0.0)) for block in (STROKE_BLOCK, STROKE_BLOCK + 1)]
    untouched, without, control = (pieces(each.sample) for each in (run, *off))
    return Sight(
        "The same as pictures",
        "`mnist`, a 0; the numbers are of each class once",
        partial(effect_pictures, run, *off),
        "A 0 on its way, untouched, without the attention of one block, and without that of the next",
        f"Without the attention of block {STROKE_BLOCK} a digit is in {without:.1f} pieces on average, untouched in "
        f"{untouched:.1f}.",
        f"Without that of block {STROKE_BLOCK + 1} it is in {control:.1f}.",
    )


CAUSES = made_of, halves, strokes_held, strokes_apart
