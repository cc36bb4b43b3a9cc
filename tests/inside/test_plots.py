"""Figures: drawn from what they are given, whole, titled, and without pyplot's state."""

import importlib
import sys

import numpy as np
import pytest
import torch
from figures import whole
from shared import random_udit

from dit_lab.inside import feature_spectra, plots, record
from dit_lab.inside.plots import (
    as_pictures,
    attention_overlay,
    loss_curve,
    modulation_heat_map,
    picture_table,
    sample_grid,
    spectrum,
    trajectory_strip,
)
from dit_lab.models import build
from dit_lab.training import TrainStep


@pytest.fixture(scope="module")
def run():
    """A model with two inner blocks stirred, and a guided trajectory of it on a non-square picture."""
    torch.manual_seed(0)
    model = build("DiT-nano/4", input_size=(8, 12), in_channels=1, num_classes=5, depth=3)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return model, record(model, [1, 5], steps=5, cfg_scale=2.0)


def test_pictures_map_the_range_to_bytes():
    ends = torch.tensor([-1.0, 0.0, 1.0, 9.0, float("nan"), -float("inf")]).reshape(1, 1, 2, 3)
    pictures = as_pictures(ends)
    assert pictures.dtype == np.uint8 and pictures.shape == (1, 2, 3, 3)
    assert pictures[0, ..., 0].flatten().tolist() == [0, 128, 255, 255, 128, 0]
    assert as_pictures(ends * 3, reach=3.0)[0, 0, 2, 0] == 255
    colour = torch.tensor([1.0, -1.0, 0.0]).reshape(1, 3, 1, 1)
    assert as_pictures(colour).flatten().tolist() == [255, 0, 128]
    with pytest.raises(ValueError, match="b c h w"):
        as_pictures(ends[0])


def test_latents_have_false_colours_that_do_not_depend_on_the_other_frames():
    latents = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    pictures = as_pictures(latents)
    assert pictures.shape == (3, 5, 6, 3)
    assert (pictures == np.concatenate([as_pictures(latents[[i]]) for i in range(3)])).all()
    for channel in range(4):
        moved = latents.clone()
        moved[:, channel] += 0.5
        assert (as_pictures(moved) != pictures).any()


def test_a_strip_shows_noisiest_first_and_the_picture_last(run):
    trajectory = run[1]
    axes = whole(trajectory_strip(trajectory, sample=1, frames=3), captioned=False)
    assert [axis.get_title() for axis in axes[:3]] == ["t = 999", "t = 500", "t = 0"]
    assert len(axes) == 9
    for axis, frame in zip(axes[3:6], trajectory.x0[[0, 2, 4], 1], strict=True):
        assert (axis.images[0].get_array() == as_pictures(frame[None])[0]).all()
    assert len(whole(trajectory_strip(trajectory, frames=99), captioned=False)) == 15
    assert "no label" in trajectory_strip(trajectory, sample=1).get_suptitle()


def test_a_table_names_its_rows_and_columns_and_refuses_ragged_ones():
    rows = {"noise": torch.randn(3, 1, 4, 4), "picture": torch.rand(3, 1, 4, 4)}
    axes = whole(picture_table(rows, ["a", "b", "c"], "before and after"), captioned=False)
    assert [axis.get_title() for axis in axes] == ["a", "b", "c", "", "", ""]
    assert [axis.get_ylabel() for axis in axes] == ["noise", "", "", "picture", "", ""]
    assert (axes[4].images[0].get_array() == as_pictures(rows["picture"][[1]])[0]).all()
    assert len(whole(picture_table(rows, title="without names"), captioned=False)) == 6
    for ragged in dict(rows=rows | {"more": torch.rand(4, 1, 4, 4)}), dict(rows=rows, columns=["a", "b"]):
        with pytest.raises(ValueError, match="equally long"):
            picture_table(**ragged)


def test_a_grid_shows_every_sample_under_its_label(run):
    images = torch.rand(5, 3, 4, 6) * 2 - 1
    axes = whole(sample_grid(images, ["cat", "dog", 7, 8, 9]), captioned=False)
    assert [axis.get_title() for axis in axes] == ["cat", "dog", "7", "8", "9"]
    assert (axes[4].images[0].get_array() == as_pictures(images)[4]).all()


def test_the_overlay_outlines_the_patch_and_lays_each_head_over_the_picture(run):
    model, trajectory = run
    rows = trajectory.attention_rows(model, 2, 4)[1]
    figure = attention_overlay(trajectory.sample[0], rows, 4, trajectory.grid)
    axes = [axis for axis in whole(figure, captioned=False) if axis.get_title()]
    assert [axis.get_title() for axis in axes] == ["picture", "mean", *(f"head {head}" for head in range(4))]
    for axis in axes:
        (outline,) = axis.patches
        assert (outline.get_xy(), outline.get_width(), outline.get_height()) == ((3.5, 3.5), 4, 4)
    torch.testing.assert_close(torch.as_tensor(axes[3].images[1].get_array().data.flatten()), rows[1])
    assert len({axis.images[1].get_clim() for axis in axes[1:]}) == 1


