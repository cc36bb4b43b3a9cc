"""Figures of attention and tokens: whole, with the values given, on the model's grids."""

import numpy as np
import pytest
import torch
from figures import whole
from shared import random_model, random_udit

from dit_lab.inside import (
    attended_by,
    attention_numbers,
    fit_colours,
    head_similarity,
    massive,
    plots,
    received,
    record,
    step_similarity,
    token_norms,
    token_similarity,
    trajectory_rollout,
)
from dit_lab.models import BLOCKS

GRID = 2, 3


@pytest.fixture(scope="module", params=[*BLOCKS, "udit"])
def run(request):
    """A model, a run of it, a stage's name, its grid and the names of its blocks."""
    model = random_udit() if request.param == "udit" else random_model(request.param, in_channels=4)
    trajectory = record(model, [1, 2], steps=4, cfg_scale=2.0, seed=3)
    stage = list(model.config.stage_blocks)[1] if request.param == "udit" else None
    blocks = trajectory.blocks_of(stage)
    return model, trajectory, stage, trajectory.grid_of(blocks[0]), [model.config.block_names[b] for b in blocks]


def maps_over(axes):
    """What is laid over the picture, panel by panel."""
    return [axis.images[1].get_array() for axis in axes if len(axis.images) == 2]


def test_numbers_of_attention_have_a_panel_each_where_there_is_something_to_see(run):
    model, trajectory, *_ = run
    found = attention_numbers(trajectory, model)
    axes = [
        axis for axis in whole(plots.attention_numbers_map(found, names=model.config.block_names)) if axis.get_title()
    ]
    titles = ["spread (entropy)", "distance", "on the token itself"]
    assert [axis.get_title() for axis in axes if "condition" not in axis.get_title()] == titles
    assert (len(axes) == 4) == bool(found.condition.any())
    np.testing.assert_allclose(axes[0].images[0].get_array(), found.entropy.flatten(0, 1))


def test_cross_attention_shows_time_and_label():
    model = random_model("cross_attention")
    found = attention_numbers(record(model, [1], steps=3), model, kind="cross")
    axes = [axis for axis in whole(plots.attention_numbers_map(found)) if axis.get_title()]
    assert [axis.get_title() for axis in axes] == ["spread (entropy)", "on the time token", "on the label token"]
    np.testing.assert_allclose(axes[2].images[0].get_array(), found.label.flatten(0, 1))


def test_similarities_are_squares_of_heads_or_of_steps(run):
    model, trajectory, stage, _, names = run
    heads, similar = model.config.heads, head_similarity(trajectory, model, 1, stage=stage)
    (axis,) = whole(plots.similarity_map(similar, heads=heads, names=names, what="step 1"))
    np.testing.assert_allclose(axis.images[0].get_array(), similar)
    assert [label.get_text() for label in axis.get_yticklabels()] == names
    steps = step_similarity(trajectory, model, 0, 1)
    (axis,) = whole(plots.similarity_map(steps, t=trajectory.t))
    assert axis.get_xticklabels()[0].get_text() == f"{trajectory.t[0]:g}"
    for wrong in {}, dict(heads=heads, t=trajectory.t), dict(heads=len(similar) + 1), dict(t=[1]):
        with pytest.raises(ValueError, match="give either|does not fit"):
            plots.similarity_map(similar, **wrong)


def test_who_attends_to_a_patch_is_laid_over_the_picture(run):
    model, trajectory, stage, grid, names = run
    found = attended_by(trajectory, model, 2, 4, stage=stage)
    image, tokens = trajectory.sample[0], grid[0] * grid[1]
    axes = whole(plots.attended_by_overlay(image, found, 4, grid, names=names))
    maps = maps_over(axes)
    np.testing.assert_allclose(maps[1].flatten(), found[0, 1, :tokens], rtol=1e-5)
    assert len(maps) == found.shape[0] * found.shape[1] and axes[0].get_ylabel() == names[0]
    assert all(axis.patches for axis in axes if len(axis.images) == 2)
    one = maps_over(whole(plots.attended_by_overlay(image, found, 4, grid, block=len(names) - 1)))
    np.testing.assert_allclose(one[0].flatten(), found[-1, 0, :tokens], rtol=1e-5)
    with pytest.raises(ValueError, match="blocks 0 to"):
        plots.attended_by_overlay(image, found, 4, grid, block=99)


