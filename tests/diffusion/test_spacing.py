"""Steps that are not even: Karras' and shifted ones against diffusers' schedulers, and lists of a flow's own."""

import math

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from shared import random_model
from torch.testing import assert_close

from dit_lab.diffusion import (
    Diffusion,
    Flow,
    SiT,
    generate,
    karras,
    process_of,
    sample,
    samplers_for,
    shifted,
)
from dit_lab.diffusion.solvers import picked
from dit_lab.inside import Trajectory, record
from dit_lab.inside.rerun import rerun

FLOW = dict(schedule="flow", prediction="velocity", learned_variance=False)
SIT = dict(schedule="sit", prediction="sit_velocity", learned_variance=False)
LABELS = [1, 2]


@pytest.mark.parametrize("sampler, order", [("dpmpp", 2), ("dpmpp3", 3)])
@pytest.mark.parametrize("steps", [5, 20, 100])
def test_a_walk_in_karras_steps_is_diffusers(sampler, order, steps):
    model = random_model(learned_variance=False)
    asked = karras(process_of(model.config), steps)
    ours = list(sample(model, LABELS, sampler=sampler, steps=asked, seed=3))
    scheduler = DPMSolverMultistepScheduler(1000, 1e-4, 0.02, "linear", solver_order=order, use_karras_sigmas=True)
    scheduler.set_timesteps(steps)
    theirs = scheduler.timesteps
    assert_close(theirs, torch.tensor(asked).round().long(), rtol=0, atol=1)  # a half may round apart
    process, x = process_of(model.config), ours[0].x
    ratios = [math.sqrt(1 / ratio - 1) for ratio in alpha_bars(process, asked)]
    assert_close(scheduler.sigmas[:-1], torch.tensor(ratios), rtol=2e-4, atol=0)
    scheduler._step_index = 0  # of those that are rounded to the same timestep, they would find another
    with torch.no_grad():
        for step, there in zip(ours, theirs, strict=True):
            x = scheduler.step(model(x, torch.full((2,), step.t), torch.tensor(LABELS)), there, x).prev_sample
            assert_close(step.previous, x, rtol=1e-3, atol=1e-4 * x.abs().max().item())


def alpha_bars(process, timesteps):
    """alpha_bar of a walk's steps, noisiest first."""
    walked = picked(process, timesteps)
    return [walked.levels(i)[0] ** 2 for i in reversed(range(len(timesteps)))]


