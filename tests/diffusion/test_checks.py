"""What sampling is asked for and cannot do, or made and must not show: one sentence each."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from shared import random_model, random_udit

from dit_lab.diffusion import SAMPLERS, Diffusion, check_finite, generate, sample
from dit_lab.diffusion.checks import finite


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "ddim"])
def test_eta_is_refused_by_every_sampler_that_has_none(sampler):
    with pytest.raises(ValueError, match=f"eta is ddim's alone, {sampler} has none: leave it at 0, or take ddim"):
        sample(random_model(), [1], sampler=sampler, eta=0.5)
    assert next(sample(random_model(), [1], sampler=sampler, eta=0, steps=2)).index == 0


@pytest.mark.parametrize(
    "options, message",
    [
        *(
            (dict(cfg_scale=scale), "cfg_scale must be a finite number, not")
            for scale in (10**400, -(10**400), 10**9999, np.float32("inf"), Fraction(10**400, 1))
        ),
        (dict(eta=10**9999), "eta must be between 0 and 1, not a int that is too large"),
        (dict(seed=10**9999), "seed must be a whole number of at most 64 bits"),
        (dict(cfg_channels=10**9999), "cfg_channels must be a whole number from 1 to 3"),
        (dict(steps=10**9999), "steps must be a whole number from 1 to 1000"),
        (dict(steps="5" * 10**6), "steps must be a whole number from 1 to 1000"),
        (dict(cfg_interval=[0] * 10**6), "cfg_interval must be two timesteps"),
        (dict(sampler="no\n" * 10**6), "there is no sampler"),
        *(
            (dict(process=process), "process must be a Process such as Diffusion.named\\(\\), not")
            for process in (0.5, 0.0, "linear", [], Diffusion)
        ),
        *((dict(clip_x0=clip), "clip_x0 must be true, false or None") for clip in (1, 0.0, "yes", [])),
        *((dict(size=size), "input_size") for size in (0, (0, 8), (8, 0), -4, 10**400, 8.0)),
    ],
)
def test_arguments_that_make_no_sense_are_refused_in_a_short_sentence(options, message):
    with pytest.raises(ValueError, match=message) as refusal:
        sample(random_model(), [1], **options)
    assert len(str(refusal.value)) <= 300 and str(refusal.value).isprintable()


@pytest.mark.parametrize("labels", [[10**9999], ["a" * 10**6], "b" * 10**6, [[0] * 10**5]])
def test_absurd_labels_are_refused_in_a_short_sentence(labels):
    with pytest.raises(ValueError, match="labels must be") as refusal:
        sample(random_model(), labels)
    assert len(str(refusal.value)) <= 300


@pytest.mark.parametrize("size", [0, (0, 8), (8, 0), -8])
def test_a_side_of_nothing_is_refused_by_a_u_dit_too(size):
    with pytest.raises(ValueError, match="input_size|sides") as refusal:
        sample(random_udit(), [1], size=size)
    assert "\n" not in str(refusal.value)


def test_numbers_of_any_kind_are_taken_and_mean_the_same():
    model = random_model()
    expected = generate(model, [1], steps=2, cfg_scale=1.5, eta=0.5)
    for scale, eta in ((np.float64(1.5), np.float64(0.5)), (Fraction(3, 2), Fraction(1, 2)), (np.float32(1.5), 0.5)):
        assert torch.equal(generate(model, [1], steps=2, cfg_scale=scale, eta=eta), expected)
    assert finite(True) and finite(10**300) and not finite(None) and not finite("1") and not finite(math.nan)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_said_of_a_sample_and_of_its_pictures(wrong):
    good, bad = torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    bad[1, 0, 1, 1] = wrong
    check_finite("batch 3", good, good)
    for tensors in ((good, bad), (bad, good)):
        with pytest.raises(ValueError, match="^batch 3 holds NaN or Inf: the model diverged, or the guidance"):
            check_finite("batch 3", *tensors)