def test_many_heads_are_drawn_as_one_map_a_block():
    columns = torch.rand(20, 16, 6, generator=torch.Generator().manual_seed(0))
    maps = maps_over(whole(plots.attended_by_overlay(torch.zeros(3, 8, 12), columns, 0, GRID)))
    assert len(maps) == 20
    np.testing.assert_allclose(maps[13].flatten(), columns[13].mean(0), rtol=1e-5)


def test_a_condition_token_has_no_outline():
    columns = torch.rand(3, 4, 8, generator=torch.Generator().manual_seed(0))
    figure = plots.attended_by_overlay(torch.zeros(1, 8, 12), columns, 7, GRID)
    assert not any(axis.patches for axis in whole(figure) if axis.images)
    assert "condition token 1" in figure.get_suptitle()


def test_what_tokens_receive_and_what_reaches_them(run):
    model, trajectory, stage, grid, names = run
    tokens = grid[0] * grid[1]
    got = received(trajectory, model, 2, stage=stage)
    axes = whole(plots.received_overlay(trajectory.sample[0], got, grid, names=names))
    np.testing.assert_allclose(maps_over(axes)[0].flatten(), got[0, 0, :tokens], rtol=1e-5)
    assert axes[0].get_title() == f"head 0\n{got[0, 0].max():.2g}" or len(got[0, 0]) > tokens
    rolled = trajectory_rollout(trajectory, model, 2, stage=stage)
    axes = whole(plots.rollout_overlay(trajectory.sample[0], rolled, [0, 5], grid))
    first, second, mean = maps_over(axes)
    np.testing.assert_allclose(second.flatten(), rolled[5, :tokens], rtol=1e-5)
    np.testing.assert_allclose(mean.flatten(), rolled[:tokens, :tokens].mean(0), rtol=1e-5)
    assert [len(axis.patches) for axis in axes[:3]] == [1, 1, 0]


def test_norms_of_tokens_lie_on_the_grid(run):
    model, trajectory, stage, grid, names = run
    norms = token_norms(trajectory, model, stage=stage)
    figure = plots.token_norms_map(norms, grid, trajectory.t, frames=2, names=names)
    panels = [axis for axis in whole(figure) if axis.get_title()]
    assert len(panels) == 2 * len(names) and panels[0].get_title().startswith(names[0])
    np.testing.assert_allclose(panels[-1].images[0].get_array().flatten(), norms[-1, -1])
    assert f"{norms[-1, -1].max() / norms[-1, -1].median():.1f}×" in panels[-1].get_title()
    with pytest.raises(ValueError, match="needs 5 tokens"):
        plots.token_norms_map(norms, (1, 5), trajectory.t)
    with pytest.raises(ValueError, match="4 steps, and 2 timesteps"):
        plots.token_norms_map(norms, grid, trajectory.t[:2])


def test_the_largest_features_are_named(run):
    model, trajectory, stage, _, names = run
    found = massive(trajectory, model, stage=stage)
    figure = plots.massive_plot(found, names=names)
    left, right = [axis for axis in whole(figure) if axis.get_title()]
    np.testing.assert_allclose(left.images[0].get_array(), found.times[..., 0].T)
    said = [text.get_text() for text in right.get_legend().get_texts()]
    kinds = right.images[0].get_array()
    for (block, step), kind in np.ndenumerate(kinds):
        feature = found.feature[step, block, 0].item()
        assert said[kind] == f"feature {feature}" if kind < 6 else f"feature {feature}" not in said


def test_colours_are_drawn_as_they_were_fitted(run):
    model, trajectory, stage, grid, names = run
    colours = fit_colours(trajectory, model, stage=stage)
    features = torch.stack([trajectory.features(model, step, stage=stage) for step in (0, 3)])
    pictures = colours.of(features, grid)
    figure = plots.colour_pictures(pictures, [trajectory.t[0], trajectory.t[3]], colours=colours, names=names)
    axes = whole(figure)
    np.testing.assert_allclose(axes[len(names)].images[0].get_array(), pictures[1, 0])
    assert f"{colours.explained.sum():.0%}" in figure.get_supxlabel()


def test_likeness_to_a_patch_is_on_one_scale_up_to_1(run):
    model, trajectory, stage, grid, names = run
    similarity = token_similarity(trajectory, model, 2, 4, stage=stage)
    axes = whole(plots.token_similarity_overlay(trajectory.sample[0], similarity, 4, grid, names=names))
    maps = [axis.images[1] for axis in axes if len(axis.images) == 2]
    assert {each.get_clim() for each in maps} == {(similarity.min().item(), 1.0)}
    np.testing.assert_allclose(maps[-1].get_array().flatten(), similarity[-1], rtol=1e-5)
