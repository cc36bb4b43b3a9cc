"""Timesteps searched for a flow: places on its path, told as its network is, from nothing but noise on."""

from itertools import pairwise

import pytest
from shared import random_model

from dit_lab.diffusion import Flow, SiT, generate, objective, searched
from dit_lab.diffusion.searching import SEED, spacings

OBJECTIVES = {"flow": (1000.0, 0.0), "sit": (0.0, 1.0)}  # what a network is told of noise, and of the picture


@pytest.fixture(autouse=True)
def few_reference_steps(monkeypatch):
    monkeypatch.setattr("dit_lab.diffusion.searching.REFERENCE", 20)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("sampler", ["euler", "unipc"])
def test_a_flow_is_searched_from_noise_towards_the_picture_and_no_worse_than_evenly(name, sampler):
    model, (noise, picture) = random_model(**objective(name)), OBJECTIVES[name]
    found, error, even = searched(model, sampler, 4, rounds=1, noises=2)
    assert found[0] == noise and len(found) == 4
    distances = [abs(t - picture) for t in found]
    assert all(high > low > 0 for high, low in pairwise(distances))
    assert error <= even


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_error_is_that_of_a_walk_at_the_timesteps_it_gives(name):
    model = random_model(**objective(name))
    found, error, _ = searched(model, "dpmpp", 3, rounds=1, noises=2, cfg_scale=2.0)
    draw = lambda steps: generate(model, [0, 1], sampler="dpmpp", seed=SEED, steps=steps, cfg_scale=2.0)
    assert error == pytest.approx((draw(found) - draw(20)).square().mean().sqrt().item())


@pytest.mark.parametrize("process", [Flow(), SiT()])
@pytest.mark.parametrize("steps", [1, 2, 4, 10, 50])
def test_the_first_of_the_known_spacings_is_the_even_one_and_all_begin_at_noise(process, steps):
    known = spacings(process, steps)
    even = process.respaced(steps).timesteps[::-1]
    assert process.timesteps[known[0]] == pytest.approx(even, abs=1e-3 * abs(process.timesteps[0] - even[0]))
    for made in known:
        assert made[0] == 999 and all(high > low for high, low in pairwise([*made, 0]))
