"""Samplers against diffusers' schedulers and closed forms on Gaussian data; guidance, noise, and bad arguments."""

import math
from dataclasses import replace
from itertools import chain, repeat

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import nn
from torch.testing import assert_close

from dit_lab.diffusion import PREDICTIONS, SAMPLERS, Diffusion, generate, sample
from dit_lab.diffusion.solvers import WITHOUT_FIRST
from dit_lab.models import DiTConfig, build

SMALL = DiTConfig(input_size=8, patch_size=2, in_channels=4, dim=32, depth=1, heads=2, num_classes=5)
EPS_1 = dict(in_channels=1, learned_variance=False)
KINDS = pytest.mark.parametrize("prediction", PREDICTIONS)
THEIRS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
EACH = pytest.mark.parametrize("sampler", SAMPLERS)


class Model(nn.Module):
    """A network made of any function `(x, t, y) -> out`, with a config as every model has one; it keeps its inputs."""

    def __init__(self, function, config=SMALL):
        super().__init__()
        self.function, self.config, self.calls = function, config, []
        self.parameter = nn.Parameter(torch.zeros(()))

    def forward(self, x, t, y):
        self.calls.append((x, t, y))
        return self.function(x, t, y)


def column(values):
    """`b -> b 1 1 1`."""
    return torch.as_tensor(values).reshape(-1, 1, 1, 1)


def random_model(**changes):
    """A small DiT, every weight random, so that no gate is closed: it depends on x, t and y."""
    model = build(replace(SMALL, **changes)).eval()
    g = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2, generator=g)
    return model


def gaussian_model(prediction="eps", mean=0.5, std=0.4):
    """The best possible network for data whose pixels are independent N(mean, std^2), in float64 inside."""
    process = Diffusion.named("linear", prediction)

    def best(x, t, y):
        signal, noise = (level.double() for level in process.signal_and_noise(t, x.double()))
        error = (x.double() - signal * mean) / (signal**2 * std**2 + noise**2)
        x0, eps = mean + signal * std**2 * error, noise * error
        return PREDICTIONS[prediction].target(x0, eps, signal, noise).to(x)

    return Model(best, replace(SMALL, prediction=prediction, **EPS_1))


def drift(process, std):
    """What one step makes of x - signal * mean on that data: factors for DDIM (eta 0) and the posterior's mean."""
    a, before, v = process.alpha_bar, process.alpha_bar_previous, process.alpha_bar * std**2 + 1 - process.alpha_bar
    ddim = (np.sqrt(a * before) * std**2 + np.sqrt((1 - a) * (1 - before))) / v
    of_x0, of_x = process.betas * np.sqrt(before) / (1 - a), (1 - before) * np.sqrt(1 - process.betas) / (1 - a)
    return ddim, of_x0 * np.sqrt(a) * std**2 / v + of_x


@KINDS
@pytest.mark.parametrize("steps", [1, 2, 10, 60])
def test_ddim_on_gaussian_data_is_its_closed_form(prediction, steps):
    model, process = gaussian_model(prediction), Diffusion.named().respaced(steps)
    *_, last = walked = list(sample(model, [0], steps=steps, seed=3))
    start = (walked[0].x - math.sqrt(process.alpha_bar[-1]) * 0.5).double()
    assert_close(last.previous.double(), 0.5 + start * drift(process, 0.4)[0].prod(), rtol=1e-4, atol=1e-4)


def test_many_ddim_steps_reach_the_probability_flow():
    # dx = -beta/2 (x + score) keeps (x - signal mean) / spread, with spread^2 = alpha_bar std^2 + 1 - alpha_bar.
    errors = []
    for steps in (100, 1000, 10000):
        process = Diffusion.named(steps=steps)
        exact = 0.4 / math.sqrt(process.alpha_bar[-1] * 0.4**2 + 1 - process.alpha_bar[-1])
        errors.append(abs(drift(process, 0.4)[0].prod() / exact - 1))
    assert errors[0] > 5 * errors[1] > 25 * errors[2] and errors[2] < 1e-3
    signal = math.sqrt(Diffusion.named().alpha_bar[-1])
    off = []
    for steps in (40, 160):
        first, *_, last = sample(gaussian_model(), [0], steps=steps)
        off.append((last.previous - (0.5 + (first.x - signal * 0.5) * 0.4)).abs().max().item())
    assert off[0] > 3 * off[1] and off[1] < 0.04


