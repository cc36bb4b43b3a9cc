"""What sampling promises at its edges: models of no class and of one, the widest seeds, signals too faint to read."""

import math

import numpy as np
import pytest
import torch
from shared import random_model

from dit_lab.diffusion import Diffusion, generate, sample
from dit_lab.diffusion.gaussian import FAINT, discretised_nll
from dit_lab.diffusion.solvers import REMEMBERED


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
