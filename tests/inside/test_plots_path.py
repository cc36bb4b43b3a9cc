"""Figures of guidance, of the path and of neighbours: whole, with the values given."""

import numpy as np
import pytest
import torch
from figures import whole
from shared import random_model, random_udit

from dit_lab.inside import (
    guidance_field,
    memorised,
    nearest,
    path_spectra,
    plots,
    record,
    signal_to_noise,
    x0_changes,
    x0_channels,
)

MADE = {
    "grey": lambda: random_model(in_channels=1),
    "latents": lambda: random_model(in_channels=4),
    "flow": lambda: random_model(prediction="velocity", schedule="flow", learned_variance=False),
    "udit": random_udit,
}


@pytest.fixture(scope="module", params=MADE)
def run(request):
    model = MADE[request.param]()
    return model, record(model, [1, 2], steps=6, cfg_scale=2.0, cfg_interval=(0.0, 500.0), seed=3)


def test_the_field_of_guidance_is_on_one_scale_around_0_and_shaded_where_it_was_not_used(run):
    model, trajectory = run
    found = guidance_field(trajectory, model)
    figure = plots.guidance_strip(found, frames=4, channel=0)
    axes = whole(figure)
    images = [axis.images[0] for axis in axes if axis.images][:4]
    np.testing.assert_allclose(images[-1].get_array(), found.field[-1, 0], rtol=1e-5)
    ((low, high),) = {image.get_clim() for image in images}
    assert low == -high
    norm, angle = (axis for axis in axes if axis.lines)
    np.testing.assert_allclose(norm.lines[0].get_ydata(), found.norm)
    np.testing.assert_allclose(angle.lines[0].get_ydata(), found.angle)
    assert len(norm.patches) == (~found.active).sum()


def test_changes_and_values_of_x0_are_drawn_by_channel(run):
    _, trajectory = run
    changes, count = x0_changes(trajectory), trajectory.x.shape[2]
    (axis,) = whole(plots.x0_changes_plot(changes))
    np.testing.assert_allclose(axis.lines[-1].get_ydata(), changes.whole)
    assert len(axis.lines) == (1 if count == 1 else count + 1)
    values = x0_channels(trajectory)
    axes = whole(plots.x0_channels_plot(values, trajectory.t))
    assert len(axes) == count
    np.testing.assert_allclose(axes[-1].lines[0].get_ydata(), values.mean[:, -1])


def test_spectra_have_a_row_a_channel(run):
    _, trajectory = run
    found, count = path_spectra(trajectory), trajectory.x.shape[2]
    axes = [axis for axis in whole(plots.path_spectra_plot(found, frames=3)) if axis.get_title()]
    assert len(axes) == 2 * count and len(axes[0].lines) == 6 and len(axes[1].lines) == 3
    np.testing.assert_allclose(axes[-1].lines[2].get_ydata(), found.x0[-1, -1])
    np.testing.assert_allclose(axes[-2].lines[5].get_ydata(), found.noised[-1, -1])


def test_signal_to_noise_is_a_dot_a_step(run):
    _, trajectory = run
    ratio = signal_to_noise(trajectory)
    (axis,) = whole(plots.signal_to_noise_plot(ratio, trajectory.t))
    np.testing.assert_allclose(axis.lines[0].get_ydata(), ratio)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 12), (4, 12, 8)])
@pytest.mark.parametrize("labels", [None, [0, 1, 1]])
def test_samples_stand_beside_their_neighbours(shape, labels):
    random = torch.Generator().manual_seed(0)
    training, test = (torch.rand(40, *shape, generator=random) * 2 - 1 for _ in range(2))
    kinds = torch.arange(40) % 2
    samples = training[[2, 5, 7]] + 0.1
    pairs = [[(pictures, kinds)] for pictures in (training, test)]
    found = memorised(samples, *pairs, k=2, labels=labels)
    figure = plots.neighbours_table(samples, found, names=["cat", "dog"])
    axes = whole(figure)
    titles = [axis.get_title() for axis in axes if axis.images]
    assert titles[0] == "sample 0\n0% nearer" and titles[1].startswith("cat, 0.1")
    near = found.neighbours
    assert (axes[1].images[0].get_array() == plots.as_pictures(near.pictures[0, :1])[0]).all()
    lines = [line.get_xdata()[0] for line in axes[-1].lines]
    np.testing.assert_allclose(lines[:3], near.distances[:, 0])
    assert ("of its class" in figure.get_supxlabel().replace("\n", " ")) == (labels is not None)


def test_neighbours_without_a_scale_have_no_histogram():
    pictures = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    axes = whole(plots.neighbours_table(pictures[:1], nearest(pictures[:1], pictures, k=3)))
    assert [axis.get_title() for axis in axes][:2] == ["sample 0", "0"]
    assert len(axes) == 4
    with pytest.raises(ValueError, match="2 samples, and neighbours of 1"):
        plots.neighbours_table(pictures[:2], nearest(pictures[:1], pictures))
