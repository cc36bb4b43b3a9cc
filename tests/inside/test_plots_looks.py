"""Figures of the looks inside: each is drawn, says what it is and what to see, and shows the values it was given."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from shared import random_model

from dit_lab.inside import Scale, attention_numbers, causal_map, effect, head_similarity, plots, record


@pytest.fixture(scope="module")
def run():
    model = random_model(prediction="v")
    return model, record(model, [1, 2], steps=4, cfg_scale=2.0)


def drawn(figure):
    """The figure's axes, once it is drawn, with a title and a caption."""
    FigureCanvasAgg(figure).draw()
    assert figure.get_suptitle() and figure.get_supxlabel()
    return figure.axes


def images_of(axes, shape):
    return [
        axis.images[0].get_array() for axis in axes if axis.images and axis.images[0].get_array().shape[:2] == shape
    ]


def test_norms_of_parts_are_a_row_each_over_the_steps(run):
    model, trajectory = run
    parts, norms = trajectory.contribution_norms(model)
    (shown,) = images_of(drawn(plots.contribution_norms_map(parts, norms, trajectory.t)), tuple(norms.shape))
    assert len(parts) == len(shown)


def test_the_lens_has_a_picture_for_each_block_and_step(run):
    model, trajectory = run
    steps = [0, 2, 3]
    lenses = torch.stack([trajectory.lens(model, step) for step in steps])
    axes = drawn(plots.lens_strip(lenses, [trajectory.t[step] for step in steps]))
    assert len(images_of(axes, (8, 12))) == 3 * model.config.depth
    with pytest.raises(ValueError, match="3 steps"):
        plots.lens_strip(lenses, trajectory.t)


def test_an_effect_is_a_line_beside_its_controls_with_its_rank_in_the_title(run):
    model, trajectory = run
    found = effect(trajectory, model, Scale(1, "attn", 0.0), 2)
    figure = plots.effect_plot(found, trajectory.t)
    lines = [line.get_ydata() for line in drawn(figure)[0].lines if len(line.get_ydata()) == 4]
    assert any(np.allclose(line, found.x0) for line in lines) and len(lines) == 3
    assert f"rank {found.rank} of 3" in figure.get_suptitle()
    edited = trajectory.edited(model, Scale(1, "attn", 0.0))
    assert len(images_of(drawn(plots.effect_pictures(trajectory, edited)), (8, 12))) >= 2


def test_cells_are_a_row_each_by_share_and_by_what_was_lost(run):
    model, trajectory = run
    found = causal_map(trajectory, model, ranges=2, largest=6)
    rows = model.config.depth * (model.config.heads + 1)
    assert len(images_of(drawn(plots.causal_table(found)), (rows, 2))) == 2


def test_attention_in_numbers_is_a_map_each_and_similarity_a_square(run):
    model, trajectory = run
    heads = model.config.depth * model.config.heads
    assert len(images_of(drawn(plots.attention_numbers_map(attention_numbers(trajectory, model))), (heads, 4))) >= 3
    similar = head_similarity(trajectory, model, 1)
    (shown,) = images_of(drawn(plots.similarity_map(similar, heads=model.config.heads)), (heads, heads))
    np.testing.assert_allclose(shown, similar)
