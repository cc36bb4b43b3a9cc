"""Features as colours: the axes are numpy's, and a colour means the same at every step, block and fit."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from looks import PLACES, features_of, run_of

import dit_lab
from dit_lab.inside import TraceError, record
from dit_lab.inside.colours import Colours, Moments, fit_colours
from dit_lab.models import BLOCKS


def stacked(name, stage=None, samples=(0,)):
    """All tokens of a run, each with mean 0 and root mean square 1 over its features: `m d` in float64."""
    tokens = np.concatenate([features_of(name, stage, sample).double().numpy() for sample in samples])
    tokens = tokens.reshape(-1, tokens.shape[-1])
    tokens = tokens - tokens.mean(-1, keepdims=True)
    return tokens / np.sqrt((tokens**2).mean(-1, keepdims=True) + 1e-6)


@pytest.mark.parametrize(("name", "stage"), PLACES)
@pytest.mark.parametrize("samples", [[0], [0, 1]])
def test_the_axes_are_the_principal_components_of_all_tokens_stacked(name, stage, samples):
    model, trajectory = run_of(name)
    colours, tokens = fit_colours(trajectory, model, stage=stage, sample=samples), stacked(name, stage, samples)
    mean = tokens.mean(0)
    _, spread, axes = np.linalg.svd(tokens - mean, full_matrices=False)
    np.testing.assert_allclose(colours.mean.numpy(), mean, atol=1e-5)
    np.testing.assert_allclose(colours.explained.numpy(), (spread**2 / (spread**2).sum())[:3], atol=1e-5)
    for ours, theirs in zip(colours.axes.numpy(), axes, strict=False):
        np.testing.assert_allclose(ours, theirs * np.sign(theirs[np.abs(theirs).argmax()]), atol=1e-3)
        assert ours[np.abs(ours).argmax()] > 0
    along = (tokens - mean) @ colours.axes.double().numpy().T
    low, high = np.quantile(along, [0.01, 0.99], axis=0)
    np.testing.assert_allclose(colours.low.numpy(), low, atol=1e-3)
    np.testing.assert_allclose(colours.high.numpy(), high, atol=1e-3)


def test_the_same_features_have_the_same_colours_wherever_they_come_from():
    model, trajectory = run_of("adaln_zero")
    colours, features = fit_colours(trajectory, model), features_of("adaln_zero")
    whole = colours.of(features, (2, 3))
    assert whole.shape == (4, 3, 2, 3, 3) and whole.min() == 0 and whole.max() == 1
    for step in range(4):
        for block in range(3):
            torch.testing.assert_close(colours.of(features[step, block], (2, 3)), whole[step, block])
    torch.testing.assert_close(whole[1, 2, 1, 0], colours.of(features[1, 2, 3:4], (1, 1))[0, 0])
    torch.testing.assert_close(colours.of(50 * features, (2, 3)), whole, rtol=0, atol=1e-4)  # length has no colour


@pytest.mark.parametrize("name", [*BLOCKS, "U-DiT"])
def test_fitting_again_or_with_the_samples_in_another_order_gives_the_same_colours(name):
    model, trajectory = run_of(name)
    stage = "middle" if name == "U-DiT" else None
    swapped = replace(
        trajectory, labels=trajectory.labels[::-1], sample=trajectory.sample.flip(0),
        **{each: getattr(trajectory, each).flip(1) for each in ("x", "x0", "eps")},
    )  # fmt: skip
    first = fit_colours(trajectory, model, stage=stage, sample=[0, 1])
    again = fit_colours(trajectory, model, stage=stage, sample=[0, 1])
    others = (
        fit_colours(swapped, model, stage=stage, sample=[0, 1]),
        fit_colours(trajectory, model, stage=stage, sample=[1, 0]),
    )
    for field in "mean", "axes", "low", "high", "explained":
        assert torch.equal(getattr(first, field), getattr(again, field))
        for other in others:
            torch.testing.assert_close(getattr(first, field), getattr(other, field), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("passes", "tokens", "kept"), [(6, 7, 42), (6, 7, 20), (50, 7, 20), (3, 40, 100), (4, 5, 1)])
def test_the_range_is_taken_from_a_bounded_even_draw_of_tokens(passes, tokens, kept, monkeypatch):
    monkeypatch.setattr("dit_lab.inside.colours.KEPT", kept)
    moments = Moments(4, passes, tokens, torch.empty(0))
    for number in range(passes):
        moments.add(torch.randn(1, tokens, 4, generator=torch.Generator().manual_seed(number)))
    counts = [len(some) for some in moments.some]
    assert sum(counts) == min(kept, passes * tokens) and max(counts) - min(counts) <= 1


def test_the_draw_does_not_favour_a_place():
    moments, places = Moments(4, 60, 5, torch.empty(0)), torch.randn(1, 5, 4)
    moments.kept = 60  # one of five tokens each time
    for _ in range(60):
        moments.add(places)
    assert torch.unique(torch.cat(moments.some), dim=0, return_counts=True)[1].tolist() == pytest.approx(
        [12] * 5, abs=8
    )


def test_a_range_from_a_draw_is_near_that_of_all_tokens(monkeypatch):
    model, trajectory = run_of("U-DiT")
    whole = fit_colours(trajectory, model, stage="encoder 1")
    monkeypatch.setattr("dit_lab.inside.colours.KEPT", 400)
    drawn = fit_colours(trajectory, model, stage="encoder 1")
    assert torch.equal(whole.axes, drawn.axes) and torch.equal(whole.mean, drawn.mean)
    assert (whole.low - drawn.low).abs().max() < 0.2 * (whole.high - whole.low).min()


def test_colours_of_one_trained_run_tell_the_digit_from_its_ground():
    """The first axes hold much of the variance, and tokens under the stroke have another colour than the others."""
    model = dit_lab.load("mnist").model
    trajectory = record(model, [0], steps=10, cfg_scale=3.0)
    colours = fit_colours(trajectory, model)
    assert colours.explained.sum() > 0.25
    shown = colours.of(trajectory.features(model, 9), trajectory.grid)[-1].flatten(0, 1)
    ink = trajectory.sample[0, 0].unflatten(0, (7, 4)).unflatten(2, (7, 4)).mean((1, 3)).flatten()
    correlation = np.corrcoef(np.concatenate([shown.T.numpy(), ink[None].numpy()]))[-1, :3]
    assert np.abs(correlation).max() > 0.5


def test_tokens_that_are_all_alike_have_a_colour():
    moments = Moments(4, 1, 3, torch.empty(0))
    moments.add(torch.tensor([1.0, 2.0, 4.0, 3.0]).expand(1, 3, 4))
    moments.end_step()
    picture = moments.colours().of(torch.tensor([[1.0, 2.0, 4.0, 3.0]]), (1, 1))
    assert torch.isfinite(picture).all()


@pytest.mark.parametrize("shape", [(6, 7), (5, 8), (8,), (2, 6, 9)])
def test_features_that_have_no_colours_are_refused(shape):
    colours = Colours(torch.zeros(8), torch.eye(8)[:3], -torch.ones(3), torch.ones(3), torch.ones(3) / 3)
    with pytest.raises(TraceError, match="these colours are of 6 tokens of 8 features on a grid of 2 x 3, not"):
        colours.of(torch.zeros(shape), (2, 3))


def test_a_colour_is_where_a_token_lies_between_low_and_high():
    colours = Colours(
        torch.zeros(4), torch.eye(4)[:3], torch.tensor([-2.0, -1, 0]), torch.tensor([2.0, 1, 2]), torch.ones(3)
    )
    token = torch.tensor([[2.0, 0.0, 0.0, -2.0]]) / math.sqrt(2)
    torch.testing.assert_close(
        colours.of(token, (1, 1)), torch.tensor([[[(2 + 2**0.5) / 4, 0.5, 0.0]]]), rtol=0, atol=1e-5
    )
