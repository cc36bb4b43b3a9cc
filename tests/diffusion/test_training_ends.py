"""What training promises at its ends: the first and the last timestep, the bound's first step, what min-SNR weights."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dit_lab.diffusion import Diffusion, Flow, SiT, process_of
from dit_lab.diffusion.by_timestep import step_told

SHAPE = 4, 2, 4, 4


def drawn(process, count, **options):
    return process.times(count, torch.Generator().manual_seed(0), **options)


@pytest.mark.parametrize("steps", [1, 5, 1000])
def test_every_timestep_of_a_diffusion_is_trained_the_first_and_the_last_as_often_as_any(steps):
    process = Diffusion.named().respaced(steps)
    counts = torch.bincount(drawn(process, 400 * steps), minlength=steps)
    assert len(counts) == steps and counts.min() > 300 and counts.max() < 500
    assert abs(counts[0] - 400) < 80 and abs(counts[-1] - 400) < 80  # four deviations


@pytest.mark.parametrize("process", [Flow(), SiT()])
@pytest.mark.parametrize("spread", ["uniform", "logit_normal"])
def test_a_flow_is_trained_over_all_of_its_path_and_no_further(process, spread):
    t = (drawn(process, 100_000, spread=spread) + 1) / 1000
    assert t.min() > 0 and t.max() <= 1
    if spread == "uniform":
        assert t.min() < 1e-4 and t.max() > 1 - 1e-4
        assert np.histogram(t.numpy(), 10, (0, 1))[0] == pytest.approx(10_000, rel=0.04)
    else:  # a normal's quarters, made times
        quarters = torch.tensor([-0.6745, 0.0, 0.6745]).sigmoid()
        assert t.quantile(torch.tensor([0.25, 0.5, 0.75])) == pytest.approx(quarters, abs=0.01)


@pytest.mark.parametrize("process", [Diffusion.named(), Flow(), SiT()])
def test_the_network_is_told_the_ends_that_it_is_asked_for(process):
    ends = {Diffusion: (0, 999), Flow: (1, 1000), SiT: (0.999, 0)}[type(process)]
    told = process.model_time(torch.tensor([0, 999]))
    assert told.tolist() == pytest.approx(list(ends))
    assert step_told(process, told).tolist() == pytest.approx([0, 999], abs=1e-3)


def losses_at(i, wrong=0.3, v=0.2, **options):
    """The losses of a network that is off by `wrong` everywhere, at the step i of the paper's process."""
    g = torch.Generator().manual_seed(1)
    x0, eps = torch.rand(SHAPE, generator=g) * 2 - 1, torch.randn(SHAPE, generator=g)
    said = torch.cat([eps + wrong, torch.full(SHAPE, v)], dim=1)
    network = lambda x, t, y: said
    process = Diffusion.named()
    i = torch.full((SHAPE[0],), i)
    return process, x0, eps, i, process.losses(network, x0, i, None, eps, **options)


def normal_kl(mean1, log1, mean2, log2):
    """Of two normal distributions, in bits."""
    return (log2 - log1 + (log1 - log2).exp() + (mean1 - mean2) ** 2 * (-log2).exp() - 1) / 2 / math.log(2)


@pytest.mark.parametrize("i", [1, 2, 500, 999])
def test_the_bound_of_every_step_but_the_first_is_the_kl_of_the_two_posteriors(i):
    process, x0, eps, at, losses = losses_at(i)
    x = process.noised(x0, at, eps)
    a_bar, before, beta = process.alpha_bar[i], process.alpha_bar_previous[i], process.betas[i]
    off = beta * math.sqrt(before) / (1 - a_bar) * math.sqrt(1 - a_bar) / math.sqrt(a_bar) * 0.3  # of the mean
    low = math.log(beta * (1 - before) / (1 - a_bar))
    log_variance = 0.6 * math.log(beta) + 0.4 * low  # v = 0.2
    expected = normal_kl(torch.tensor(0.0), torch.tensor(low), torch.tensor(off), torch.tensor(log_variance))
    assert losses.vb.tolist() == pytest.approx([expected.item()] * SHAPE[0], rel=1e-2) and x.isfinite().all()


def test_the_first_steps_is_the_likelihood_of_8_bit_pixels_and_no_others():
    """At step 1 a pixel's own bin would count about as many bits as its width says, at the first it does."""
    process, x0, eps, at, losses = losses_at(0)
    x = process.noised(x0, at, eps)
    mean = process.posterior_mean(process.denoised(eps + 0.3, x, at)[0], x, at)
    scale = (process.log_variance(torch.full(SHAPE, 0.2), at, x) / 2).exp()
    normal = torch.distributions.Normal(mean.double(), scale.double())
    bins = normal.cdf(x0.double() + 1 / 255) - normal.cdf(x0.double() - 1 / 255)
    expected = -bins.clamp(min=1e-12).log2().mean(dim=(1, 2, 3))
    assert losses.vb.tolist() == pytest.approx(expected.tolist(), rel=1e-3)


@pytest.mark.parametrize("i", [0, 1, 100])
@pytest.mark.parametrize("gamma", [0.5, 5.0])
def test_min_snr_weights_the_simple_loss_and_leaves_the_bound_alone(i, gamma):
    process, *_, plain = losses_at(i)
    *_, weighted = losses_at(i, min_snr=gamma)
    snr = process.alpha_bar[i] / (1 - process.alpha_bar[i])
    assert torch.equal(weighted.vb, plain.vb) and torch.equal(weighted.mse, plain.mse)
    share = min(snr, gamma) / snr  # on eps, Min-SNR's section 3.3
    assert share < 0.9 and plain.vb.min() > 0
    torch.testing.assert_close(weighted.loss, share * plain.mse + plain.vb, rtol=1e-4, atol=1e-7)


def test_without_a_learned_variance_there_is_no_bound_to_leave_alone():
    process = process_of(SimpleNamespace(schedule="linear", prediction="eps", learned_variance=False))
    x0, i = torch.zeros(SHAPE), torch.zeros(SHAPE[0], dtype=torch.long)
    losses = process.losses(lambda x, t, y: torch.ones(SHAPE), x0, i, None, torch.zeros(SHAPE))
    assert losses.vb.eq(0).all() and torch.equal(losses.loss, losses.mse)
