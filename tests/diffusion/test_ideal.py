"""The ideal denoiser against Bayes' rule by hand, and what it draws: the pictures that it knows."""

import math

import pytest
import torch
from einops import rearrange
from torch.testing import assert_close

from dit_lab.diffusion import (
    PREDICTIONS,
    Diffusion,
    Flow,
    generate,
    ideal_denoiser,
    loss_by_timestep,
    posterior_mean,
    posterior_weights,
    process_of,
    sample,
)

RANDOM = torch.Generator().manual_seed(0)
PICTURES = torch.rand(7, 2, 2, 3, generator=RANDOM) * 2 - 1
LABELS = [0, 1, 2, 0, 1, 2, 2]


def level(value):
    return torch.tensor([value]).reshape(1, 1, 1, 1)


def by_hand(x, a, s, known):
    """Bayes' rule, a picture at a time: the prior is even, the likelihood a Gaussian's product over all values."""
    likelihoods = []
    for picture in known:
        squares = sum((float(v) - a * float(p)) ** 2 for v, p in zip(x.flatten(), picture.flatten(), strict=True))
        likelihoods.append(math.exp(-squares / (2 * s**2)))
    weights = [each / sum(likelihoods) for each in likelihoods]
    return weights, sum(weight * picture.double() for weight, picture in zip(weights, known, strict=True))


@pytest.mark.parametrize("a, s", [(0.9, 0.5), (0.3, 0.95), (0.0, 1.0), (0.8, 0.3)])
def test_the_posterior_is_bayes_by_hand(a, s):
    x = a * PICTURES[2] + s * torch.randn(2, 2, 3, generator=RANDOM)
    weights, mean = by_hand(x, a, s, PICTURES)
    given = rearrange(x, "c h w -> 1 c h w"), PICTURES, level(a), level(s)
    assert_close(posterior_weights(*given)[0], torch.tensor(weights, dtype=torch.float64), rtol=1e-6, atol=1e-9)
    assert_close(posterior_mean(*given)[0], mean, rtol=1e-6, atol=1e-7)
    among = torch.tensor([[label == 2 for label in LABELS]])
    _, mean = by_hand(x, a, s, PICTURES[[2, 5, 6]])
    assert_close(posterior_mean(*given, among)[0], mean, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("schedule", "prediction", "t"),
    [*(("linear", kind, 400) for kind in PREDICTIONS), ("cosine", "v", 700), ("flow", "velocity", 250.0),
     ("flow", "x0", 1000.0), ("sit", "sit_velocity", 0.25)],
)  # fmt: skip
def test_it_says_what_is_predicted_at_the_timestep_that_it_is_told(schedule, prediction, t):
    model = ideal_denoiser(PICTURES, LABELS, schedule=schedule, prediction=prediction)
    process = process_of(model.config)
    i = {"flow": t - 1, "sit": 1000 * (1 - t) - 1}.get(schedule, t)
    a, s = process.levels(i)
    x = torch.randn(3, 2, 2, 3, generator=RANDOM)
    said = model(x, torch.full((3,), t), torch.tensor([1, 2, 3]))
    for number, known in enumerate(([1, 4], [2, 5, 6], range(7))):
        _, x0 = by_hand(x[number], a, s, PICTURES[list(known)])
        eps = (x[number].double() - a * x0) / s
        assert_close(said[number].double(), PREDICTIONS[prediction].target(x0, eps, a, s), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("schedule, sampler", [("linear", "ddim"), ("cosine", "dpmpp"), ("flow", "euler")])
def test_what_it_draws_are_its_own_pictures_of_the_class_that_was_asked_for(schedule, sampler):
    model = ideal_denoiser(PICTURES, LABELS, schedule=schedule)
    drawn = generate(model, [0, 1, 2, 3] * 4, sampler=sampler, steps=40, seed=2)
    near = (rearrange(drawn, "b c h w -> b 1 c h w") - PICTURES).square().sum(dim=(2, 3, 4))
    assert near.amin(1).max() < 1e-3
    for asked, found in zip([0, 1, 2, 3] * 4, near.argmin(1).tolist(), strict=True):
        assert asked == 3 or LABELS[found] == asked


def test_of_one_picture_it_says_that_picture_from_any_noise():
    model = ideal_denoiser(PICTURES[:1])
    assert model.config.num_classes == 0
    for step in sample(model, [0], steps=6):
        assert_close(step.x0, PICTURES[:1], rtol=1e-3, atol=1e-3)


def test_guidance_takes_it_as_any_model_and_no_network_can_have_a_smaller_error_on_its_pictures():
    model = ideal_denoiser(PICTURES, LABELS)
    assert generate(model, [1], steps=5, cfg_scale=1.5).isfinite().all()
    many, labels = PICTURES.repeat(40, 1, 1, 1), LABELS * 40
    ideal = loss_by_timestep(model, many, labels, [500, 900])
    for size in 0.95, 1.05:
        scaled = ideal_denoiser(PICTURES, LABELS)
        ask = scaled.network
        scaled.network = lambda x, t, y, ask=ask, size=size: size * ask(x, t, y)
        assert (loss_by_timestep(scaled, many, labels, [500, 900]) > ideal).all()


@pytest.mark.parametrize("labels", [[0, 1], [0, 0, 2, 2, 2, 2, 2], [1] * 7])
def test_labels_that_do_not_fit_are_refused(labels):
    with pytest.raises(ValueError, match="labels must be one a picture, whole numbers from 0"):
        ideal_denoiser(PICTURES, labels)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_the_loss_by_timestep_of_a_network_that_says_nothing_is_that_of_its_target(kind):
    process = Diffusion.named()
    model = ideal_denoiser(PICTURES[:1], prediction="x0")
    model.network = lambda x, t, y: torch.zeros_like(x)  # x0 = 0, and so eps = x / s
    times, eps = [50, 600], torch.randn(7, 2, 2, 3, generator=torch.Generator().manual_seed(4))
    found = loss_by_timestep(model, PICTURES, [0] * 7, times, of=kind, seeds=(3, 4), batch_size=3)
    assert found.shape == (2, 2)
    for place, t in enumerate(times):
        a, s = process.levels(t)
        target = PREDICTIONS[kind].target
        said = target(torch.zeros_like(PICTURES), (a * PICTURES + s * eps) / s, a, s)
        assert found[1, place] == pytest.approx((target(PICTURES, eps, a, s) - said).square().mean().item(), rel=1e-4)


def test_the_loss_by_timestep_is_the_training_loss_and_leaves_the_model_as_it_was():
    model = ideal_denoiser(PICTURES, LABELS, schedule="flow").train()
    eps = torch.randn(7, 2, 2, 3, generator=torch.Generator().manual_seed(0))
    i = torch.full((7,), 299.0)
    expected = Flow().losses(model, PICTURES, i, torch.tensor(LABELS), eps).mse.mean().item()
    assert loss_by_timestep(model, PICTURES, LABELS, [300.0])[0, 0] == pytest.approx(expected, rel=1e-5)
    assert model.training


@pytest.mark.parametrize(
    ("times", "options", "told"),
    [
        ([1000], {}, "times must be timesteps from 0 to 999, not 1000"),
        ([5], {"of": "noise"}, "there is no prediction 'noise'; there are eps, x0"),
        ([5], {"y": [0]}, "a label each: there are 7 and 1"),
    ],
)
def test_a_loss_by_timestep_that_makes_no_sense_is_refused(times, options, told):
    y = options.pop("y", LABELS)
    with pytest.raises(ValueError, match=told):
        loss_by_timestep(ideal_denoiser(PICTURES, LABELS), PICTURES, y, times, **options)
