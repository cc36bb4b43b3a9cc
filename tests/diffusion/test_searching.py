"""Timesteps that are searched for a model: never worse than known ones, walked like any, and told as they come."""

import pytest
from shared import random_model

from dit_lab.diffusion import Diffusion, generate, objective, process_of, sample, searched
from dit_lab.diffusion.searching import MOVES, SEED, falling, moved, spacings


@pytest.fixture(autouse=True)
def few_reference_steps(monkeypatch):
    monkeypatch.setattr("dit_lab.diffusion.searching.REFERENCE", 20)


def test_searched_timesteps_are_no_worse_than_even_ones_and_told_as_they_are_tried():
    model, told = random_model(), []
    found, error, even = searched(model, "dpmpp", 4, rounds=1, noises=2, tried=told.append)
    assert len(found) == 4 and found == sorted(found, reverse=True) and found[-1] > 0
    assert error <= even and told[-1] == error and told == sorted(told, reverse=True)


def test_the_error_is_that_of_the_picture_against_many_steps_from_the_same_noise():
    model = random_model()
    found, error, even = searched(model, "unipc", 3, rounds=1, noises=2, cfg_scale=2.0)
    draw = lambda steps: generate(model, [0, 1], sampler="unipc", seed=SEED, steps=steps, cfg_scale=2.0)
    assert error == pytest.approx((draw(found) - draw(20)).square().mean().sqrt().item())
    assert even == pytest.approx((draw(3) - draw(20)).square().mean().sqrt().item())


def test_each_round_looks_at_every_timestep_but_the_noisiest_which_stays():
    model = random_model()
    once, error, _ = searched(model, "dpmpp", 4, rounds=1, noises=2)
    more, less, _ = searched(model, "dpmpp", 4, rounds=3, noises=2)
    assert once[0] == more[0] == 999 and less <= error


def test_a_timestep_moves_towards_its_neighbours_and_never_past_them():
    assert moved([999, 500, 100], 1) == [[999, t, 100] for t in (300, 400, 625, 750)]
    assert moved([999, 500, 100], 2) == [[999, 500, t] for t in (50, 75, 200, 300)]
    assert len(moved([999, 500, 100], 1)) == len(MOVES)
    assert all(found == [3, 2, 1] for found in moved([3, 2, 1], 1))


@pytest.mark.parametrize("steps", [1, 2, 4, 10, 50])
def test_known_spacings_fall_and_can_be_walked(steps):
    for made in spacings(process_of(random_model().config), steps):
        assert len(made) == steps and all(high > low for high, low in zip(made, made[1:], strict=False))
        assert made[-1] > 0 and made[0] == 999


def test_timesteps_that_fall_together_are_pushed_apart_and_none_is_the_picture():
    assert falling([999, 2, 2, 0]) == [999, 3, 2, 1] and falling([999, 400, 7]) == [999, 400, 7]


def test_even_ones_are_among_the_known():
    assert [999, 749, 500, 250] in spacings(Diffusion.named("linear", "eps"), 4)


def test_numbers_of_steps_that_are_none_are_refused():
    with pytest.raises(ValueError, match="steps must be a whole number from 1 to 100"):
        searched(random_model(), "dpmpp", 0)
    with pytest.raises(ValueError, match="of two or more the others can be searched"):
        searched(random_model(), "dpmpp", 1)


def test_a_model_without_classes_is_searched_too():
    found, error, even = searched(random_model(num_classes=0), "ddim", 2, rounds=1, noises=2)
    assert len(found) == 2 and error <= even


@pytest.mark.parametrize("clip, first", [(False, 995), (True, 999)])
def test_where_x0_cannot_be_read_a_search_begins_where_a_walk_does(clip, first):
    model = random_model(**objective("cosine"))
    found, *_ = searched(model, "dpmpp", 2, rounds=1, noises=1, clip_x0=clip)
    assert found[0] == first == next(sample(model, [1], steps=2, sampler="dpmpp", clip_x0=clip)).t