def test_the_overlay_takes_decoded_pictures_and_says_what_goes_to_the_condition():
    picture = np.zeros((64, 96, 3), np.uint8)
    row = torch.tensor([0.1] * 6 + [0.3, 0.1])
    axes = whole(attention_overlay(picture, row, 5, (2, 3)))
    assert axes[1].get_title() == "attention\n40% on condition"
    assert axes[1].patches[0].get_xy() == (63.5, 31.5)


def test_an_overlay_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="does not cut"):
        attention_overlay(torch.zeros(1, 8, 8), torch.ones(6), 0, (2, 3))
    with pytest.raises(ValueError, match="needs 6 attention weights, not 5"):
        attention_overlay(torch.zeros(1, 8, 12), torch.ones(5), 0, (2, 3))
    with pytest.raises(ValueError, match="tokens 0 to 5"):
        attention_overlay(torch.zeros(1, 8, 12), torch.ones(6), 6, (2, 3))


def test_the_heat_map_has_a_panel_for_every_part(run):
    model, trajectory = run
    norms = trajectory.modulation_norms(model)
    axes = [axis for axis in whole(modulation_heat_map(norms, trajectory.t), captioned=False) if axis.get_title()]
    assert [axis.get_title() for axis in axes] == [part.replace("_", " ") for part in norms]
    assert (axes[2].images[0].get_array().data == norms["gate_attn"].numpy()).all()
    assert axes[0].get_xticklabels()[0].get_text() == "999"
    named = whole(modulation_heat_map(norms, trajectory.t, trajectory.config.block_names), captioned=False)
    assert [tick.get_text() for tick in named[0].get_yticklabels()] == trajectory.config.block_names
    adaln = {part: norms[part] for part in ("shift_attn", "scale_attn", "shift_mlp", "scale_mlp")}
    assert len([axis for axis in whole(modulation_heat_map(adaln), captioned=False) if axis.get_title()]) == 4


def test_loss_curves_take_steps_and_log_lines_alike():
    steps = [TrainStep(i, 1.1 / i, 1 / i, 0.1 / i, 1.0, 1e-4, 10.0) for i in range(1, 31)]
    lines = [dict(step=s.step, loss=s.loss, mse=s.mse, vb=s.vb) for s in steps]
    for log in (steps, lines):
        first, second = whole(loss_curve(log), captioned=False)
        assert first.get_yscale() == second.get_yscale() == "log"
        assert [line.get_label() for line in first.lines] == ["mse (simple loss)", "loss = mse + vb"]
        np.testing.assert_allclose(second.lines[0].get_ydata(), [step.vb for step in steps])
    assert len(whole(loss_curve([line | {"vb": 0.0} for line in lines]), captioned=False)) == 1
    assert len(whole(loss_curve(steps[:1]), captioned=False)) == 2
    with pytest.raises(ValueError, match="no training step"):
        loss_curve([])


def test_long_loss_curves_are_smoothed_without_moving_them():
    log = [dict(step=i, loss=2.0, mse=1.0 + (-1) ** i / 2, vb=0.0) for i in range(400)]
    (axis,) = whole(loss_curve(log), captioned=False)
    np.testing.assert_allclose(axis.lines[1].get_ydata(), 1.0)
    assert axis.lines[1].get_xdata()[-1] == 399


def test_figures_never_load_pyplot(monkeypatch):
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    importlib.reload(plots.base)
    importlib.reload(plots).sample_grid(torch.zeros(1, 1, 4, 4))
    assert "matplotlib.pyplot" not in sys.modules


def test_spectra_have_a_curve_a_block_and_a_row_a_block_over_time(run):
    model, trajectory = run
    u_shaped = random_udit(num_classes=5)
    both = {
        "DiT": feature_spectra(trajectory, model),
        "U-DiT": feature_spectra(record(u_shaped, [1, 2], steps=3), u_shaped, [0, 2]),
    }
    axes = whole(spectrum(both), captioned=False)
    curves, shares = [axis for axis in axes if axis.lines], [axis for axis in axes if axis.images]
    assert [len(axis.lines) for axis in curves] == [3, 6]
    pictures = [axis for axis in shares if axis.images[0].get_array().shape in ((3, 5), (6, 2))]
    assert len(pictures) == 2
    np.testing.assert_allclose(pictures[1].images[0].get_array(), both["U-DiT"].low)
    assert [label.get_text() for label in pictures[1].get_yticklabels()] == u_shaped.config.block_names
    np.testing.assert_allclose(curves[1].lines[4].get_xdata(), both["U-DiT"].frequency[4])
