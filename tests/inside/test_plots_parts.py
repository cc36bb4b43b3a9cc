"""Figures of parts, causes and effects: whole for every model, on one scale, with the numbers of the results."""

import numpy as np
import pytest
import torch
from figures import whole
from shared import random_model, random_udit

from dit_lab.inside import Scale, attribute, causal_map, effect, plots, record
from dit_lab.inside.causal import Attribution, CausalMap, Cell, Interventions
from dit_lab.inside.contributions import Contributions
from dit_lab.inside.parts import Part
from dit_lab.inside.plots.effects import said_edit
from dit_lab.models import BLOCKS

MADE = {block: lambda block=block: random_model(block) for block in BLOCKS} | {
    "latents": lambda: random_model(in_channels=4),
    "grey": lambda: random_model(in_channels=1),
    "udit": random_udit,
}


@pytest.fixture(scope="module", params=MADE)
def run(request):
    model = MADE[request.param]()
    return model, record(model, [1, 2], steps=4, cfg_scale=2.0, seed=3)


@pytest.fixture(scope="module")
def one():
    model = random_model()
    return model, record(model, [1, 2], steps=4, cfg_scale=2.0, seed=3)


def pictures(figure, shape=(8, 12)):
    return [axis.images[0] for axis in figure.axes if axis.images and axis.images[0].get_array().shape[:2] == shape]


def signed(figure):
    """The pictures in signed colours, which all share one scale around 0."""
    found = [image for image in pictures(figure) if image.get_array().ndim == 2]
    (low, high) = {image.get_clim() for image in found}.pop()
    assert {image.get_clim() for image in found} == {(low, high)} and low == -high
    return found


def test_contributions_of_every_model_are_a_whole_table(run):
    model, trajectory = run
    found, names = trajectory.contributions(model, 2), model.config.block_names
    figure = plots.contribution_pictures(found, names=names)
    whole(figure)
    assert len(signed(figure)) == len(found.parts)
    assert [axis.get_ylabel() for axis in figure.axes if axis.get_ylabel() in names] == names
    last = found.of("mlp", model.config.depth - 1).x0[0].mean(0)
    assert any(np.allclose(image.get_array(), last, atol=1e-6) for image in signed(figure))
    whole(plots.contribution_pictures(found, of="eps", most=5, names=names))


def test_shares_stand_above_the_parts_of_an_attribution(one):
    model, trajectory = one
    found = attribute(trajectory, model)
    figure = plots.contribution_pictures(found, trajectory.sample[0], channel=1)
    whole(figure)
    titles = [axis.get_title() for axis in figure.axes]
    assert f"patches\n{found.shares.sum(0)[0]:+.1%}".replace("-", "−") in titles
    np.testing.assert_allclose(signed(figure)[0].get_array(), found.pictures[0, 1])
    assert "channel 1" in figure.get_supxlabel()
    with pytest.raises(ValueError, match="channels 0 to 2, not 3"):
        plots.contribution_pictures(found, channel=3)


def test_norms_of_the_parts_are_ordered_as_the_network_is(run):
    model, trajectory = run
    parts, norms = trajectory.contribution_norms(model)
    for log in (True, False):
        axis = whole(plots.contribution_norms_map(parts, norms, trajectory.t, log=log))[0]
        shown, names = axis.images[0].get_array(), [label.get_text() for label in axis.get_yticklabels()]
        assert names[0] == "patches" and names[-1].startswith("$x_t$") and len(names) == len(parts)
        row = names.index("block 1 MLP")
        floor = norms.max() * 1e-4 if log else 0
        np.testing.assert_allclose(shown[row], norms[parts.index(Part("mlp", 1))].clamp(min=floor), rtol=1e-5)


def test_the_lens_shows_each_block_and_names_the_last_the_prediction(run):
    model, trajectory = run
    lenses = torch.stack([trajectory.lens(model, step) for step in (0, 3)])
    figure = plots.lens_strip(lenses, [trajectory.t[0], trajectory.t[3]], names=model.config.block_names)
    axes = whole(figure)
    count = model.config.depth
    assert axes[count - 1].get_title().startswith("prediction") and len(axes) == 2 * count
    assert (axes[-1].images[0].get_array() == plots.as_pictures(lenses[1, -1:])[0]).all()
    few = whole(plots.lens_strip(lenses, [1, 0], columns=2))
    assert [axis.get_title().replace("\n", " ") for axis in few[:2]] == ["block 0", f"prediction block {count - 1}"]


