"""Samplers that add noise on the way: against diffusers' scheduler with the same noise, and laws of Gaussian data."""

import math

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from shared import random_model
from torch.testing import assert_close

from dit_lab.diffusion import PREDICTIONS, described, generate, ideal_denoiser, process_of, sample
from dit_lab.diffusion.by_timestep import step_told
from dit_lab.diffusion.stochastic import STOCHASTIC, with_diffusion

FLOW = dict(schedule="flow", prediction="velocity", learned_variance=False)
SIT = dict(schedule="sit", prediction="sit_velocity", learned_variance=False)
LABELS = [1, 2]
MEAN, STD = 0.5, 0.4


def gaussian_model(**objective):
    """The best possible network for pixels that are independent N(MEAN, STD^2)."""

    def best(x, t, y):
        a, s = process.signal_and_noise(step_told(process, t), x.double())
        error = (x - a * MEAN) / (a**2 * STD**2 + s**2)
        x0, eps = MEAN + a * STD**2 * error, s * error
        return PREDICTIONS[process.prediction].target(x0, eps, a, s).to(x)

    model = described(best, input_size=48, in_channels=4, num_classes=5, **objective)
    process = process_of(model.config)
    return model


def drawn(count):
    """Noise for a walk, and the walk's source of it."""
    generator = torch.Generator().manual_seed(3)
    noise = [torch.randn(2, 3, 8, 12, generator=generator) for _ in range(count)]
    left = iter(noise)
    return noise, lambda shape: next(left)


@pytest.mark.parametrize("prediction, theirs", [("eps", "epsilon"), ("x0", "sample"), ("v", "v_prediction")])
@pytest.mark.parametrize("steps", [3, 20])
def test_dpm_solver_sde_is_diffusers_with_the_same_noise(prediction, theirs, steps):
    model, ((x, *noise), given) = random_model(prediction=prediction, learned_variance=False), drawn(steps + 1)
    ours = list(sample(model, LABELS, sampler="dpmpp_sde", steps=steps, noise=given))
    about = dict(prediction_type=theirs, algorithm_type="sde-dpmsolver++", final_sigmas_type="zero")
    scheduler = DPMSolverMultistepScheduler(1000, 1e-4, 0.02, "linear", **about)
    scheduler.set_timesteps(steps)
    timesteps = [step.t for step in ours]
    ratio = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).sqrt()
    scheduler.timesteps, scheduler.num_inference_steps = torch.tensor(timesteps), steps
    scheduler.sigmas = torch.cat([ratio[timesteps], torch.zeros(1)])
    with torch.no_grad():
        for step, z in zip(ours, noise, strict=True):
            said = model(x, torch.full((2,), step.t), torch.tensor(LABELS))
            x = scheduler.step(said, step.t, x, variance_noise=z).prev_sample
            assert_close(step.previous, x, rtol=1e-4, atol=1e-5 * x.abs().max().item())


@pytest.mark.parametrize("objective", [FLOW, SIT, dict(learned_variance=False)], ids=["flow", "sit", "diffusion"])
@pytest.mark.parametrize("sampler", STOCHASTIC)
def test_many_samples_have_the_mean_and_deviation_of_gaussian_data(sampler, objective):
    pictures = generate(
        gaussian_model(**objective), LABELS, sampler=sampler, steps=200, seed=1
    )  # 18432 independent values
    assert pictures.mean().item() == pytest.approx(MEAN, abs=0.015)
    assert pictures.std().item() == pytest.approx(STD, rel=0.025)


def test_a_diffusions_walk_of_few_steps_leaves_no_noise_in_a_picture_of_one_colour():
    model = ideal_denoiser(torch.full((1, 1, 4, 4), 0.5))
    assert_close(generate(model, [0], sampler="sde", steps=50), torch.full((1, 1, 4, 4), 0.5))
    known = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    drawn = generate(ideal_denoiser(known), [0] * 8, sampler="sde", steps=50, clip_x0=False)
    assert (drawn[:, None] - known).abs().amax(dim=(2, 3, 4)).amin(dim=1).max() < 1e-3


@pytest.mark.parametrize("coefficient", [lambda a, s: 0.3 * s, lambda a, s: s, lambda a, s: a * s])
def test_every_diffusion_coefficient_has_the_marginals_of_the_flow_on_the_way_too(coefficient):
    steps = list(sample(gaussian_model(**FLOW), LABELS, sampler=with_diffusion(coefficient), steps=200, seed=2))
    for step in steps[::40]:
        t = step.t / 1000
        assert step.x.mean().item() == pytest.approx((1 - t) * MEAN, abs=0.03)
        assert step.x.std().item() == pytest.approx(math.hypot((1 - t) * STD, t), rel=0.03)


@pytest.mark.parametrize("objective", [FLOW, SIT, dict(learned_variance=False)], ids=["flow", "sit", "diffusion"])
def test_without_diffusion_it_is_eulers_step_to_the_bit(objective):
    model = random_model(**objective)
    none = generate(model, LABELS, sampler=with_diffusion(lambda a, s: 0.0), steps=7, seed=3)
    assert torch.equal(none, generate(model, LABELS, sampler="euler", steps=7, seed=3))


def test_a_step_of_the_flow_is_sits():
    """Drift v + D score and noise sqrt(2 D dt), with v = x0 - eps, the score -eps / t and D = t."""
    (_, *noise), given = drawn(6)
    walk = list(sample(random_model(**SIT), LABELS, sampler="sde", steps=5, noise=given))
    for step, z in zip(walk[:-1], noise, strict=False):
        t, dt = 1 - step.t, 1 / 5
        drift = (step.x0 - step.eps) + t * (-step.eps / t)
        assert_close(step.previous, step.x + drift * dt + math.sqrt(2 * t * dt) * z, rtol=1e-4, atol=1e-4)
    assert torch.equal(walk[-1].previous, walk[-1].x0)


@pytest.mark.parametrize("sampler", STOCHASTIC)
@pytest.mark.parametrize("objective", [FLOW, SIT, {}], ids=["flow", "sit", "diffusion"])
def test_the_noise_of_every_step_but_the_last_decides_the_picture(sampler, objective):
    model = random_model(**objective)

    def one(changed):
        noise, _ = drawn(5)
        noise[changed] = noise[changed] + 1
        left = iter(noise)
        return generate(model, LABELS, sampler=sampler, steps=4, noise=lambda shape: next(left))

    pictures = [one(changed) for changed in (1, 2, 3, 4)]
    last = pictures.pop()
    assert not any(torch.equal(picture, last) for picture in pictures)
    _, given = drawn(5)
    assert torch.equal(last, generate(model, LABELS, sampler=sampler, steps=4, noise=given))
