"""The process against closed forms, Bayes' rule, torch.distributions and diffusers' schedulers."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch.distributions import Normal, kl_divergence
from torch.testing import assert_close

from dit_lab.diffusion import PREDICTIONS, SCHEDULES, Diffusion
from dit_lab.diffusion.gaussian import discretised_nll, gaussian_kl

BOTH = pytest.mark.parametrize("schedule", SCHEDULES)
PIXELS = torch.arange(256, dtype=torch.float64) / 127.5 - 1


def batch(diffusion, n=32, seed=0, dtype=torch.float64):
    """Some 8-bit images, noise and steps, the first and the last among them: `x0, eps: b c h w, i: b`."""
    g = torch.Generator().manual_seed(seed)
    x0 = PIXELS[torch.randint(0, 256, (n, 3, 4, 4), generator=g)].to(dtype)
    i = torch.randint(0, len(diffusion.betas), (n,), generator=g)
    i[:2] = torch.tensor([0, len(diffusion.betas) - 1])
    return x0, torch.randn(x0.shape, generator=g, dtype=dtype), i


def test_linear_betas_run_from_1e4_to_002_and_keep_the_final_noise_at_other_lengths():
    assert_close(Diffusion.named().betas[[0, 499, -1]], np.array([1e-4, 1e-4 + 0.0199 * 499 / 999, 0.02]))
    ends = [Diffusion.named(steps=steps).alpha_bar[-1] for steps in (500, 1000, 4000)]
    assert np.log(ends) == pytest.approx(np.log(ends[1]), rel=0.02)


def test_cosine_alpha_bar_is_the_squared_cosine_until_the_cap():
    diffusion = Diffusion.named("cosine")
    wave = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    assert_close(diffusion.alpha_bar[:-1], wave[1:-1] / wave[0], rtol=1e-9, atol=0)
    assert diffusion.betas[-1] == 0.999 == diffusion.betas.max()


@pytest.mark.parametrize("ours, theirs", [("linear", "linear"), ("cosine", "squaredcos_cap_v2")])
def test_betas_are_those_of_diffusers(ours, theirs):
    scheduler = DDPMScheduler(1000, beta_start=1e-4, beta_end=0.02, beta_schedule=theirs)
    assert_close(torch.from_numpy(Diffusion.named(ours).betas), scheduler.betas.double(), rtol=1e-6, atol=1e-9)


@BOTH
def test_respacing_keeps_first_and_last_and_the_noise_level_of_every_kept_timestep(schedule):
    full = Diffusion.named(schedule)
    for steps in range(2, 1001):
        short = full.respaced(steps)
        assert short.timesteps[0] == 0 and short.timesteps[-1] == 999 and len(short.timesteps) == steps
        assert (np.diff(short.timesteps) > 0).all() and (short.betas > 0).all() and (short.betas < 1).all()
        assert np.abs(short.timesteps - np.linspace(0, 999, steps)).max() <= 0.5 + 1e-9
        assert np.allclose(short.alpha_bar, full.alpha_bar[short.timesteps], rtol=1e-9, atol=1e-15)


@BOTH
def test_respacing_to_all_steps_is_the_same_process_and_to_one_is_the_noisiest(schedule):
    full = Diffusion.named(schedule)
    assert (full.respaced(1000).timesteps == full.timesteps).all()
    assert_close(full.respaced(1000).betas, full.betas, rtol=1e-9, atol=0)
    assert full.respaced(1).timesteps.tolist() == [999]
    assert_close(full.respaced(1).alpha_bar, full.alpha_bar[-1:], rtol=1e-6, atol=0)


def test_a_process_shortened_twice_still_tells_the_network_the_full_timesteps():
    short = Diffusion.named().respaced(112).respaced(4)
    assert short.timesteps.tolist() == [0, 333, 666, 999]
    assert short.model_time(torch.tensor([3, 0, 1])).tolist() == [999, 0, 333]


@pytest.mark.parametrize("steps", [0, -1, 1001, 2.0, 2.5, "2", True, None, math.nan])
def test_impossible_step_counts_are_refused(steps):
    with pytest.raises(ValueError, match="steps must be a whole number from 1 to 1000"):
        Diffusion.named().respaced(steps)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(schedule="sqrt"), "no schedule 'sqrt'; there are linear, cosine"),
        (dict(prediction="score"), "no prediction 'score'; there are eps, x0, v"),
        (dict(steps=0), "whole number of at least 1, not 0"),
        (dict(steps=10.5), "whole number of at least 1"),
        (dict(steps=20), "betas must lie between 0 and 1"),
    ],
)
def test_impossible_processes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Diffusion.named(**arguments)


def test_hand_made_processes_are_checked_too():
    for betas in ([0.1, 1.0], [0.0, 0.1], [0.1, math.nan], [0.1]):
        with pytest.raises(ValueError, match="betas must lie between 0 and 1, one a timestep"):
            Diffusion(np.array(betas), np.arange(2))
    with pytest.raises(ValueError, match="no prediction"):
        Diffusion(np.array([0.1]), np.arange(1), "noise")


@BOTH
def test_noising_in_one_jump_has_the_moments_of_noising_step_by_step(schedule):
    diffusion = Diffusion.named(schedule, steps=50)
    mean, variance = 1.0, 0.0
    for i, beta in enumerate(diffusion.betas):
        mean, variance = mean * math.sqrt(1 - beta), variance * (1 - beta) + beta
        one, i = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.tensor([i])
        assert diffusion.noised(one, i, 0 * one).item() == pytest.approx(mean)
        assert diffusion.noised(0 * one, i, one).item() == pytest.approx(math.sqrt(variance))


@BOTH
def test_the_posterior_is_bayes_rule(schedule):
    diffusion = Diffusion.named(schedule)
    x0, eps, i = batch(diffusion)
    i = i.clamp(min=1)
    x = diffusion.noised(x0, i, eps)
    pick = lambda values: torch.from_numpy(values)[i].reshape(-1, 1, 1, 1)
    alpha, before = 1 - pick(diffusion.betas), pick(diffusion.alpha_bar[np.arange(1000) - 1])
    # q(y | x0) = N(sqrt(before) x0, 1 - before) times q(x | y) = N(sqrt(alpha) y, 1 - alpha), as a Gaussian in y.
    precision = 1 / (1 - before) + alpha / (1 - alpha)
    mean = (before.sqrt() * x0 / (1 - before) + alpha.sqrt() * x / (1 - alpha)) / precision
    assert_close(diffusion.posterior_mean(x0, x, i), mean, rtol=1e-8, atol=1e-10)
    assert_close(diffusion.posterior_log_variance(i, x), -precision.log(), rtol=1e-8, atol=1e-8)


def test_the_first_posterior_is_x0_with_the_second_ones_variance():
    diffusion = Diffusion.named()
    x0, eps, _ = batch(diffusion)
    i = torch.zeros(len(x0), dtype=torch.long)
    assert_close(diffusion.posterior_mean(x0, eps, i), x0, rtol=1e-9, atol=1e-9)
    assert torch.equal(diffusion.posterior_log_variance(i, x0), diffusion.posterior_log_variance(i + 1, x0))


@BOTH
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_perfect_output_gives_back_x0_and_eps(schedule, prediction):
    diffusion = Diffusion.named(schedule, prediction)
    x0, eps, i = batch(diffusion)
    x, signal_and_noise = diffusion.noised(x0, i, eps), diffusion.signal_and_noise(i, x0)
    output = PREDICTIONS[prediction].target(x0, eps, *signal_and_noise)
    got_x0, got_eps = diffusion.denoised(output, x, i)
    assert_close(got_x0, x0, rtol=0, atol=1e-8)
    assert_close(got_eps, eps, rtol=0, atol=1e-8)
    losses = diffusion.losses(lambda x, t, y: output, x0, i, None, eps)
    assert losses.mse.abs().max() == 0 == losses.vb.abs().max() and torch.equal(losses.loss, losses.mse)


@pytest.mark.parametrize("steps", [1000, 50])
def test_learned_variance_runs_from_the_posterior_to_beta(steps):
    diffusion = Diffusion.named().respaced(steps)
    x0, _, i = batch(diffusion)
    ones, beta = torch.ones_like(x0), torch.from_numpy(np.log(diffusion.betas))[i].reshape(-1, 1, 1, 1)
    low = diffusion.posterior_log_variance(i, x0)
    assert_close(diffusion.log_variance(-ones, i, x0), low.expand_as(x0))
    assert_close(diffusion.log_variance(ones, i, x0), beta.expand_as(x0))
    assert_close(diffusion.log_variance(0 * ones, i, x0), ((low + beta) / 2).expand_as(x0))


def test_fixed_variance_is_beta_and_at_the_first_step_the_posteriors():
    diffusion = Diffusion.named()
    i, like = torch.tensor([0, 1, 999]), torch.zeros(3, 1, 1, 1, dtype=torch.float64)
    expected = [diffusion.log_posterior_variance[1], math.log(diffusion.betas[1]), math.log(0.02)]
    assert diffusion.log_variance(None, i, like).flatten().tolist() == pytest.approx(expected)


def test_constants_are_float64_until_cast_to_the_tensor():
    diffusion, i = Diffusion.named("cosine"), torch.arange(1000)
    exact = diffusion.signal_and_noise(i, torch.empty(0, dtype=torch.float64))
    cast = diffusion.signal_and_noise(i, torch.empty(0, dtype=torch.float32))
    for sharp, rounded in zip(exact, cast, strict=True):
        assert rounded.shape == (1000, 1, 1, 1) and torch.equal(sharp.float(), rounded)


def test_kl_is_that_of_torch_distributions():
    g = torch.Generator().manual_seed(0)
    m1, m2, v1, v2 = torch.randn(4, 1000, generator=g, dtype=torch.float64)
    expected = kl_divergence(Normal(m1, (v1 / 2).exp()), Normal(m2, (v2 / 2).exp()))
    assert_close(gaussian_kl(m1, v1, m2, v2), expected)
    assert gaussian_kl(m1, v1, m1, v1).abs().max() == 0


@pytest.mark.parametrize("scale", [0.003, 0.01, 0.3, 3.0])
def test_the_probabilities_of_all_256_values_sum_to_one(scale):
    mean = torch.tensor([-1.4, -1.0, -0.3, 0.0, 0.7123, 1.0, 1.2], dtype=torch.float64)
    nll = discretised_nll(PIXELS[:, None], mean, torch.tensor(math.log(scale)).double())
    assert_close(torch.exp(-nll).sum(dim=0), torch.ones_like(mean), rtol=0, atol=1e-8)


def test_the_likelihood_is_the_density_integrated_over_the_bin():
    for value, mean, scale in [(-1 / 255, 0.05, 0.03), (101 / 255, 0.4, 0.002), (1.0, 0.98, 0.01), (-1.0, -0.9, 0.04)]:
        low = -5.0 if value == -1 else value - 1 / 255
        high = 5.0 if value == 1 else value + 1 / 255
        grid = torch.linspace(low, high, 500_001, dtype=torch.float64)
        mass = torch.trapezoid(torch.exp(-(((grid - mean) / scale) ** 2) / 2), grid) / (scale * math.sqrt(2 * math.pi))
        nll = discretised_nll(*torch.tensor([value, mean, math.log(scale)], dtype=torch.float64))
        assert nll.item() == pytest.approx(-mass.log().item(), rel=1e-6)


def test_the_likelihood_keeps_its_digits_in_both_tails_of_fp32():
    distance = torch.linspace(-6.5, 6.5, 101)
    x0, log_scale = torch.full_like(distance, 1 / 255), torch.full_like(distance, math.log(0.0085))
    mean = x0 - 0.0085 * distance
    exact = discretised_nll(x0.double(), mean.double(), log_scale.double())
    assert_close(discretised_nll(x0, mean, log_scale).double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_losses_are_l_simple_and_the_bound_in_bits(prediction):
    diffusion = Diffusion.named(prediction=prediction)
    x0, eps, i = batch(diffusion)
    x = diffusion.noised(x0, i, eps)
    target = PREDICTIONS[prediction].target(x0, eps, *diffusion.signal_and_noise(i, x0))
    output, v = target + 0.01 * torch.sin(40 * eps), torch.cos(50 * eps)
    losses = diffusion.losses(lambda x, t, y: torch.cat([output, v], dim=1), x0, i, None, eps)
    mean = diffusion.posterior_mean(diffusion.denoised(output, x, i)[0], x, i)
    predicted = Normal(mean, (diffusion.log_variance(v, i, x) / 2).exp())
    truth = Normal(diffusion.posterior_mean(x0, x, i), (diffusion.posterior_log_variance(i, x) / 2).exp())
    upto = torch.where(x0 > 0.999, 1.0, predicted.cdf(x0 + 1 / 255))
    nll = -torch.log((upto - torch.where(x0 < -0.999, 0.0, predicted.cdf(x0 - 1 / 255))).clamp(min=1e-12))
    bits = torch.where(i == 0, nll.mean(dim=(1, 2, 3)), kl_divergence(truth, predicted).mean(dim=(1, 2, 3))) / math.log(
        2
    )
    assert_close(losses.mse, ((output - target) ** 2).mean(dim=(1, 2, 3)))
    assert_close(losses.vb, bits, rtol=1e-7, atol=1e-9)
    assert torch.equal(losses.loss, losses.mse + losses.vb)


def test_the_bound_trains_the_variance_and_l_simple_the_prediction():
    diffusion = Diffusion.named()
    x0, eps, i = batch(diffusion)
    output = (eps + 0.1).requires_grad_()
    v = torch.zeros_like(eps).requires_grad_()
    losses = diffusion.losses(lambda x, t, y: torch.cat([output, v], dim=1), x0, i, None, eps)
    of_vb = torch.autograd.grad(losses.vb.sum(), (output, v), retain_graph=True)
    of_mse = torch.autograd.grad(losses.mse.sum(), (output, v))
    assert of_vb[0].abs().max() == 0 == of_mse[1].abs().max()
    assert (of_vb[1] != 0).all() and (of_mse[0] != 0).all()


def test_the_network_sees_the_noised_image_its_timestep_and_its_label():
    diffusion, seen = Diffusion.named().respaced(10), []
    x0, eps, i = batch(diffusion)
    diffusion.losses(lambda *inputs: seen.extend(inputs) or eps, x0, i, "labels", eps)
    x, t, y = seen
    assert (
        torch.equal(x, diffusion.noised(x0, i, eps)) and t.tolist() == diffusion.timesteps[i].tolist() and y == "labels"
    )


def test_one_broken_image_leaves_the_losses_of_the_others_alone():
    diffusion = Diffusion.named()
    x0, eps, i = batch(diffusion, dtype=torch.float32)
    whole = torch.cat([eps + 0.1, 0 * eps], dim=1)
    broken = whole.clone()
    broken[5] = math.nan
    others = torch.arange(len(x0)) != 5
    clean, sick = (diffusion.losses(lambda x, t, y, out=out: out, x0, i, None, eps) for out in (whole, broken))
    for before, after in zip(clean, sick, strict=True):
        assert after.isnan().nonzero().tolist() == [[5]]
        assert torch.equal(before[others], after[others])


def test_half_precision_outputs_are_judged_in_the_precision_of_the_images():
    diffusion = Diffusion.named()
    x0, eps, i = batch(diffusion, dtype=torch.float32)
    output = torch.cat([eps + 0.1, torch.tanh(eps)], dim=1).bfloat16()
    half = diffusion.losses(lambda x, t, y: output, x0, i, None, eps)
    full = diffusion.losses(lambda x, t, y: output.float(), x0, i, None, eps)
    assert all(a.dtype == torch.float32 and torch.equal(a, b) for a, b in zip(half, full, strict=True))