def test_what_made_this_adds_up_and_is_whole(run):
    model, trajectory = run
    region = torch.zeros(8, 12, dtype=torch.bool)
    region[2:6, 3:9] = True
    found = causal_map(trajectory, model, region, ranges=2, largest=5)
    figure = plots.what_made_this(trajectory, found, region, most=4, label="1", names=model.config.block_names)
    whole(figure)
    assert figure.get_suptitle() == "What made this 1"
    (bars,) = [axis for axis in figure.axes if axis.get_title() == "in all"]
    sums = [bar.get_width() for bar in bars.patches]
    assert sum(sums) == pytest.approx(1, abs=1e-3) and sums[0] == pytest.approx(found.attribution.noise)
    block = found.attribution.shares[:, [part.block == 1 for part in found.attribution.parts]].sum()
    assert any(width == pytest.approx(block.item(), rel=1e-4) for width in sums)
    whole(plots.causal_table(found, names=model.config.block_names))


def test_causal_maps_have_a_cell_for_what_was_measured_and_grey_for_the_rest(one):
    model, trajectory = one
    found = causal_map(trajectory, model, ranges=2, largest=3)
    gave, lost = (axis.images[0].get_array() for axis in whole(plots.causal_table(found))[:2])
    assert np.isfinite(np.ma.filled(lost, np.nan)).sum() == 3
    parts = [part for part in found.attribution.parts if part.kind in ("attn", "mlp")]
    for cell, was in zip(found.interventions.cells, found.interventions.lost, strict=True):
        row = parts.index(Part(cell.branch, cell.block, cell.head))
        column = int(cell.steps.start > 0)
        np.testing.assert_allclose([gave[row, column], lost[row, column]], [found.attribution.of(cell), was], rtol=1e-5)


def test_an_effect_stands_beside_its_controls(one):
    model, trajectory = one
    found = effect(trajectory, model, Scale(1, "attn", 0.0, heads=[1]), controls=4, steps=[1, 2])
    figure = plots.effect_plot(found, trajectory.t, steps=[1, 2])
    over, last = whole(figure)
    curves = [line.get_ydata() for line in over.lines]
    np.testing.assert_allclose(curves, [*found.x0_controls, found.x0])
    dots = sorted(line.get_xdata()[0] for line in last.lines if line.get_marker() == "o")
    np.testing.assert_allclose(dots, sorted([found.picture, *found.picture_controls.tolist()]))
    assert last.get_yticklabels()[found.rank - 1].get_fontweight() == "bold"
    with pytest.raises(ValueError, match="4 steps, and there are 3"):
        plots.effect_plot(found, [2, 1, 0])
    edited, other = (trajectory.edited(model, edit, steps=[1, 2]) for edit in (found.edit, found.controls[0]))
    figure = plots.effect_pictures(trajectory, edited, other, frames=3)
    whole(figure)
    changes = signed(figure)
    np.testing.assert_allclose(changes[3].get_array(), (edited.sample - trajectory.sample)[0].mean(0), atol=1e-6)
    np.testing.assert_allclose(changes[7].get_array(), (other.sample - trajectory.sample)[0].mean(0), atol=1e-6)
    assert not changes[0].get_array().any()  # the edit was not yet active


def test_edits_are_said_in_few_words():
    assert said_edit(Scale(1, "attn", 0.0, heads=[1, 2])) == "Scale block 1 attn, factor 0, heads 1 2"
    assert said_edit(Scale(0, "mlp", 0.5)) == "Scale block 0 mlp, factor 0.5"


def test_a_network_of_28_blocks_of_16_heads_is_still_read():
    """DiT-XL/2's number of parts, on a small grid."""
    random = torch.Generator().manual_seed(0)
    inner = [[*(Part("attn", block, head) for head in range(16)), Part("mlp", block)] for block in range(28)]
    parts = [Part("patches"), Part("positions"), *sum(inner, []), Part("shift"), Part("bias"), Part("x_t")]
    given = torch.randn(len(parts), 4, 8, 12, generator=random)
    figure = plots.contribution_pictures(Contributions(parts, given, given, given, 0.0))
    whole(figure)
    assert len(signed(figure)) == 24 + 5
    t = list(range(980, -1, -20))
    whole(plots.contribution_norms_map(parts, torch.rand(len(parts), len(t), generator=random), t))
    whole(plots.lens_strip(torch.zeros(5, 28, 4, 8, 12), t[:5]))
    shares = torch.randn(len(t), len(parts), generator=random)
    found = Attribution(parts, t, shares, given, 0.1, 0.1)
    cells = [Cell(block, "attn", 3, range(25)) for block in range(28)]
    attributed = torch.tensor([found.of(cell) for cell in cells])
    causes = CausalMap(found, Interventions(cells, attributed / 2, attributed, attributed), attributed)
    lost = whole(plots.causal_table(causes))[1].images[0].get_array()
    assert lost.shape == (48, 2) and np.isfinite(np.ma.filled(lost, np.nan)).sum() == len(cells)
