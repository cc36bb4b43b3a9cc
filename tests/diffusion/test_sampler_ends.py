"""Small promises of the processes and samplers, at the ends of what may be asked for."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from shared import random_model

from dit_lab.diffusion import (
    Diffusion,
    Flow,
    described,
    from_picture,
    generate,
    ideal_denoiser,
    karras,
    loss_by_timestep,
    objective,
    process_of,
    sample,
)
from dit_lab.diffusion.checks import seeded_noise, whole_labels
from dit_lab.diffusion.sampling import predict
from dit_lab.diffusion.solvers import Now, dpmpp3_step, dpmpp_step, log_snr, picked, unipc_step

DIFFUSION, FLOW = Diffusion.named("linear", "eps"), Flow()
GENERATOR = lambda seed=0: torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "process, spread", [(DIFFUSION, "uniform"), (FLOW, "uniform"), (FLOW, "logit_normal")], ids=str
)
def test_where_a_batch_is_trained_follows_its_own_generator_and_no_other(process, spread):
    torch.manual_seed(1)
    first = process.times(64, GENERATOR(), spread)
    torch.manual_seed(2)
    assert first.equal(process.times(64, GENERATOR(), spread)) and not first.equal(
        process.times(64, GENERATOR(1), spread)
    )


def test_without_the_first_timestep_one_step_fewer_can_be_asked_for():
    assert len(DIFFUSION.respaced(999, first=False).timesteps) == 999
    with pytest.raises(ValueError, match="from 1 to 999, not 1000"):
        DIFFUSION.respaced(1000, first=False)
    with pytest.raises(ValueError, match="from 1 to 1000, not 1001"):
        DIFFUSION.respaced(1001)


@pytest.mark.parametrize("timesteps", [["9", 500], [500, "9"], [True, 500], [500, None]])
def test_timesteps_of_which_one_is_no_number_are_refused(timesteps):
    for process in (DIFFUSION, FLOW):
        with pytest.raises(ValueError, match="timesteps"):
            picked(process, timesteps[::-1])


def test_of_a_process_with_gaps_whole_timesteps_between_are_walked_too():
    gaps = DIFFUSION.respaced(10)
    assert 500 not in gaps.timesteps
    between = picked(gaps, [999, 500, 0])
    assert between.timesteps.tolist() == [0, 500, 999]
    low, high = (max(t for t in gaps.timesteps if t < 500), min(t for t in gaps.timesteps if t > 500))
    level = lambda t: DIFFUSION.levels(int(t))[0]
    assert level(high) < between.levels(1)[0] < level(low)


def test_an_uneven_flow_can_be_picked_from_anew_and_says_where_it_lies():
    uneven = FLOW.picked([1000, 400, 100])
    assert uneven.picked([900, 300]).timesteps.tolist() == [300, 900]
    with pytest.raises(ValueError, match="from 1000, noise, towards 0, the picture"):
        uneven.picked([300, 900])


@pytest.mark.parametrize("null, last", [(True, 10), (False, 9)])
def test_the_last_label_is_the_null_label_or_where_there_is_none_the_last_class(null, last):
    assert whole_labels(np.array([0, last]), 10, null) == [0, last]
    what = "the null label" if null else "this model has no null label"
    with pytest.raises(ValueError, match=rf"from 0 to {last} \({what}\), not {last + 1}"):
        whole_labels([last + 1], 10, null)


def test_labels_become_whole_numbers_of_python():
    assert all(type(label) is int for label in whole_labels([np.int64(3), np.uint8(4)], 10))


def test_guidance_within_one_timestep_alone_is_guided_there():
    steps = list(sample(random_model(), [1], steps=[900, 500, 20], cfg_scale=3.0, cfg_interval=(500, 500)))
    assert [step.eps_uncond is not None for step in steps] == [False, True, False]


def test_a_model_without_a_null_label_is_not_guided():
    with pytest.raises(ValueError, match="without a null label, so it cannot be guided"):
        sample(random_model(null_label=False), [1], cfg_scale=2.0)
    with pytest.raises(ValueError, match="without a null label, so it cannot be guided"):
        sample(random_model(null_label=False), [1], cfg_scale=2)


def test_the_loss_at_a_timestep_follows_its_seeds_and_nothing_else():
    model = random_model()
    x0, y = torch.randn(5, model.config.in_channels, *model.config.size, generator=GENERATOR()), [0, 1, 2, 3, 4]
    told = lambda *seeds: loss_by_timestep(model, x0, y, [10, 600], seeds=seeds, batch_size=2)
    torch.manual_seed(1)
    first = told(0, 1)
    torch.manual_seed(2)
    assert np.array_equal(first, told(0, 1)) and not np.allclose(first[0], first[1])
    assert first.dtype == np.float64 and np.allclose(
        first, loss_by_timestep(model, x0.double(), y, [10, 600], seeds=(0, 1))
    )


def test_begun_with_a_picture_the_steps_that_are_walked_are_the_last_and_keep_their_noise_of_ddim():
    model = random_model()
    picture = torch.rand(1, model.config.in_channels, *model.config.size, generator=GENERATOR()) * 2 - 1
    options = from_picture(model, picture, strength=0.5, steps=10, sampler="ddim", eta=0.7, seed=3)
    whole = [step.t for step in sample(model, [1], steps=10)]
    assert options["steps"] == whole[5:] and options["eta"] == 0.7
    # x_t at the first of them, by hand: the picture and the seed's first noise at its level
    a, s = process_of(model.config).levels(whole[5])
    z = torch.randn(1, *picture.shape[1:], generator=GENERATOR(3))
    first = next(sample(model, [1], **options))
    torch.testing.assert_close(first.x, a * picture + s * z)
    again = from_picture(model, picture, strength=0.5, steps=10, sampler="ddim", eta=0.7, seed=3)
    walked = list(sample(model, [1], **again))
    assert not walked[-1].previous.equal(
        generate(model, [1], **{**from_picture(model, picture, steps=10, strength=0.5, seed=3)})
    )


def test_what_a_mask_keeps_is_the_picture_with_the_steps_own_noise_until_it_is_clean():
    model = random_model()
    shape = (1, model.config.in_channels, *model.config.size)
    picture = torch.rand(shape, generator=GENERATOR()) * 2 - 1
    mask = torch.zeros(model.config.size, dtype=torch.bool)
    mask[:2] = True
    options = from_picture(model, picture, mask=mask, strength=1.0, steps=4, seed=5)
    noises, plain = [], options["noise"]
    options["noise"] = lambda shape: noises.append(plain(shape)) or noises[-1]
    steps = list(sample(model, [1], **options))
    process = process_of(model.config)
    for now, following, noise in zip(steps, steps[1:], noises[1:], strict=False):
        a, s = process.levels(following.t)
        kept = (a * picture + s * noise)[..., ~mask]
        torch.testing.assert_close(now.previous[..., ~mask], kept)
    torch.testing.assert_close(steps[-1].previous[..., ~mask], picture[..., ~mask])


def test_the_variances_of_two_steps_are_both_the_seconds():
    two = DIFFUSION.respaced(2)
    first, second = two.log_posterior_variance
    kept = two.betas[1] * (1 - two.alpha_bar[0]) / (1 - two.alpha_bar[1])
    assert first == second == pytest.approx(np.log(kept))


def test_draws_after_the_first_are_the_seeds_own_and_none_is_left_for_another_walk():
    model = random_model()
    shape = (1, model.config.in_channels, *model.config.size)
    options = from_picture(model, torch.zeros(shape), strength=0.5, steps=4, seed=7)
    generator = GENERATOR(7)
    a, s = process_of(model.config).levels(options["steps"][0])
    assert torch.equal(options["noise"](shape), s * torch.randn(shape, generator=generator))
    for _ in options["steps"]:
        assert torch.equal(options["noise"](shape), torch.randn(shape, generator=generator))
    with pytest.raises(ValueError, match="this is another: make them again"):
        options["noise"](shape)


def test_pictures_in_half_precision_are_begun_with_as_in_fp32():
    model = random_model()
    picture = torch.rand(1, model.config.in_channels, *model.config.size, generator=GENERATOR()).half()
    walked = [generate(model, [1], **from_picture(model, each, steps=4)) for each in (picture, picture.float())]
    assert torch.equal(*walked)
    times = dict(times=[10, 600], batch_size=2)
    assert np.array_equal(*(loss_by_timestep(model, each, [1], **times) for each in (picture, picture.float())))


def test_a_mask_that_is_none_is_refused_in_a_short_sentence():
    model = random_model()
    picture = torch.zeros(1, model.config.in_channels, *model.config.size)
    with pytest.raises(ValueError, match="mask must be bools") as refused:
        from_picture(model, picture, mask=[0] * 10**6)
    assert len(str(refused.value)) < 300


def test_guidance_pairs_each_picture_with_its_own_timestep():
    model = random_model()
    x = torch.randn(2, model.config.in_channels, *model.config.size, generator=GENERATOR())
    t, y, null = torch.tensor([5.0, 700.0]), torch.tensor([1, 2]), torch.tensor([5, 5])
    both = predict(model, x, t, y, null)
    for k in range(2):
        alone = predict(model, x[k : k + 1], t[k : k + 1], y[k : k + 1], null[k : k + 1])
        for whole, one in zip(both, alone, strict=True):
            torch.testing.assert_close(whole[k : k + 1], one)


def test_a_sampler_of_ones_own_is_given_eta_as_a_float():
    given = []

    def own(process, now, before, ask, noise, eta):
        given.append(eta)
        return now.x0

    generate(random_model(), [1], sampler=own, steps=2, eta=Fraction(1, 2))
    assert given == [0.5, 0.5] and all(type(eta) is float for eta in given)


def test_one_guided_channel_is_the_first_alone():
    model = random_model()
    step = next(sample(model, [1], steps=2, cfg_scale=3.0, cfg_channels=1))
    plain = next(sample(model, [1], steps=2))
    torch.testing.assert_close(step.eps[:, 1:], plain.eps[:, 1:])
    assert not torch.allclose(step.eps[:, :1], plain.eps[:, :1])


def test_the_least_rho_of_karras_steps_is_above_none_and_at_1_they_are_even_in_the_noise():
    t = np.array(karras(FLOW, 5, rho=1))
    assert np.allclose(np.diff(t), np.diff(t)[0])
    for rho in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="rho must be a number above 0"):
            karras(FLOW, 5, rho=rho)


def test_an_ideal_denoiser_answers_in_its_inputs_dtype_and_as_well_in_fp32():
    pictures = torch.rand(3, 1, 4, 4, generator=GENERATOR()) * 2 - 1
    model = ideal_denoiser(pictures)
    x = torch.randn(2, 1, 4, 4, generator=GENERATOR(1))
    t, y = torch.tensor([0, 0]), torch.tensor([0, 0])
    assert model(x, t, y).dtype == torch.float32 and model(x.double(), t, y).dtype == torch.float64
    torch.testing.assert_close(model(x, t, y).double(), model(x.double(), t, y), rtol=0, atol=1e-5)


def test_from_pure_noise_the_third_step_of_third_order_is_still_that_of_second():
    """In log SNR the noise is infinitely far away: no parabola goes through it."""
    model = random_model(**objective("flow"))
    second, third = (list(sample(model, [1], sampler=name, steps=20)) for name in ("dpmpp", "dpmpp3"))
    assert torch.equal(third[2].previous, second[2].previous)
    assert not torch.allclose(third[3].previous, second[3].previous)


def test_after_pure_noise_unipc_mends_a_step_by_the_line_through_the_x0_of_its_two_ends():
    """A line in log SNR, whose integral along the step is taken finely here."""
    flow, generator = Flow(8), GENERATOR()
    noise, first, now = (
        Now(i, *torch.randn(3, 2, 3, 4, 4, generator=generator, dtype=torch.float64), None) for i in (7, 6, 5)
    )
    now = now._replace(x=dpmpp_step(flow, first, (noise,), None, None, 0.0))
    (_, s), (_, s_next) = flow.levels(6), flow.levels(5)
    places = torch.linspace(log_snr(flow, 6), log_snr(flow, 5), 2001, dtype=torch.float64)
    share = (places - places[0]) / (places[-1] - places[0])
    of_first, of_now = (s_next * torch.trapezoid(places.exp() * part, places) for part in (1 - share, share))
    mended = now._replace(x=s_next / s * first.x + of_first * first.x0 + of_now * now.x0)
    expected = dpmpp_step(flow, mended, (first, noise), None, None, 0.0)
    torch.testing.assert_close(unipc_step(flow, now, (first, noise), None, None, 0.0), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("steps, alike", [(14, True), (15, False)])
def test_the_last_but_one_step_of_third_order_is_of_second_in_walks_of_less_than_fifteen(steps, alike):
    step = lambda process, now, *more: (dpmpp_step if now.i == 1 else dpmpp3_step)(process, now, *more)
    model = random_model()
    timesteps = [step.t for step in sample(model, [1], sampler="dpmpp3", steps=steps)]
    drawn = [generate(model, [1], sampler=one, steps=timesteps, noise=seeded_noise(1)) for one in (step, "dpmpp3")]
    assert torch.equal(*drawn) is alike


@pytest.mark.parametrize("size", [None, 4.0, "4", (4,), (4, 4, 4), (4, 0)])
def test_a_described_model_of_no_size_is_refused_in_a_sentence(size):
    with pytest.raises(ValueError, match="input_size must be a side or"):
        described(lambda x, t, y: x, input_size=size, in_channels=1, num_classes=0)
