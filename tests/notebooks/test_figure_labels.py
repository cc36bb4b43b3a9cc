"""What the course's figures are held to: a figure that cannot be read by itself is noted, one that can is not."""

import io

import figure_labels
import numpy as np
import pytest
import torch
from figure_labels import lacking
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

from dit_lab.inside import Effect, Scale
from dit_lab.inside.plots import effect_plot, modulation_heat_map


def drawn(**settings):
    """A figure with one curve."""
    figure = Figure()
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1])
    axis.set(**settings)
    return figure


def test_a_curve_with_a_title_and_both_labels_lacks_nothing():
    assert not lacking(drawn(title="One", xlabel="x", ylabel="y"))


@pytest.mark.parametrize("left_out", ["title", "xlabel", "ylabel"])
def test_a_curve_without_one_of_them_is_told(left_out):
    settings = dict(title="One", xlabel="x", ylabel="y")
    [told] = lacking(drawn(**{name: value for name, value in settings.items() if name != left_out}))
    assert ("title" if left_out == "title" else f"{left_out[0]} axis of 'One'") in told


def test_a_picture_without_ticks_needs_no_labels_and_its_colour_bar_does():
    figure = Figure()
    axis = figure.subplots()
    shown = axis.imshow(np.eye(3))
    axis.set(title="A picture", xticks=[], yticks=[])
    assert not lacking(figure)
    bar = figure.colorbar(shown)
    assert lacking(figure) == ["a colour bar without a label, beside 'A picture'"]
    bar.set_label("weight")
    assert not lacking(figure)


def test_a_label_on_one_of_several_shared_axes_or_on_the_figure_does():
    figure = Figure()
    for axis in figure.subplots(1, 2, sharex=True, sharey=True):
        axis.plot([0, 1])
        axis.set_title("Both")
    assert len(lacking(figure)) == 3  # the second y axis shows no numbers
    figure.axes[0].set_ylabel("loss")
    figure.supxlabel("step")
    assert not lacking(figure)


def test_all_that_is_drawn_is_noted(monkeypatch):
    monkeypatch.setattr(figure_labels, "LACKING", [])
    monkeypatch.setattr(FigureCanvasBase, "print_figure", FigureCanvasBase.print_figure)
    figure_labels.note_all()
    drawn(title="One", xlabel="x").savefig(io.BytesIO(), format="png")
    assert figure_labels.LACKING == ["the y axis of 'One' has ticks and no label"]


def test_the_librarys_plots_with_names_on_an_axis_lack_nothing():
    norms = {part: torch.ones(2, 3) for part in ("gate_attn", "gate_mlp")}
    assert not lacking(modulation_heat_map(norms, [9, 5, 0], ["block 0", "block 1"]))
    found = Effect(
        Scale(0, "attn", 0.0), [Scale(1, "attn", 0.0)], 0.5, torch.ones(1), torch.ones(3), torch.ones(1, 3), 2
    )
    assert not lacking(effect_plot(found, [9, 5, 0]))
