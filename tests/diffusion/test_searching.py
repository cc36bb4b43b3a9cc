"""Timesteps that are searched for a model: never worse than known ones, walked like any, and told as they come."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from shared import random_model

from dit_lab.diffusion import (
    PROCESSES,
    Diffusion,
    Flow,
    generate,
    objective,
    process_of,
    sample,
    searched,
    searching,
)
from dit_lab.diffusion.process import Process
from dit_lab.diffusion.searching import MOVES, SEED, falling, moved, spacings
from dit_lab.diffusion.solvers import log_snr
from dit_lab.models import Config


@pytest.fixture(autouse=True)
def few_reference_steps(monkeypatch):
    monkeypatch.setattr("dit_lab.diffusion.searching.REFERENCE", 20)


def test_searched_timesteps_are_no_worse_than_even_ones_and_told_as_they_are_tried():
    model, told = random_model(), []
    found, error, even = searched(model, "dpmpp", 4, rounds=1, noises=2, tried=told.append)
    assert len(found) == 4 and found == sorted(found, reverse=True) and found[-1] > 0
    assert error <= even and told[-1] == error and told == sorted(told, reverse=True)
    assert {type(number) for number in (*told, error, even)} == {float}


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


@pytest.fixture
def pretend(monkeypatch):
    """`pretend(far)` has a walk's picture be off by what `far(timesteps)` says, whatever the model."""
    picture = lambda far, steps: torch.full((1, 1, 1, 1), 0.0 if isinstance(steps, int) else float(far(steps)))
    put = lambda far: lambda model, labels, steps, **options: picture(far, steps)
    return lambda far: monkeypatch.setattr("dit_lab.diffusion.searching.generate", put(far))


@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_how_many_steps_are_walked_is_known_before_roughly_and_never_more(rounds, pretend, monkeypatch):
    walked, model = [], random_model()
    pretend(lambda timesteps: 1 + sum(timesteps) / 1e4)
    draw = searching.generate
    count = lambda steps: walked.append(steps if isinstance(steps, int) else len(steps))
    monkeypatch.setattr(
        searching, "generate", lambda *given, steps, **o: count(steps) or draw(*given, steps=steps, **o)
    )
    searched(model, "dpmpp", 5, rounds=rounds, noises=1)
    assert len(spacings(process_of(model.config), 5)) == searching.SPACINGS
    assert 0.7 < sum(walked) / searching.walked_at_most(5, rounds) <= 1


@pytest.mark.parametrize("known", range(4))
def test_a_search_begins_at_the_best_of_the_known_spacings(known, pretend):
    model = random_model()
    best = spacings(process_of(model.config), 5)[known]
    pretend(lambda timesteps: 1 + np.abs(np.subtract(timesteps, best)).sum())
    assert searched(model, "dpmpp", 5, rounds=0)[:2] == (best, 1.0)


@pytest.mark.parametrize("place", [1, 2, 3])
def test_one_round_moves_whichever_timestep_it_pays_to_move(place, pretend):
    pretend(lambda timesteps: 1000 - timesteps[place])
    start = max(made[place] for made in spacings(process_of(random_model().config), 4))
    found, error, _ = searched(random_model(), "dpmpp", 4, rounds=1)
    assert error == 1000 - found[place] < 1000 - start


def test_rounds_go_on_as_long_as_they_find_something(pretend):
    pretend(lambda timesteps: 1000 - timesteps[1])
    errors = [searched(random_model(), "dpmpp", 2, rounds=rounds)[1] for rounds in range(5)]
    assert all(less < more for more, less in pairwise(errors))
    assert searched(random_model(), "dpmpp", 2, rounds=20)[:2] == ([999, 998], 2.0)


def test_a_timestep_moves_towards_its_neighbours_and_never_past_them():
    assert moved([999, 500, 100], 1) == [[999, t, 100] for t in (300, 400, 625, 750)]
    assert moved([999, 500, 100], 2) == [[999, 500, t] for t in (50, 75, 200, 300)]
    assert len(moved([999, 500, 100], 1)) == len(MOVES)
    assert all(found == [3, 2, 1] for found in moved([3, 2, 1], 1))
    assert [999, 500, 1] in moved([999, 500, 2], 2) and [999, 500, 0] not in moved([999, 500, 1], 2)


@pytest.mark.parametrize("steps", [1, 2, 4, 10, 50])
def test_known_spacings_fall_and_can_be_walked(steps):
    for made in spacings(process_of(random_model().config), steps):
        assert len(made) == steps and all(high > low for high, low in zip(made, made[1:], strict=False))
        assert made[-1] > 0 and made[0] == 999


