"""Solvers of the ODE against diffusers' schedulers, closed forms and the order in which their error falls."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from shared import random_model
from torch import nn
from torch.testing import assert_close

from dit_lab.diffusion import PREDICTIONS, Flow, generate, process_of, sample
from dit_lab.diffusion.solvers import SOLVERS, Now
from dit_lab.models import Config

FLOW = dict(schedule="flow", prediction="velocity", learned_variance=False)
LABELS = [1, 2]
MULTISTEP = ["dpmpp", "dpmpp3", "unipc"]


class Gaussian(nn.Module):
    """The best possible network for pixels that are independent N(mean, std^2), in float64 inside."""

    def __init__(self, mean=0.5, std=0.4, **objective):
        super().__init__()
        self.config = Config(input_size=4, in_channels=1, num_classes=5, **objective)
        self.mean, self.std, self.parameter = mean, std, nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x, t, y):
        process = process_of(self.config)
        i = t - 1 if self.config.schedule == "flow" else t
        a, s = process.signal_and_noise(i, x)
        error = (x - a * self.mean) / (a**2 * self.std**2 + s**2)
        x0, eps = self.mean + a * self.std**2 * error, s * error
        return PREDICTIONS[self.config.prediction].target(x0, eps, a, s)


def walked(model, **options):
    """The steps, and the noise that they began with."""
    steps = list(sample(model, LABELS, **options))
    return steps, steps[0].x


@pytest.mark.parametrize("prediction, theirs", [("eps", "epsilon"), ("x0", "sample"), ("v", "v_prediction")])
@pytest.mark.parametrize("steps", [3, 5, 20])
@pytest.mark.parametrize("sampler", MULTISTEP)
def test_multistep_solvers_are_diffusers(sampler, prediction, theirs, steps):
    model = random_model(prediction=prediction, learned_variance=False)
    ours, x = walked(model, sampler=sampler, steps=steps, seed=3)
    about = dict(prediction_type=theirs, solver_order=3 if sampler == "dpmpp3" else 2, final_sigmas_type="zero")
    if sampler == "unipc":
        scheduler = UniPCMultistepScheduler(1000, 1e-4, 0.02, "linear", solver_type="bh2", **about)
    else:
        scheduler = DPMSolverMultistepScheduler(1000, 1e-4, 0.02, "linear", algorithm_type="dpmsolver++", **about)
    scheduler.set_timesteps(steps)
    assert_close(scheduler.timesteps, torch.tensor([step.t for step in ours]), rtol=0, atol=1)  # halves round apart
    at_the_same_steps(scheduler, [step.t for step in ours])
    with torch.no_grad():
        for step in ours:
            x = scheduler.step(model(x, torch.full((2,), step.t), torch.tensor(LABELS)), step.t, x).prev_sample
            assert_close(step.previous, x, rtol=1e-4, atol=1e-5 * x.abs().max().item())


def at_the_same_steps(scheduler, timesteps):
    """Set the timesteps of a scheduler to ours, as its own `set_timesteps` sets them."""
    scheduler.timesteps = torch.tensor(timesteps)
    noise = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).sqrt()
    scheduler.sigmas = torch.cat([noise[timesteps], torch.zeros(1)])
    scheduler.num_inference_steps = len(timesteps)


def test_euler_in_flow_matching_is_diffusers():
    model = random_model(**FLOW)
    ours, x = walked(model, sampler="euler", steps=8, seed=3)
    scheduler = FlowMatchEulerDiscreteScheduler(1000)
    scheduler.set_timesteps(sigmas=[step.t / 1000 for step in ours])
    with torch.no_grad():
        for step, t in zip(ours, scheduler.timesteps, strict=True):
            assert step.t == pytest.approx(t.item())
            x = scheduler.step(model(x, t.repeat(2), torch.tensor(LABELS)), t, x).prev_sample
            assert_close(step.previous, x, rtol=1e-4, atol=1e-4 * x.abs().max().item())


def test_heun_in_flow_matching_is_diffusers():
    model = random_model(**FLOW)
    ours, x = walked(model, sampler="heun", steps=8, seed=3)
    scheduler = FlowMatchHeunDiscreteScheduler(1000)
    scheduler.set_timesteps(8)
    # Theirs ends its grid at t = 1; the same one as ours, each inner point twice, for the two halves of a step.
    sigmas = torch.tensor([step.t / 1000 for step in ours] + [0.0])
    scheduler.sigmas = torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]])
    scheduler.timesteps = 1000 * scheduler.sigmas[:-1]
    scheduler._step_index = 0
    ends = []
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(model(x, t.repeat(2), torch.tensor(LABELS)), t, x).prev_sample
            ends.append(x)
    for step, x in zip(ours, [*ends[1::2], ends[-1]], strict=True):
        assert_close(step.previous, x, rtol=1e-4, atol=1e-4 * x.abs().max().item())


def test_euler_on_a_diffusion_is_ddim():
    model = random_model()
    ddim, euler = (generate(model, LABELS, sampler=sampler, steps=9, cfg_scale=2.0) for sampler in ("ddim", "euler"))
    assert_close(euler, ddim, rtol=1e-6, atol=1e-6 * ddim.abs().max().item())


@pytest.mark.parametrize("objective", [FLOW, dict(learned_variance=False)], ids=["flow", "diffusion"])
@pytest.mark.parametrize("sampler, order", [("euler", 1), ("heun", 2)])
def test_errors_fall_with_the_order_of_the_solver(sampler, order, objective):
    model = Gaussian(**objective)
    # Exact: x - a mean keeps its place in units of its standard deviation, all the way to the data.
    process = process_of(model.config)
    (_, x), errors = walked(model, steps=1), []
    a, s = process.levels(999)
    exact = model.mean + model.std * (x.double() - a * model.mean) / math.hypot(a * model.std, s)
    for steps in (20, 40, 80):
        x = generate(model, LABELS, sampler=sampler, steps=steps)
        errors.append((x.double() - exact).abs().max().item())
    for coarse, fine in zip(errors, errors[1:], strict=False):
        assert coarse / fine == pytest.approx(2**order, rel=0.3)


class Exact:
    """The walk of the ODE on pixels that are N(0.5, 0.4^2), in closed form: x - a mean keeps its place."""

    def __init__(self, process):
        self.process, self.first = process, len(process.timesteps) - 1

    def x(self, i):
        (a, s), (a_first, s_first) = self.process.levels(i), self.process.levels(self.first)
        begun = torch.tensor([[[[1.3]]]], dtype=torch.float64)
        return a * 0.5 + math.hypot(a * 0.4, s) / math.hypot(a_first * 0.4, s_first) * (begun - a_first * 0.5)

    def now(self, i, x=None):
        (a, s), x = self.process.levels(i), self.x(i) if x is None else x
        error = (x - a * 0.5) / (a**2 * 0.4**2 + s**2)
        return Now(i, x, 0.5 + a * 0.4**2 * error, s * error, None)

    def error(self, i, x):
        return (x - self.x(i)).abs().item()


def falls(errors):
    """The order in which errors fall as steps are doubled."""
    return [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]


def error_of_a_step(sampler, steps, number):
    """How far one step of a flow leads off, where all before it were exact."""
    exact = Exact(Flow(steps))
    now, *before = (exact.now(exact.first - back) for back in reversed(range(number)))
    return exact.error(now.i - 1, SOLVERS[sampler](exact.process, now, tuple(before[:2]), None, None, 0.0))


@pytest.mark.parametrize("number", [2, 3, 4, 8])
def test_on_a_flow_each_step_of_dpm_solver_from_the_second_on_is_of_second_order(number):
    """Off by the third power of its length; the first is Euler's, for pure noise has no log SNR."""
    assert all(
        2.9 < order < 3.8 for order in falls([error_of_a_step("dpmpp", steps, number) for steps in (32, 64, 128)])
    )
    assert all(
        1.9 < order < 2.3 for order in falls([error_of_a_step("euler", steps, number) for steps in (64, 128, 256)])
    )


