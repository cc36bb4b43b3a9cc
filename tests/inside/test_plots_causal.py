"""The figure of what made a region: drawn whole, on one signed scale, with the values given."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from shared import random_model

from dit_lab.inside import causal_map, record
from dit_lab.inside.plots import contribution_pictures, what_made_this


@pytest.fixture(scope="module")
def made():
    model = random_model("cross_attention", prediction="v")
    run = record(model, [1, 2], steps=3, cfg_scale=2.0)
    region = run.sample[1].mean(0) > 0
    return run, causal_map(run, model, region, sample=1, largest=7), region


@pytest.mark.parametrize("most", [3, 6])
def test_the_largest_parts_are_drawn_on_one_scale_around_0_and_every_cell_is_a_dot(made, most):
    run, found, region = made
    figure = what_made_this(run, found, region, sample=1, most=most)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pictures = [axis.images[0] for axis in figure.axes if axis.images][1 : most + 1]
    reaches = {picture.get_clim() for picture in pictures}
    assert len(pictures) == most and len(reaches) == 1
    low, high = reaches.pop()
    assert low == -high and high == pytest.approx(max(np.abs(each.get_array()).max() for each in pictures))
    shares = found.attribution.shares.sum(0).abs()
    inner = [number for number, part in enumerate(found.attribution.parts) if part.block is not None]
    largest = max(inner, key=lambda number: shares[number])
    np.testing.assert_allclose(pictures[0].get_array(), found.attribution.pictures[largest].mean(0), rtol=1e-5)
    dots = next(line for axis in figure.axes for line in axis.lines if line.get_marker() == "o")
    np.testing.assert_allclose(dots.get_xdata(), found.attributed)
    np.testing.assert_allclose(dots.get_ydata(), found.interventions.lost)
    width, height = figure.canvas.get_width_height()
    for text in [text for axis in figure.axes for text in axis.texts]:
        box = text.get_window_extent()
        assert box.x1 <= width and box.y1 <= height and box.x0 >= 0 and box.y0 >= 0


@pytest.mark.parametrize("most", [None, 5])
def test_every_part_is_a_picture_of_what_it_gave_on_one_scale(made, most):
    """The table of all parts, or the largest alone, each with the numbers of `Contributions`."""
    run, _, _ = made
    found = run.contributions(random_model("cross_attention", prediction="v"), 1, sample=1)
    figure = contribution_pictures(found, run.x0[1, 1], most=most)
    FigureCanvasAgg(figure).draw()
    drawn = [axis.images[0] for axis in figure.axes if axis.images and axis.images[0].get_array().shape == (8, 12)]
    outside = sum(part.block is None for part in found.parts)
    assert len(drawn) == outside + (most or len(found.parts) - outside)
    assert len({image.get_clim() for image in drawn}) == 1
    low, high = drawn[0].get_clim()
    assert low == -high
    largest = found.x0.mean(1).numpy()
    for image in drawn:
        assert np.isclose(largest, np.asarray(image.get_array()), rtol=1e-4, atol=1e-6).all((1, 2)).any()
    assert "add up" in figure.get_supxlabel()