@pytest.mark.parametrize("steps", [1, 2, 6, 9, 77])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "flow", "sit"])
def test_known_spacings_are_even_quadratic_even_in_log_snr_and_edms(schedule, steps):
    process = process_of(Config(**objective(schedule))).readable()
    last, share, end = len(process.timesteps) - 1, np.arange(steps) / steps, -(schedule in ("flow", "sit"))
    log_snrs = np.array([log_snr(process, i) for i in range(last + 1)])
    log_snrs = np.maximum(log_snrs, log_snrs[np.isfinite(log_snrs)].min())
    highest, lowest = np.exp(-log_snrs[last]) ** (1 / 7), np.exp(-log_snrs[0]) ** (1 / 7)  # 2206.00364, equation 5
    edm = (highest + np.arange(steps) / max(steps - 1, 1) * (lowest - highest)) ** 7
    nearest = lambda wanted: [np.abs(log_snrs - each).argmin() for each in wanted]
    left = [1 - Fraction(k, steps) for k in range(steps)]
    even, quadratic = ([round(end + (last - end) * part**power) for part in left] for power in (1, 2))
    to_low = log_snrs[last] + share * (log_snrs[last // 100] - log_snrs[last])
    found, made = spacings(process, steps), (even, quadratic, nearest(to_low), nearest(-np.log(edm)))
    assert found == [falling([last, *each[1:]]) for each in made]
    assert {type(t) for each in found for t in each} == {int}


def test_timesteps_that_fall_together_are_pushed_apart_and_none_is_the_picture():
    assert falling([999, 2, 2, 0]) == [999, 3, 2, 1] and falling([999, 400, 7]) == [999, 400, 7]
    assert falling([999, 999, 999]) == [999, 998, 997]


def test_even_ones_are_among_the_known():
    assert [999, 749, 500, 250] in spacings(Diffusion.named("linear", "eps"), 4)


def test_numbers_of_steps_that_are_none_are_refused():
    with pytest.raises(ValueError, match="steps must be a whole number from 1 to 100"):
        searched(random_model(), "dpmpp", 0)
    with pytest.raises(ValueError, match="of two or more the others can be searched"):
        searched(random_model(), "dpmpp", 1)


@pytest.mark.parametrize(
    ("sampler", "options", "told"),
    [
        ("ddpm", {}, "^ddpm puts fresh noise in"),
        ("sde", {}, "^sde puts fresh noise in"),
        ("ddim", dict(eta=0.5), "^an eta puts fresh noise in"),
        *(("ddim", dict(noises=none), "^noises must be a whole number from 1 on, not") for none in (0, -4, 1.5, "8")),
    ],
)
def test_walks_from_other_noise_and_from_none_are_refused_before_anything_is_drawn(sampler, options, told):
    model, drawn = random_model(), []
    model.register_forward_hook(lambda *_: drawn.append(1))
    with pytest.raises(ValueError, match=told):
        searched(model, sampler, 3, **options)
    assert not drawn and searched(model, "ddim", 2, noises=1, rounds=0, eta=0)


class Own(Process):
    """A process of one's own: a flow that walks even steps alone."""

    prediction = "velocity"
    named = classmethod(lambda cls, schedule, prediction: cls())
    respaced = lambda self, steps, first=True: Own(steps)
    model_time = lambda self, i: i
    log_variance = lambda self, v, i, like: None

    def __init__(self, steps=50):
        path, self.timesteps = Flow(steps), np.arange(steps)
        self.levels, self.signal_and_noise = path.levels, path.signal_and_noise


def test_what_can_only_be_walked_evenly_is_refused_before_anything_is_drawn(monkeypatch):
    monkeypatch.setitem(PROCESSES, "own", Own)
    model, drawn = random_model(schedule="own", learned_variance=False), []
    model.register_forward_hook(lambda *_: drawn.append(1))
    assert generate(model, [1], steps=4, sampler="euler").shape == (1, 3, 8, 12) and len(drawn) == 4
    drawn.clear()
    with pytest.raises(ValueError, match="steps of a process of one's own are even"):
        searched(model, "euler", 4)
    assert not drawn


def test_a_model_without_classes_is_searched_too():
    found, error, even = searched(random_model(num_classes=0), "ddim", 2, rounds=1, noises=2)
    assert len(found) == 2 and error <= even


@pytest.mark.parametrize("clip, first", [(False, 995), (True, 999)])
def test_where_x0_cannot_be_read_a_search_begins_where_a_walk_does(clip, first):
    model = random_model(**objective("cosine"))
    found, *_ = searched(model, "dpmpp", 2, rounds=1, noises=1, clip_x0=clip)
    assert found[0] == first == next(sample(model, [1], steps=2, sampler="dpmpp", clip_x0=clip)).t
