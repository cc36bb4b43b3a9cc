"""Where x0 cannot be read from eps: pixels are clipped, latents begin later; and the variance value is held."""

import math
from itertools import chain

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from shared import random_model
from torch import nn
from torch.testing import assert_close

from dit_lab.diffusion import PREDICTIONS, SAMPLERS, SCHEDULES, Diffusion, Flow, generate, process_of, sample
from dit_lab.diffusion.checks import clips
from dit_lab.diffusion.gaussian import FAINT
from dit_lab.inside import record
from dit_lab.models import Config

EACH = pytest.mark.parametrize("sampler", SAMPLERS)
THEIRS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
INK = 0.75  # two-point pixels: their standard deviation too


class TwoPoint(nn.Module):
    """The best possible network for pixels that are INK or -INK, with what a trained one has: a small error, and no
    idea of what lies beyond the noise that it was trained on; `v` is its variance value.
    """

    def __init__(self, prediction="eps", schedule="cosine", channels=1, error=0.02, v=None):
        super().__init__()
        learned = v is not None
        self.config = Config(
            input_size=8, in_channels=channels, num_classes=5, prediction=prediction, schedule=schedule,
            learned_variance=learned,
        )  # fmt: skip
        self.error, self.v, self.parameter = error, v, nn.Parameter(torch.zeros(()))

    def forward(self, x, t, y):
        a, s = process_of(self.config).signal_and_noise(t, x.double())
        seen = x.clamp(-4, 4)
        x0 = INK * torch.tanh(a * INK * seen / s**2)
        target = PREDICTIONS[self.config.prediction].target(x0, (seen - a * x0) / s, a, s)
        output = (target + self.error * torch.sin(40 * x + t.reshape(-1, 1, 1, 1))).to(x)
        return output if self.v is None else torch.cat([output, torch.full_like(output, self.v)], dim=1)


@EACH
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_cosine_schedule_with_eps_draws_pictures_and_no_white_noise(sampler, channels):
    pixels = generate(TwoPoint(channels=channels), [0] * 8, sampler=sampler, steps=50)
    assert pixels.std().item() == pytest.approx(INK, abs=0.05)
    assert ((pixels.abs() - INK).abs() < 0.15).float().mean() > 0.95


def test_it_is_clipped_where_eps_meets_next_to_no_signal_in_the_channels_of_a_picture():
    for prediction, schedule, channels, expected in [
        ("eps", "cosine", 1, True), ("eps", "cosine", 3, True), ("eps", "cosine", 4, False),
        ("v", "cosine", 3, False), ("x0", "cosine", 3, False), ("eps", "linear", 3, False),
    ]:  # fmt: skip
        config = Config(in_channels=channels, prediction=prediction, schedule=schedule)
        assert clips(config, process_of(config), None) is expected
        assert clips(config, process_of(config), True) and not clips(config, process_of(config), False)


def test_a_clipped_x0_is_a_pictures_and_eps_is_what_fits_x():
    process = Diffusion.named("cosine").respaced(6)
    for step in sample(TwoPoint(), [0, 1], steps=6):
        a, s = process.signal_and_noise(torch.tensor([5 - step.index] * 2), step.x)
        assert step.x0.abs().max() <= 1
        assert_close(a * step.x0 + s * step.eps, step.x)
    assert next(sample(TwoPoint(), [0], steps=6)).t == 999


