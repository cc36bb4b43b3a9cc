"""What sampling promises at its edges: models of no class and of one, the widest seeds, signals too faint to read."""

import math

import numpy as np
import pytest
import torch
from shared import random_model

from dit_lab.diffusion import Diffusion, Flow, SiT, generate, sample
from dit_lab.diffusion.gaussian import FAINT, discretised_nll, spaced
from dit_lab.diffusion.process import Process
from dit_lab.diffusion.solvers import REMEMBERED, picked


def widths(model, labels, **options):
    """How many pictures each network call of a walk is given."""
    seen = []
    handle = model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    generate(model, labels, steps=3, **options)
    handle.remove()
    return seen


def test_a_model_without_classes_is_never_asked_twice_and_one_of_a_single_class_is():
    assert widths(random_model(num_classes=0), [0, 0], cfg_scale=4.0) == [2, 2, 2]
    assert widths(random_model(num_classes=1), [0, 0], cfg_scale=4.0) == [4, 4, 4]


@pytest.mark.parametrize("seed", [-(2**63), 2**64 - 1])
def test_seeds_of_64_bits_are_taken_to_the_last_and_none_beyond(seed):
    model = random_model()
    assert next(sample(model, [1], steps=1, seed=seed)).x.std() > 0.5
    with pytest.raises(ValueError, match="seed must be a whole number of at most 64 bits"):
        sample(model, [1], seed=seed + (1 if seed > 0 else -1))


def test_a_sampler_of_ones_own_is_given_the_last_two_steps_and_no_more():
    given = []

    def own(process, now, before, ask, noise, eta):
        given.append([each.i - now.i for each in before])
        return now.x

    generate(random_model(), [1], sampler=own, steps=5)
    assert given == [[], [1], [1, 2], [1, 2], [1, 2]] and REMEMBERED == 2


def test_a_process_loses_the_steps_that_are_too_faint_to_read_and_never_its_first():
    faint, clear = 1 - 0.9 * FAINT, 0.5
    for betas, left in ([clear, clear, faint], 2), ([clear, faint, faint], 1), ([faint, faint], 1), ([clear], 1):
        readable = Diffusion(np.array(betas), 10 * np.arange(len(betas))).readable()
        assert readable.betas.tolist() == betas[:left] and readable.timesteps.tolist() == [0, 10, 20][:left]
    edge = Diffusion(np.array([1 - FAINT]), np.arange(1))
    assert edge.readable() is edge


def test_a_value_that_cannot_be_costs_as_much_as_a_probability_of_1e_12():
    """The original's floor: without it one pixel would make the whole bound infinite."""
    x0, mean, log_scale = torch.tensor([0.0, 0.0], dtype=torch.float64), torch.tensor([0.9, -0.9]), torch.tensor(-6.0)
    assert discretised_nll(x0, mean.double(), log_scale).tolist() == pytest.approx([-math.log(1e-12)] * 2, rel=1e-9)


@pytest.mark.parametrize("steps", [0, -1, 2.5, True, None, "4"])
def test_a_path_of_no_steps_is_none(steps):
    for make in Flow, SiT, Flow().respaced, lambda steps: spaced(10, steps):
        with pytest.raises(ValueError, match="steps must be a whole number"):
            make(steps)
    with pytest.raises(ValueError, match="steps must be a whole number from 1 to 10, not 11"):
        spaced(10, 11)


def test_uneven_steps_lie_where_they_were_named_in_the_precision_of_the_pictures():
    i = torch.tensor([1, 0])
    for process, named in (Flow(), [777.7, 123.4]), (SiT(), [0.2223, 0.8766]):
        walk = process.picked(named)
        for dtype, near in (torch.float64, 1e-12), (torch.float32, 1e-6):
            a, s = walk.signal_and_noise(i, torch.empty(0, dtype=dtype))
            assert a.dtype == s.dtype == dtype and s.flatten().tolist() == pytest.approx([0.7777, 0.1234], rel=near)
        assert walk.model_time(i).dtype == torch.float32 and walk.model_time(i).tolist() == pytest.approx(named)
        assert walk.timesteps.tolist() == named[::-1]


@pytest.mark.parametrize(
    ("options", "labels"),
    [
        (dict(), {1, 4}),
        (dict(cfg_scale=2.0), {1, 4, 5}),
        (dict(cfg_scale=2.0, cfg_interval=(300, 700)), {1, 4, 5}),
        (dict(cfg_scale=2.0, cfg_interval=(1, 2)), {1, 4}),
    ],
)
def test_a_model_that_makes_things_ahead_is_told_once_of_every_timestep_and_label_that_it_is_then_asked_for(
    options, labels
):
    model, told, asked = random_model(), [], set()

    def ahead(t, y):
        told.append((t.tolist(), y.tolist()))
        return ask

    def ask(x, t, y):
        asked.update(zip(t.tolist(), y.tolist(), strict=True))
        return model(x, t, y)

    expected = generate(model, [4, 1, 4], steps=4, **options)
    model.ahead = ahead
    assert torch.equal(generate(model, [4, 1, 4], steps=4, **options), expected)
    ((times, classes),) = told
    assert sorted(times) == [0, 333, 666, 999] and sorted(classes) == sorted(labels)
    assert {t for t, _ in asked} == {*times} and {y for _, y in asked} == {*classes}


@pytest.mark.parametrize("steps", [[1000, 5], [5, "3"], [700, True], [700, -1], [700.5, 1e9, 3]])
def test_one_timestep_that_is_none_spoils_the_list(steps):
    with pytest.raises(ValueError, match="steps must be a number, or falling timesteps from 999 to 0, not"):
        sample(random_model(), [1], steps=steps)


def test_whole_timesteps_stay_whole_and_beside_one_between_all_keep_their_levels():
    model, full = random_model(), Diffusion.named()
    whole = [step.t for step in sample(model, [1], steps=[999, 700, 3])]
    assert whole == [999, 700, 3] and all(isinstance(t, int) for t in whole)
    mixed = picked(full, [700.5, 3])
    assert mixed.timesteps.tolist() == [3, 700.5]
    assert mixed.levels(0) == pytest.approx(full.levels(3)) and mixed.levels(1)[0] < full.levels(700)[0]


def test_a_process_of_ones_own_walks_even_steps_and_no_list():
    class Own(Process):
        timesteps = np.arange(10)

    with pytest.raises(ValueError, match="steps of a process of one's own are even: say how many, not which"):
        sample(random_model(), [1], steps=[9, 3], process=Own())
