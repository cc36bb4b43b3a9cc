"""Guidance and path: the field is the sampler's own, spectra are a loop's, and levels are those that made x_t."""

import math

import numpy as np
import pytest
import torch
from shared import random_model, random_udit

from dit_lab.diffusion import Diffusion, sample
from dit_lab.inside import TraceError, record
from dit_lab.inside.path import guidance_field, path_spectra, signal_to_noise, x0_changes, x0_channels
from dit_lab.models import BLOCKS

OPTIONS = dict(steps=4, cfg_scale=2.0, seed=3)
LABELS = [1, 4]
FLOW = dict(schedule="flow", prediction="velocity", learned_variance=False)
SIT = dict(schedule="sit", prediction="sit_velocity", learned_variance=False)
CLOSE = dict(atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def model():
    return random_model()


@pytest.fixture(scope="module")
def trajectory(model):
    return record(model, LABELS, **OPTIONS)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_field_is_the_difference_of_the_halves_that_the_sampler_walked_with(block):
    model = random_model(block)
    steps = list(sample(model, LABELS, **OPTIONS))
    seen = guidance_field(record(model, LABELS, **OPTIONS), model, sample=1)
    expected = torch.stack([step.eps_cond[1] - step.eps_uncond[1] for step in steps])
    torch.testing.assert_close(seen.field, expected, **CLOSE)
    assert seen.t == [999, 666, 333, 0] and seen.field.dtype == torch.float32 and seen.active.all()
    for step, (field, walked) in enumerate(zip(expected.numpy(), steps, strict=True)):
        cond = walked.eps_cond[1].numpy()
        cosine = (field * cond).sum() / np.linalg.norm(field) / np.linalg.norm(cond)
        assert seen.norm[step] == pytest.approx(np.sqrt((field**2).mean()), rel=1e-3)
        assert seen.angle[step] == pytest.approx(math.degrees(math.acos(cosine)), abs=0.05)
        for channel in range(3):
            assert seen.channel_norm[step, channel] == pytest.approx(np.sqrt((field[channel] ** 2).mean()), rel=1e-3)


@pytest.mark.parametrize("objective", [FLOW, SIT, dict(prediction="v"), dict(prediction="x0"), dict(schedule="cosine")])
def test_eps_is_read_from_whatever_the_network_predicts(objective):
    model = random_model(**objective)
    expected = [step.eps_cond[0] - step.eps_uncond[0] for step in sample(model, LABELS, **OPTIONS)]
    seen = guidance_field(record(model, LABELS, **OPTIONS), model)
    # Near the picture s is small: eps, read from x0 by dividing by it, loses digits.
    torch.testing.assert_close(seen.field, torch.stack(expected), atol=1e-4, rtol=1e-3)
    assert seen.angle[1:].isfinite().all()


@pytest.mark.parametrize("objective", [FLOW, SIT])
def test_where_a_flow_begins_the_label_changes_nothing_in_eps_and_has_no_angle(objective):
    model = random_model(**objective)
    seen = guidance_field(record(model, LABELS, **OPTIONS), model)
    assert not seen.field[0].any() and seen.norm[0] == 0 and seen.angle[0].isnan() and seen.norm[1] > 0


def test_a_u_dits_field_is_there_too():
    model = random_udit()
    expected = [step.eps_cond[0] - step.eps_uncond[0] for step in sample(model, LABELS, **OPTIONS)]
    torch.testing.assert_close(guidance_field(record(model, LABELS, **OPTIONS), model).field, torch.stack(expected))


def test_clipping_comes_after_eps_is_read(model):
    clipped = record(model, LABELS, **OPTIONS | dict(clip_x0=True))
    x, t, y = clipped.inputs(model, 2, 0, "cond")
    cond = model(x, t, y)[0, :3]
    uncond = model(x, t, y * 0 + 5)[0, :3]
    torch.testing.assert_close(guidance_field(clipped, model).field[2], (cond - uncond).detach(), **CLOSE)


def test_the_field_of_a_model_in_fp64_keeps_its_digits(trajectory):
    model = random_model().double()
    seen = guidance_field(trajectory, model)
    assert seen.field.dtype == torch.float64
    half = lambda half: model(*trajectory.inputs(model, 1, 0, half))[0, :3].detach()
    torch.testing.assert_close(seen.field[1], half("cond") - half("uncond"), rtol=1e-10, atol=1e-12)


def test_a_run_says_where_it_was_guided_and_the_field_is_there_all_the_same(model):
    for options, guided in (
        (dict(cfg_interval=(300, 700)), [False, True, True, False]),
        (dict(cfg_scale=1.0), [False] * 4),
    ):
        seen = guidance_field(record(model, LABELS, **OPTIONS | options), model)
        assert seen.active.tolist() == guided and (seen.norm > 0).all()


def test_a_label_that_is_the_null_label_changes_nothing(model):
    seen = guidance_field(record(model, [5], **OPTIONS), model)
    assert seen.norm.max() < 1e-5


def test_one_doubled_forward_is_run_a_step(model, trajectory):
    batches = []
    hook = model.register_forward_pre_hook(lambda module, inputs: batches.append(len(inputs[0])))
    guidance_field(trajectory, model)
    hook.remove()
    assert batches == [2] * 4


@pytest.mark.parametrize("kind", [dict(num_classes=0), dict(null_label=False)])
def test_a_model_without_a_null_label_has_no_field(kind):
    model = random_model(**kind)
    with pytest.raises(TraceError, match="no unconditional half"):
        guidance_field(record(model, [0], steps=2), model)


def test_a_sample_that_is_not_there_and_another_model_are_refused(model, trajectory):
    for look in (x0_changes, x0_channels, path_spectra, lambda run, sample: guidance_field(run, model, sample=sample)):
        with pytest.raises(TraceError, match="sample must be a whole number from 0 to 1, not 2"):
            look(trajectory, sample=2)
    with pytest.raises(TraceError, match="another model"):
        guidance_field(trajectory, random_model("adaln"))


def test_changes_of_x0_are_root_mean_squares_from_step_to_step(trajectory):
    seen = x0_changes(trajectory, sample=1)
    x0 = trajectory.x0[:, 1].double().numpy()
    assert seen.t == trajectory.t[1:] and seen.channels.shape == (3, 3)
    for step in range(3):
        moved = x0[step + 1] - x0[step]
        assert seen.whole[step] == pytest.approx(np.sqrt((moved**2).mean()), rel=1e-5)
        assert seen.channels[step].tolist() == pytest.approx(np.sqrt((moved**2).mean((1, 2))), rel=1e-5)
    single = x0_changes(record(random_model(), [1], steps=1))
    assert single.t == [] and single.channels.shape == (0, 3) and single.whole.shape == (0,)


def test_each_channel_has_its_mean_spread_and_range(trajectory):
    seen, x0 = x0_channels(trajectory, sample=1), trajectory.x0[:, 1].double().numpy()
    for ours, numpys in zip(seen, (np.mean, np.std, np.min, np.max), strict=True):
        np.testing.assert_allclose(ours.numpy(), numpys(x0, axis=(2, 3)), rtol=1e-4, atol=1e-5)


def test_signal_to_noise_is_the_schedules(trajectory):
    alpha_bar = Diffusion.named().alpha_bar[[999, 666, 333, 0]]
    ratio = alpha_bar / (1 - alpha_bar)
    np.testing.assert_allclose(signal_to_noise(trajectory), ratio, rtol=1e-5)
    np.testing.assert_allclose(signal_to_noise(trajectory, log=True), np.log(ratio), rtol=1e-5)
    assert trajectory.t == sorted(trajectory.t, reverse=True) and signal_to_noise(trajectory).diff().min() > 0


def test_a_flow_begins_with_no_signal_at_all():
    flow = record(random_model(**FLOW), [1], **OPTIONS)
    assert signal_to_noise(flow).tolist() == pytest.approx([0, (1 / 3) ** 2, 1, 9])
    assert signal_to_noise(flow, log=True)[0] == -math.inf


def test_a_process_of_ones_own_is_not_guessed(model):
    run = record(model, [1], steps=3, process=Diffusion.named(steps=500))
    for look in (signal_to_noise, path_spectra, lambda run: guidance_field(run, model)):
        with pytest.raises(TraceError, match="a process of its own"):
            look(run)


def loop_spectrum(x):
    """Rings of Fourier power, mode by mode: `x: h w -> f`."""
    rows, columns = x.shape
    side, rings = min(rows, columns), {}
    for u in range(rows):
        for v in range(columns):
            wave = [
                x[r, c] * np.exp(-2j * np.pi * (u * r / rows + v * c / columns))
                for r in range(rows)
                for c in range(columns)
            ]
            frequency = math.hypot(min(u, rows - u) / rows, min(v, columns - v) / columns)
            rings.setdefault(round(frequency * side), []).append(abs(sum(wave)) ** 2 / (rows * columns))
    return [np.mean(rings[ring]) for ring in range(1, side // 2 + 1)]


def test_the_spectra_are_a_loops_over_the_modes_of_a_picture_that_is_not_square(trajectory):
    seen = path_spectra(trajectory, sample=1)
    assert seen.t == trajectory.t and seen.x.shape == seen.x0.shape == seen.noised.shape == (4, 3, 4)
    assert seen.frequency.tolist() == pytest.approx([1 / 8, 2 / 8, 3 / 8, 4 / 8])
    for step, channel in ((0, 0), (3, 2)):
        for ours, walked in ((seen.x, trajectory.x), (seen.x0, trajectory.x0)):
            expected = loop_spectrum(walked[step, 1, channel].double().numpy())
            assert ours[step, channel].tolist() == pytest.approx(expected, rel=1e-4)


def test_without_a_sample_it_is_the_mean_over_all(trajectory):
    both = [path_spectra(trajectory, sample=number) for number in (0, 1)]
    seen = path_spectra(trajectory)
    for name in ("x", "x0", "noised"):
        torch.testing.assert_close(getattr(seen, name), sum(getattr(each, name) for each in both) / 2)


def test_the_process_says_what_noise_and_the_noised_sample_have(trajectory):
    """The noised sample's spectrum is what many draws of the process from it come to."""
    seen, random = path_spectra(trajectory, sample=0), torch.Generator().manual_seed(0)
    alpha_bar = Diffusion.named().alpha_bar[trajectory.t]
    np.testing.assert_allclose(seen.noise, 1 - alpha_bar, rtol=1e-5)
    picture = trajectory.sample[0].double()
    for step, left in enumerate(alpha_bar):
        noise = torch.randn(4000, *picture.shape, generator=random, dtype=torch.float64)
        drawn = left**0.5 * picture + (1 - left) ** 0.5 * noise
        power = torch.fft.fft2(drawn, norm="ortho").abs().square().mean(0).numpy()
        radius = lambda u, v: round(8 * math.hypot(min(u, 8 - u) / 8, min(v, 12 - v) / 12))
        ring = [power[:, u, v] for u in range(8) for v in range(12) if radius(u, v) == 1]
        np.testing.assert_allclose(seen.noised[step, :, 0], np.mean(ring, 0), rtol=0.05)


def test_the_noise_that_a_run_begins_with_is_flat():
    run = record(random_model(), [1] * 32, **OPTIONS)
    seen = path_spectra(run)
    assert seen.x[0].sub(seen.noise[0]).abs().max() < 0.4 and seen.x[0].mean() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("size", [(4, 4), (4, 8), (12, 4)])
def test_the_smallest_inputs_have_a_spectrum(size):
    seen = path_spectra(record(random_model(input_size=size), [1], steps=2))
    assert seen.frequency.tolist() == pytest.approx([1 / 4, 2 / 4]) and seen.x.isfinite().all()


def test_a_picture_of_one_row_has_no_frequency():
    run = record(random_model(input_size=(1, 4), patch_size=1), [1], steps=2)
    with pytest.raises(TraceError, match="1 x 4 have no frequency"):
        path_spectra(run)