def error_on_the_flow(sampler, steps, after):
    """How far x_t is from the exact one after some of the steps."""
    exact, before = Exact(Flow(steps)), ()
    x = exact.x(exact.first)
    for i in range(exact.first, exact.first - after, -1):
        now = exact.now(i, x)
        x, before = SOLVERS[sampler](exact.process, now, before, None, None, 0.0), (now, *before)[:2]
    return exact.error(exact.first - after, x)


@pytest.mark.parametrize("part", [4, 2])
def test_dpm_solvers_walk_of_a_flow_is_of_second_order(part):
    errors = [error_on_the_flow("dpmpp", steps, after=steps // part) for steps in (16, 32, 64, 128)]
    assert falls(errors) == pytest.approx([2, 2, 2], abs=0.07)


@pytest.mark.parametrize("sampler", MULTISTEP)
def test_the_multistep_solvers_are_nearer_than_eulers_tenfold_steps_on_a_flow(sampler):
    assert error_on_the_flow(sampler, 64, after=32) < error_on_the_flow("euler", 640, after=320)


class EvenInLogSNR:
    """A path whose steps are as long as each other in log SNR, on which an order can be read off."""

    def __init__(self, steps):
        self.timesteps = range(steps + 1)

    def levels(self, i):
        a = 1 / math.sqrt(1 + math.exp(-2 * (3 - 6 * i / (len(self.timesteps) - 1))))
        return a, math.sqrt(1 - a**2)


@pytest.mark.parametrize("sampler, order", [("dpmpp", 2), ("dpmpp3", 2)])
def test_what_its_docstring_says_of_the_order_in_log_snr(sampler, order):
    errors = []
    for steps in (80, 160, 320):
        exact = Exact(EvenInLogSNR(steps))
        before = exact.now(exact.first - 1), exact.now(exact.first)
        x = exact.x(exact.first - 2)
        for i in range(exact.first - 2, 0, -1):
            now = exact.now(i, x)
            x, before = SOLVERS[sampler](exact.process, now, before, None, None, 0.0), (now, *before)[:2]
        errors.append(exact.error(0, x))
    assert falls(errors) == pytest.approx([order] * 2, abs=0.15)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "flow"])