@pytest.mark.parametrize("prediction", THEIRS)
@pytest.mark.parametrize("schedule, theirs", [("linear", "linear"), ("cosine", "squaredcos_cap_v2")])
def test_clipped_ddim_and_ddpm_are_the_originals_clip_denoised_as_diffusers_has_it(prediction, schedule, theirs):
    model = random_model(prediction=prediction, schedule=schedule, learned_variance=False)
    about = dict(beta_schedule=theirs, clip_sample=True, prediction_type=THEIRS[prediction])
    ddim = DDIMScheduler(1000, 1e-4, 0.02, **about)
    ddim.set_timesteps(9)  # whose stride is 111, as that of our 10 timesteps
    ddpm = DDPMScheduler(1000, 1e-4, 0.02, variance_type="fixed_large", **about)
    noise = torch.randn(11, 2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    for sampler in ("ddim", "ddpm"):
        queue = iter(noise)
        walked = list(
            sample(model, [1, 2], sampler=sampler, steps=10, clip_x0=True, noise=lambda shape, queue=queue: next(queue))
        )
        ddpm.set_timesteps(timesteps=[step.t for step in walked])
        for step, drawn in zip(walked, noise[1:], strict=True):
            with torch.no_grad():
                output = model(step.x, torch.full((2,), step.t), torch.tensor([1, 2]))
            if sampler == "ddim":
                expected = ddim.step(output, step.t, step.x, use_clipped_model_output=True)
            else:
                ours = ddpm.step(output, step.t, step.x, generator=torch.Generator().manual_seed(1))
                other = torch.randn(drawn.shape, generator=torch.Generator().manual_seed(1))
                sigma = math.exp(step.log_variance[0].item() / 2) if step.t else 0
                expected = ours
                expected.prev_sample = ours.prev_sample + sigma * (drawn - other)
            assert_close(step.x0, expected.pred_original_sample, rtol=1e-4, atol=1e-4)
            assert_close(step.previous, expected.prev_sample, rtol=1e-4, atol=1e-4 * step.x.abs().max().item())


@EACH
def test_latents_begin_where_x0_can_be_read_with_standard_noise_and_the_network_is_told_that_timestep(sampler):
    full, told, start = Diffusion.named("cosine"), [], torch.randn(1, 4, 8, 8)
    model = TwoPoint(channels=4)
    model.register_forward_pre_hook(lambda _, inputs: told.append(inputs[1][0].item()))
    noise = chain([start], iter(lambda: torch.zeros(1, 4, 8, 8), None))
    steps = list(sample(model, [0], sampler=sampler, steps=20, noise=lambda shape: next(noise)))
    assert steps[0].t == told[0] == 995 and torch.equal(steps[0].x, start)
    assert full.alpha_bar[995] >= FAINT > full.alpha_bar[996] and len(steps) == 20
    assert Diffusion.named("linear").alpha_bar[-1] > FAINT


def test_more_steps_than_the_latents_walk_has_are_refused_and_pixels_have_all():
    assert next(sample(TwoPoint(channels=4), [0], steps=996)).t == 995
    with pytest.raises(ValueError, match="steps must be a whole number from 1 to 996, not 997"):
        sample(TwoPoint(channels=4), [0], steps=997)
    assert next(sample(TwoPoint(), [0], steps=1000)).t == 999


def test_three_channels_that_are_told_to_be_latents_are_not_clipped():
    model = TwoPoint(channels=3)
    assert next(sample(model, [0], clip_x0=False)).t == 995 and next(sample(model, [0])).t == 999
    latents = generate(model, [0] * 8, clip_x0=False)
    assert latents.std().item() == pytest.approx(INK, abs=0.05)


@pytest.mark.parametrize("prediction", THEIRS)
def test_only_eps_of_a_faint_signal_changes_its_process(prediction):
    for process in (Diffusion.named(name, prediction, steps) for name in SCHEDULES for steps in (1000, 4000)):
        whole = prediction != "eps" or process.alpha_bar[-1] > FAINT
        assert (process.readable() is process) == whole
    assert Flow().readable() == Flow()


def test_the_linear_schedule_draws_what_it_drew_before_there_was_clipping():
    """Numbers of the version before; all of the published checkpoints are walked so."""
    before = {
        "ddim": [0.21592, 0.16175, 0.26812, -0.44785],
        "ddpm": [-1.04868, -0.13594, 0.10279, -0.05818],
        "euler": [0.21592, 0.16175, 0.26812, -0.44785],
        "heun": [19.49048, 19.42807, 16.3613, -6.87405],
        "dpmpp": [0.29242, 0.33163, 0.23784, -0.83922],
    }
    for sampler, numbers in before.items():
        walked = list(sample(TwoPoint(schedule="linear"), [1, 2], sampler=sampler, steps=5, seed=3))
        assert_close(walked[3].previous[1, 0, 3, :4], torch.tensor(numbers), rtol=1e-4, atol=1e-4)


def test_what_the_network_cannot_say_stays_visible_when_it_is_clipped():
    for wrong in (math.nan, math.inf):
        model = TwoPoint()
        model.register_forward_hook(lambda _, inputs, out, wrong=wrong: out.index_fill(0, torch.tensor([1]), wrong))
        good, bad = generate(model, [0, 1], steps=3)
        assert good.isfinite().all() and not bad.isfinite().any()


def test_a_recorded_run_says_whether_it_was_clipped():
    for channels, asked, expected in [(1, None, True), (1, False, False), (4, None, False), (4, True, True)]:
        model = random_model(in_channels=channels, schedule="cosine")
        trajectory = record(model, [1], steps=3, clip_x0=asked)
        assert trajectory.options["clip_x0"] is expected
        assert torch.equal(generate(model, trajectory.labels, **trajectory.options), trajectory.sample)
    linear = record(random_model(), [1], steps=3, process=Diffusion.named("cosine"))
    assert linear.options["clip_x0"] is True and linear.t[0] == 999


@pytest.mark.parametrize("prediction", ["x0", "v"])
def test_a_variance_value_beyond_its_bounds_is_held_to_them_in_an_ancestral_step(prediction):
    draw = lambda v: generate(TwoPoint(prediction, "linear", v=v), [0] * 8, sampler="ddpm", steps=50)
    assert torch.equal(draw(3.4), draw(1.0)) and torch.equal(draw(-25.0), draw(-1.0))
    assert draw(3.4).std().item() == pytest.approx(INK, abs=0.05)
    assert not torch.equal(draw(0.5), draw(1.0))


def test_a_variance_value_within_its_bounds_does_not_change_by_a_bit():
    process = Diffusion.named("linear", "x0").respaced(4)
    for step in sample(TwoPoint("x0", "linear", v=0.3), [0], sampler="ddpm", steps=4):
        v = torch.full_like(step.x, 0.3)
        assert torch.equal(step.log_variance, process.log_variance(v, torch.tensor([3 - step.index]), step.x))


def test_with_eps_the_variance_value_is_taken_as_it_comes_as_the_original_takes_it():
    process = Diffusion.named().respaced(4)
    for step in sample(TwoPoint("eps", "linear", v=1.2), [0], sampler="ddpm", steps=4):
        v = torch.full_like(step.x, 1.2)
        assert torch.equal(step.log_variance, process.log_variance(v, torch.tensor([3 - step.index]), step.x))