@pytest.mark.parametrize("sampler, eta", [("ddpm", 0.0), ("ddim", 1.0)])
def test_ancestral_sampling_reaches_the_mean_and_variance_of_gaussian_data(sampler, eta):
    process, variance = Diffusion.named().respaced(200), 1.0
    # The recursion of the variance in float64; what it ends at is the data's, up to the length of the steps.
    factor, beta, before = drift(process, 0.4)[1], process.betas, process.alpha_bar_previous
    posterior = beta * (1 - before) / (1 - process.alpha_bar)
    added = np.append(0.0, beta[1:]) if sampler == "ddpm" else posterior
    for step in reversed(range(200)):
        variance = factor[step] ** 2 * variance + added[step]
    assert math.sqrt(variance) == pytest.approx(0.4, rel=0.06)
    pixels = generate(gaussian_model(), [0] * 256, sampler=sampler, eta=eta, steps=200)
    assert pixels.mean().item() == pytest.approx(0.5, abs=5 * 0.4 / math.sqrt(pixels.numel()))
    assert pixels.std().item() == pytest.approx(math.sqrt(variance), rel=5 / math.sqrt(2 * pixels.numel()))


@EACH
def test_perfect_predictors_of_every_kind_walk_the_same_path(sampler):
    paths = [
        [step.x for step in sample(gaussian_model(kind), [0, 1], sampler=sampler, steps=20)] for kind in PREDICTIONS
    ]
    for path in paths[1:]:
        assert_close(path, paths[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction", THEIRS)
@pytest.mark.parametrize("variance", ["learned_range", "fixed_large"])
@pytest.mark.parametrize("schedule, theirs", [("linear", "linear"), ("cosine", "squaredcos_cap_v2")])
def test_ddpm_is_diffusers_ancestral_sampler(prediction, variance, schedule, theirs):
    net = random_model(prediction=prediction, schedule=schedule, learned_variance=variance == "learned_range")
    # The variance value is kept within [-1, 1], where a trained one is: the bounds' logarithms multiply its error.
    model = Model(lambda *inputs: torch.cat([net(*inputs)[:, :4], net(*inputs)[:, 4:].tanh()], dim=1), net.config)
    walked = list(sample(model, [1, 2], sampler="ddpm", steps=7, seed=4))
    scheduler = DDPMScheduler(
        1000, 1e-4, 0.02, theirs, variance_type=variance, clip_sample=False,
        prediction_type=THEIRS[prediction],
    )  # fmt: skip
    scheduler.set_timesteps(timesteps=[step.t for step in walked])
    g = torch.Generator().manual_seed(4)
    x = torch.randn(2, 4, 8, 8, generator=g)
    for step in walked:
        assert_close(step.x, x, rtol=1e-3, atol=1e-3 * x.abs().max().item())
        with torch.no_grad():
            output = model(step.x, torch.full((2,), step.t), torch.tensor([1, 2]))
        x = scheduler.step(output, step.t, step.x, generator=g).prev_sample
        assert_close(step.previous, x, rtol=1e-4, atol=1e-4 * x.abs().max().item())


@pytest.mark.parametrize("prediction", THEIRS)
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_is_diffusers(prediction, eta):
    model = random_model(prediction=prediction, learned_variance=False)
    draws = torch.randn(11, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    queue = iter(draws)
    walked = list(sample(model, [1, 2], steps=10, eta=eta, noise=lambda shape: next(queue)))
    scheduler = DDIMScheduler(1000, 1e-4, 0.02, "linear", clip_sample=False, prediction_type=THEIRS[prediction])
    scheduler.set_timesteps(9)  # whose stride is 111, as that of our 10 timesteps
    x = draws[0]
    for step, noise in zip(walked, draws[1:], strict=True):
        assert step.t == 999 - 111 * step.index and torch.equal(step.x, x)
        with torch.no_grad():
            output = model(x, torch.full((2,), step.t), torch.tensor([1, 2]))
        theirs = scheduler.step(output, step.t, x, eta=eta, variance_noise=noise if eta else None)
        assert_close(step.x0, theirs.pred_original_sample, rtol=1e-4, atol=1e-4 * x.abs().max().item())
        assert_close(step.previous, theirs.prev_sample, rtol=1e-4, atol=1e-4 * x.abs().max().item())
        x = step.previous


@EACH
@KINDS
@pytest.mark.parametrize("learned", [True, False])
def test_the_fields_of_a_step_belong_together(sampler, prediction, learned):
    process = Diffusion.named().respaced(6, first=sampler not in WITHOUT_FIRST)
    model = random_model(prediction=prediction, learned_variance=learned)
    steps = list(sample(model, [0, 4], sampler=sampler, steps=6, cfg_scale=2.0))
    assert [step.index for step in steps] == list(range(6))
    assert [step.t for step in steps] == process.timesteps[::-1].tolist()
    for step, number in zip(steps, reversed(range(6)), strict=True):
        signal, noise = process.signal_and_noise(torch.tensor([number, number]), step.x)
        assert_close(signal * step.x0 + noise * step.eps, step.x, rtol=1e-4, atol=1e-4)
        if prediction == "eps":
            assert_close(step.eps, step.eps_uncond + 2 * (step.eps_cond - step.eps_uncond))
        assert step.log_variance.shape == ((2, 4, 8, 8) if learned else (2, 1, 1, 1))
    assert all(torch.equal(now.previous, then.x) for now, then in zip(steps, steps[1:], strict=False))
    last = generate(model, [0, 4], sampler=sampler, steps=6, cfg_scale=2.0)
    assert torch.equal(last, steps[-1].previous) and last.dtype == torch.float32


def test_scale_one_is_a_single_conditional_pass_and_any_other_one_doubled_pass():
    for scale, width in ((1.0, 3), (1, 3), (1.5, 6), (0.0, 6)):
        model = Model(lambda x, t, y: torch.cat([x, x], dim=1))
        steps = list(sample(model, [2, 0, 5], steps=4, cfg_scale=scale))
        assert [len(x) for x, _, _ in model.calls] == [width] * 4
        assert all((step.eps_uncond is None) == (width == 3) for step in steps)
        for step, (x, t, y) in zip(steps, model.calls, strict=True):
            assert torch.equal(x, torch.cat([step.x] * (width // 3))) and t.tolist() == [step.t] * width
            assert y.tolist() == ([2, 0, 5] if width == 3 else [2, 0, 5, 5, 5, 5])


def test_guidance_on_three_channels_leaves_the_fourth_and_the_variance_conditional():
    # The output tells the halves apart: channel k is y + k in the prediction, y / 10 in the variance value.
    def told(x, t, y):
        return torch.cat([column(y) + torch.arange(4).reshape(1, 4, 1, 1) + 0 * x, column(y) / 10 + 0 * x], dim=1)

    step = next(sample(Model(told), [1], steps=2, cfg_scale=3.0, cfg_channels=3))
    per_channel = lambda x: x[0, :, 0, 0].tolist()
    assert per_channel(step.eps_cond) == [1, 2, 3, 4] and per_channel(step.eps_uncond) == [5, 6, 7, 8]
    assert per_channel(step.eps) == [5 + 3 * (1 - 5), 6 - 12, 7 - 12, 4]
    conditional = Diffusion.named().respaced(2).log_variance(torch.full((1, 4, 8, 8), 0.1), torch.tensor([1]), step.x)
    assert torch.equal(step.log_variance, conditional)
    everywhere = next(sample(Model(told), [1], steps=2, cfg_scale=3.0))
    assert per_channel(everywhere.eps) == [-7, -6, -5, -4]


def original_loop(model, labels, steps, scale, g, sampler):
    """The original's guided loop, written out from its description: doubled batch, three channels guided, own noise.

    x_T is drawn for one half and copied; at every step noise is drawn for both halves; the second is thrown away.
    """
    betas = np.linspace(1e-4, 0.02, 1000)
    told = [round(i * 999 / (steps - 1)) for i in range(steps)]
    alpha_bar = np.cumprod(1 - betas)[told]
    before = np.append(1.0, alpha_bar[:-1])
    beta = 1 - alpha_bar / before
    variance = beta * (1 - before) / (1 - alpha_bar)
    log_low, log_high = np.log(np.append(variance[1], variance[1:])), np.log(beta)
    shape = (len(labels), 4, 8, 8)
    x = torch.randn(*shape, generator=g).repeat(2, 1, 1, 1)
    y = torch.tensor([*labels, *[model.config.num_classes] * len(labels)])
    for i in reversed(range(steps)):
        half = x[: len(labels)]
        with torch.no_grad():
            out = model(torch.cat([half, half]), torch.full((len(x),), told[i]), y)
        cond, uncond = out[:, :3].chunk(2)
        eps = torch.cat([torch.cat([uncond + scale * (cond - uncond)] * 2), out[:, 3:4]], dim=1).double()
        x, noise = x.double(), torch.randn(2 * shape[0], *shape[1:], generator=g).double() * (i > 0)
        x0 = (x - np.sqrt(1 - alpha_bar[i]) * eps) / np.sqrt(alpha_bar[i])
        if sampler == "ddim":
            x = np.sqrt(before[i]) * x0 + np.sqrt(1 - before[i]) * eps
        else:
            share = (out[:, 4:].double() + 1) / 2
            mean = (np.sqrt(before[i]) * beta[i] * x0 + (1 - before[i]) * np.sqrt(1 - beta[i]) * x) / (1 - alpha_bar[i])
            x = mean + torch.exp((share * log_high[i] + (1 - share) * log_low[i]) / 2) * noise
        x = x.float()
    return x[: len(labels)]


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
@pytest.mark.parametrize("steps", [5, 25])
def test_the_originals_images_come_out_from_the_originals_seeds(sampler, steps):
    """Its noise is drawn for the doubled batch: the same generator, asked in its order, gives its images."""
    model, labels, g, asked = random_model(), [1, 4, 0], torch.Generator(), []

    def noise(shape):
        asked.append(shape)
        both = shape if len(asked) == 1 else (2 * shape[0], *shape[1:])
        return torch.randn(*both, generator=g)[: shape[0]]

    expected = original_loop(model, labels, steps, 4.0, g.manual_seed(3), sampler)
    g.manual_seed(3)
    ours = generate(model, labels, sampler=sampler, steps=steps, cfg_scale=4.0, cfg_channels=3, noise=noise)
    assert (ours - expected).norm() / expected.norm() < 1e-5


def test_outside_its_interval_guidance_costs_nothing():
    model = Model(lambda x, t, y: torch.cat([x, x], dim=1))
    steps = list(sample(model, [1, 2], steps=10, cfg_scale=4.0, cfg_interval=(222, 666)))
    widths = {int(t[0]): len(x) for x, t, _ in model.calls}
    assert widths == {t: 4 if 222 <= t <= 666 else 2 for t in (999, 888, 777, 666, 555, 444, 333, 222, 111, 0)}
    assert [step.eps_uncond is not None for step in steps] == [222 <= step.t <= 666 for step in steps]


def test_an_unconditional_model_is_sampled_in_single_passes_at_any_scale():
    model = random_model(num_classes=0)
    assert torch.equal(generate(model, [0, 0], steps=3), generate(model, [0, 0], steps=3, cfg_scale=4.0))
    with pytest.raises(ValueError, match="from 0 to 0"):
        sample(model, [1])


@EACH
def test_noise_is_asked_for_once_at_first_and_once_every_step(sampler):
    asked, model = [], random_model(input_size=(8, 4))
    steps = sample(model, [1, 2, 3], sampler=sampler, steps=4, cfg_scale=2.0,
                   noise=lambda shape: asked.append(shape) or torch.zeros(shape))  # fmt: skip
    for count, step in enumerate(steps, start=2):
        assert asked == [(3, 4, 8, 4)] * count and step.x.shape == (3, 4, 8, 4)
    assert len(asked) == 5


def test_noise_may_be_an_array_and_must_be_a_function():
    drawn = generate(random_model(), [1], steps=2, noise=lambda shape: np.zeros(shape))
    assert torch.equal(drawn, generate(random_model(), [1], steps=2, noise=torch.zeros))
    with pytest.raises(ValueError, match="noise must be a function"):
        sample(random_model(), [1], noise=torch.zeros(1, 4, 8, 8))


def test_noise_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"noise was asked for \(1, 4, 8, 8\) and gave \(2, 4, 8, 8\)"):
        generate(random_model(), [0], noise=lambda shape: torch.zeros(2, *shape[1:]))


@EACH
def test_a_seed_decides_the_picture_and_leaves_the_global_random_state_alone(sampler):
    model, options = random_model(), dict(sampler=sampler, steps=3, eta=float(sampler == "ddim"))
    state = torch.get_rng_state()
    one, same, other = (generate(model, [1], seed=seed, **options) for seed in (5, 5, 6))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_ddim_at_eta_zero_ignores_the_noise_of_the_steps_and_the_last_step_always_does():
    model = random_model()

    def draw(late):
        values = chain([1.0], repeat(late))
        return lambda shape: torch.full(shape, next(values))

    assert torch.equal(generate(model, [1], steps=4, noise=draw(7.0)), generate(model, [1], steps=4, noise=draw(0.0)))
    for sampler in SAMPLERS:
        options = dict(sampler=sampler, steps=1, eta=float(sampler == "ddim"))
        one, other = (generate(model, [1], noise=draw(late), **options) for late in (7.0, 0.0))
        assert torch.equal(one, other)


def test_the_callers_gradient_mode_is_untouched_between_steps():
    model = random_model()
    for step in sample(model, [1], steps=2):
        assert torch.is_grad_enabled() and not step.previous.requires_grad
        assert model(step.x, torch.zeros(1), torch.zeros(1, dtype=torch.long)).requires_grad
    with torch.inference_mode():
        assert not any(torch.is_grad_enabled() for _ in sample(model, [1], steps=2))


def test_the_network_runs_in_its_own_precision_and_the_steps_in_fp32():
    model = Model(lambda x, t, y: torch.cat([x, x], dim=1)).bfloat16()
    steps = list(sample(model, [1], steps=2, cfg_scale=2.0))
    assert all(x.dtype == torch.bfloat16 for x, _, _ in model.calls)
    assert all(value.dtype == torch.float32 for value in vars(steps[0]).values() if isinstance(value, torch.Tensor))


@pytest.mark.parametrize(
    "labels",
    [[1, 5], (1, 5), range(1, 6, 4), np.array([1, 5]), np.array([1, 5], dtype=np.uint8), torch.tensor([1, 5]),
     [np.int64(1), 5], iter([1, 5])],
)  # fmt: skip
def test_labels_are_any_whole_numbers(labels):
    model = Model(lambda x, t, y: torch.cat([x, x], dim=1))
    generate(model, labels, steps=1)
    assert model.calls[0][2].tolist() == [1, 5] and model.calls[0][2].dtype == torch.long


@pytest.mark.parametrize(
    "labels",
    [[], torch.tensor([], dtype=torch.long), [1.0], [1.5], [math.nan], torch.tensor([1.0]), np.array([0.5]), [True],
     torch.tensor([True]), [1, False], [-1], [6], [0, 6], ["1"], "1", 3, torch.tensor(3), None, [None], [[1]],
     torch.tensor([[1]])],
)  # fmt: skip
def test_other_labels_are_refused_at_the_call(labels):
    with pytest.raises(ValueError, match="labels must be"):
        sample(random_model(), labels)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(sampler="plms"), "no sampler 'plms'; there are ddim, ddpm, euler, heun, dpmpp"),
        *((dict(steps=steps), "steps must be a whole number from 1 to 1000") for steps in (0, 1001, 2.5, "50", None)),
        *((dict(eta=eta), "eta must be between 0 and 1") for eta in (-0.1, 1.1, math.nan, math.inf, "0", None)),
        *((dict(cfg_scale=scale), "cfg_scale must be a finite number") for scale in (math.nan, -math.inf, "4", None)),
        *((dict(cfg_channels=c), "cfg_channels must be a whole number from 1 to 4") for c in (0, 5, 3.0, True, "3")),
        *(
            (dict(cfg_interval=i), "cfg_interval must be two timesteps in rising order")
            for i in ((5, 3), (1,), (1, 2, 3), 5, (math.nan, 1), (0, None), "ab")
        ),
        *((dict(seed=seed), "seed must be a whole number") for seed in (1.5, "1", None, 2**64, True)),
        *((dict(size=size), "input_size") for size in (7, (8, 7), (8,), (0, 8), 0)),
    ],
)
def test_arguments_that_make_no_sense_are_refused_at_the_call(options, message):
    with pytest.raises(ValueError, match=message):
        sample(random_model(), [1], **options)


def test_a_config_of_unknown_schedule_or_prediction_is_refused_at_the_call():
    with pytest.raises(ValueError, match="no schedule 'sqrt'"):
        sample(random_model(schedule="sqrt"), [1])
    with pytest.raises(ValueError, match="no prediction 'score'"):
        sample(random_model(prediction="score"), [1])


def test_other_sizes_and_other_processes_may_be_asked_for():
    model = random_model()
    assert generate(model, [1], steps=1, size=12).shape == (1, 4, 12, 12)
    assert generate(model, [1], steps=1, size=[4, 16]).shape == (1, 4, 4, 16)
    cosine = list(sample(model, [1], steps=3, process=Diffusion.named("cosine", "v", steps=100)))
    assert [step.t for step in cosine] == [99, 50, 0]


def test_non_finite_outputs_stay_visible_and_stay_in_their_own_image():
    def broken(x, t, y):
        return torch.cat([x.where(column(y) != 3, math.nan), 0 * x], dim=1)

    bad, good = generate(Model(broken), [3, 1], steps=3, cfg_scale=2.0, sampler="ddpm")
    assert bad.isnan().all() and good.isfinite().all()