def test_second_order_needs_fewer_steps_than_first(schedule):
    prediction = "velocity" if schedule == "flow" else "eps"
    model = Gaussian(schedule=schedule, prediction=prediction, learned_variance=False)
    best = generate(model, LABELS, sampler="heun", steps=500)
    error = {name: (generate(model, LABELS, sampler=name, steps=15) - best).abs().max().item() for name in SOLVERS}
    assert error["heun"] < error["euler"] / 3
    assert all(error[name] < error["euler"] / 1.5 for name in MULTISTEP)


def test_one_step_along_a_straight_line_is_exact():
    model = Gaussian(std=0.0, **FLOW)  # every picture the same, so the velocity never changes on the way
    for sampler in SOLVERS:
        assert_close(generate(model, LABELS, sampler=sampler, steps=1), torch.full((2, 1, 4, 4), 0.5))


def test_heun_calls_the_network_twice_a_step_but_at_the_last():
    model, calls = random_model(**FLOW), []
    model.register_forward_hook(lambda *_: calls.append(1))
    generate(model, LABELS, sampler="heun", steps=6)
    assert len(calls) == 11
    calls.clear()
    generate(model, LABELS, sampler="dpmpp", steps=6)
    assert len(calls) == 6


@pytest.mark.parametrize("sampler", SOLVERS)
def test_solvers_are_guided_as_the_others(sampler):
    model = random_model(**FLOW)
    plain, twice = (generate(model, LABELS, sampler=sampler, steps=4, cfg_scale=scale) for scale in (1.0, 3.0))
    null = generate(model, [5, 5], sampler=sampler, steps=4)
    assert not torch.equal(plain, twice)
    assert_close(generate(model, LABELS, sampler=sampler, steps=4, cfg_scale=0.0), null, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", *SOLVERS])
def test_timesteps_may_be_named_one_by_one(sampler):
    model = random_model()
    even = [step.t for step in sample(model, LABELS, sampler=sampler, steps=6)]
    assert torch.equal(
        generate(model, LABELS, sampler=sampler, steps=even), generate(model, LABELS, sampler=sampler, steps=6)
    )
    assert [step.t for step in sample(model, LABELS, sampler=sampler, steps=[999, 700, 90])] == [999, 700, 90]


@pytest.mark.parametrize("steps", [[], [1000], [1, 2], [5, 5], [True], ["3"], [-1], [math.nan], [999.5]])
def test_timesteps_that_make_no_sense_are_refused(steps):
    with pytest.raises(ValueError, match="steps must be a number, or falling timesteps from 999 to 0, not"):
        sample(random_model(), LABELS, steps=steps)