@pytest.mark.parametrize("steps", [2, 10, 50])
def test_karras_steps_of_a_flow_are_diffusers(steps):
    scheduler = FlowMatchEulerDiscreteScheduler(1000, use_karras_sigmas=True)
    scheduler.set_timesteps(steps)
    assert_close(torch.tensor(karras(Flow(), steps)), scheduler.timesteps, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_a_walk_in_shifted_steps_is_diffusers(shift):
    model = random_model(**FLOW)
    even = [step.t / 1000 for step in sample(model, LABELS, sampler="euler", steps=8)]
    ours = list(sample(model, LABELS, sampler="euler", steps=shifted(Flow(), 8, shift), seed=3))
    scheduler, x = FlowMatchEulerDiscreteScheduler(1000, shift=shift), ours[0].x
    scheduler.set_timesteps(sigmas=even)
    with torch.no_grad():
        for step, t in zip(ours, scheduler.timesteps, strict=True):
            assert step.t == pytest.approx(t.item(), rel=1e-5)
            x = scheduler.step(model(x, t.repeat(2), torch.tensor(LABELS)), t, x).prev_sample
            assert_close(step.previous, x, rtol=1e-4, atol=1e-4 * x.abs().max().item())


def test_sit_is_told_the_same_steps_from_the_other_end():
    for make in (lambda process: shifted(process, 6, 3.0), lambda process: karras(process, 6)):
        assert_close(torch.tensor(make(SiT())), 1 - torch.tensor(make(Flow())) / 1000)


@pytest.mark.parametrize("process", [Diffusion.named(), Diffusion.named("cosine"), Flow(), SiT()])
def test_karras_steps_reach_from_the_noisiest_readable_step_to_the_first(process):
    readable = process.readable().timesteps
    for steps in (2, 7, 250):
        asked = karras(process, steps)
        assert len(asked) == steps == len(set(asked))
        assert (asked[0], asked[-1]) == pytest.approx((readable[-1], readable[0]), abs=1e-6)
    assert karras(process, 1) == pytest.approx([readable[-1].item()])


@pytest.mark.parametrize("objective", [{}, FLOW, SIT, dict(schedule="cosine", prediction="v")])
def test_every_sampler_walks_uneven_steps_and_the_run_is_recorded_kept_and_walked_again(objective, tmp_path):
    model = random_model(**objective)
    process = process_of(model.config)
    for sampler in samplers_for(process):
        asked = karras(process, 5)
        run = record(model, LABELS, sampler=sampler, steps=asked, seed=3)
        assert run.sample.isfinite().all() and run.t == run.options["steps"] == pytest.approx(asked)
        run.save(tmp_path / "run.safetensors")
        again = Trajectory.load(tmp_path / "run.safetensors")
        assert torch.equal(rerun(again, model)["sample"], run.sample)
        assert again.levels(2) == run.process.levels(2)


@pytest.mark.parametrize("sampler", samplers_for(Flow()))
def test_even_steps_of_a_flow_may_be_named_one_by_one(sampler):
    model = random_model(**FLOW)
    even = [step.t for step in sample(model, LABELS, sampler=sampler, steps=6)]
    named = generate(model, LABELS, sampler=sampler, steps=even)
    assert_close(named, generate(model, LABELS, sampler=sampler, steps=6), rtol=1e-5, atol=1e-5)


def test_a_flow_walked_from_the_middle_begins_there():
    walk = list(sample(random_model(**FLOW), LABELS, sampler="euler", steps=[600, 250.5, 10]))
    assert [step.t for step in walk] == [600, 250.5, 10]
    step = walk[0]
    assert_close(step.x, 0.4 * step.x0 + 0.6 * step.eps, rtol=1e-4, atol=1e-4)
    assert_close(step.previous, 0.7495 * step.x0 + 0.2505 * step.eps, rtol=1e-4, atol=1e-4)


def test_a_diffusions_whole_timesteps_keep_their_levels_to_the_bit_and_those_between_lie_between():
    full = Diffusion.named()
    assert alpha_bars(full, [700, 3]) == [pytest.approx(full.alpha_bar[t], rel=1e-15) for t in (700, 3)]
    (between,) = alpha_bars(full, [700.5])
    ratio = np.sqrt((1 - full.alpha_bar) / full.alpha_bar)
    assert between == pytest.approx(1 / (1 + ratio[700] * ratio[701]), rel=1e-9)


@pytest.mark.parametrize("steps", [[], [1001], [0], [-1], [5, 5], [1, 2], ["3"], [True], [math.nan]])
def test_timesteps_that_are_not_on_the_path_are_refused(steps):
    with pytest.raises(ValueError, match="timesteps in order, from 1000, noise, towards 0, the picture, which is none"):
        sample(random_model(**FLOW), LABELS, sampler="unipc", steps=steps)


def test_sits_timesteps_rise():
    with pytest.raises(ValueError, match="timesteps in order, from 0, noise, towards 1, the picture"):
        sample(random_model(**SIT), LABELS, sampler="euler", steps=[0.9, 0.1])
    assert len(list(sample(random_model(**SIT), LABELS, sampler="euler", steps=[0.0, 0.1, 0.9]))) == 3


@pytest.mark.parametrize(
    "make, told",
    [
        (lambda: shifted(Diffusion.named(), 5, 3.0), "a shift is for flow matching"),
        (lambda: shifted(Flow(), 5, 0), "shift must be a number above 0"),
        (lambda: shifted(Flow(), 0, 2), "steps must be a whole number of at least 1"),
        (lambda: karras(Flow(), 2.5), "steps must be a whole number of at least 1"),
        (lambda: karras(Flow(), 2, rho=0), "rho must be a number above 0"),
    ],
)
def test_spacings_that_make_no_sense_are_refused(make, told):
    with pytest.raises(ValueError, match=told):
        make()


def test_a_lone_even_step_is_shifted_nowhere():
    assert shifted(Flow(), 1, 3.0) == [1000]


def test_karras_steps_begin_at_the_very_end_however_steep_the_power_that_rounds_it():
    for steps in (1, 2, 50):
        assert karras(Diffusion.named(), steps, rho=1e10)[0] == 999
