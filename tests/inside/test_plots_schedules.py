"""Figures of schedules and of errors along them: whole, and drawn from what they are given."""

import numpy as np
import pytest
from figures import whole

from dit_lab.diffusion import Diffusion, Flow
from dit_lab.inside.plots import loss_by_timestep_plot, schedule_plot


def test_schedules_are_drawn_side_by_side_from_the_processes_levels():
    linear, few = Diffusion.named("linear"), Flow(steps=10)
    figure = schedule_plot({"linear": linear, "cosine": Diffusion.named("cosine"), "flow": few})
    power, snr, sigma = whole(figure)
    assert [line.get_label() for line in power.lines] == ["linear", "cosine", "flow"]
    np.testing.assert_allclose(power.lines[0].get_ydata(), linear.alpha_bar)
    np.testing.assert_allclose(sigma.lines[0].get_ydata() ** 2, 1 - linear.alpha_bar)
    np.testing.assert_allclose(snr.lines[0].get_ydata(), np.log(linear.alpha_bar / (1 - linear.alpha_bar)))
    np.testing.assert_allclose(sigma.lines[2].get_ydata(), np.arange(1, 11) / 10)
    np.testing.assert_allclose(sigma.lines[2].get_xdata(), np.arange(1, 11) / 10)
    assert np.isfinite(snr.lines[2].get_ydata()).all()  # at t = 1, where nothing is left of the picture


def test_many_schedules_have_lines_that_differ_and_none_is_refused():
    figure = schedule_plot({f"{steps} steps": Flow(steps) for steps in range(2, 8)})
    lines = figure.axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 6
    assert len({line.get_linestyle() for line in lines[:4]}) == 4  # in grey, too
    with pytest.raises(ValueError, match="give at least one process"):
        schedule_plot({})


def test_errors_by_timestep_are_the_mean_over_seeds_with_their_range():
    rows = np.array([[0.1, 0.2, 0.4], [0.3, 0.2, 0.8]])
    figure = loss_by_timestep_plot({"a": rows, "b": rows[0]}, [1, 500, 999], what="error of eps")
    (axis,) = whole(figure)
    np.testing.assert_allclose(axis.lines[0].get_ydata(), [0.2, 0.2, 0.6])
    assert axis.get_ylabel() == "error of eps (log)" and [line.get_label() for line in axis.lines] == ["a", "b"]
    with pytest.raises(ValueError, match="a has 3 values for 2 timesteps"):
        loss_by_timestep_plot({"a": rows}, [1, 2])
