"""Walks that begin with pictures: SDEdit against diffusers' schedulers and closed forms, parts drawn anew, refusals."""

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from shared import random_model
from torch.testing import assert_close

from dit_lab.diffusion import Diffusion, from_picture, generate, ideal_denoiser, process_of, sample, samplers_for
from dit_lab.inside import Trajectory, record

FLOW = dict(schedule="flow", prediction="velocity", learned_variance=False)
SIT = dict(schedule="sit", prediction="sit_velocity", learned_variance=False)
OBJECTIVES = pytest.mark.parametrize("objective", [{}, FLOW, SIT], ids=["diffusion", "flow", "sit"])
LABELS = [1, 2]
PICTURES = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(5)) * 2 - 1
MASK = torch.zeros(8, 12, dtype=torch.bool)
MASK[2:6, 3:9] = True


def noise_of(seed):
    return torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("strength", [0.25, 0.6, 1.0])
def test_a_walk_from_pictures_is_diffusers(strength):
    model = random_model(learned_variance=False)
    ours = list(sample(model, LABELS, **from_picture(model, PICTURES, strength=strength, steps=20, seed=7)))
    scheduler = DDIMScheduler(1000, 1e-4, 0.02, "linear", clip_sample=False, timestep_spacing="linspace")
    scheduler.set_timesteps(20)
    timesteps = scheduler.timesteps[20 - int(20 * strength) :]
    assert [step.t for step in ours] == timesteps.tolist()
    x = scheduler.add_noise(PICTURES, noise_of(7), timesteps[:1])
    assert_close(ours[0].x, x, rtol=1e-4, atol=1e-5)
    process = process_of(model.config)
    with torch.no_grad():
        for step, t in zip(ours, timesteps, strict=True):
            eps = model(x, t.repeat(2), torch.tensor(LABELS))
            assert_close(step.x, x, rtol=1e-3, atol=1e-3 * x.abs().max().item())
            a, s = (level.item() for level in process.signal_and_noise(t[None], x.double()))
            later = timesteps[timesteps < t]
            alpha_bar = scheduler.alphas_cumprod[later[0]].item() if len(later) else 1.0
            x = alpha_bar**0.5 * (x - s * eps) / a + (1 - alpha_bar) ** 0.5 * eps


def test_a_flows_walk_from_pictures_is_diffusers():
    model = random_model(**FLOW)
    ours = list(sample(model, LABELS, **from_picture(model, PICTURES, strength=0.5, steps=8, sampler="euler", seed=7)))
    scheduler = FlowMatchEulerDiscreteScheduler(1000)
    scheduler.set_timesteps(sigmas=[(8 - i) / 8 for i in range(8)])
    timesteps = scheduler.timesteps[4:]
    scheduler.set_begin_index(4)
    x = scheduler.scale_noise(PICTURES, timesteps[:1].repeat(2), noise_of(7))
    with torch.no_grad():
        for step, t in zip(ours, timesteps, strict=True):
            assert step.t == pytest.approx(t.item())
            assert_close(step.x, x, rtol=1e-4, atol=1e-4)
            x = scheduler.step(model(x, t.repeat(2), torch.tensor(LABELS)), t, x).prev_sample


@OBJECTIVES
def test_every_sampler_keeps_what_is_not_drawn_to_the_bit_and_draws_the_rest(objective):
    model = random_model(**objective)
    for sampler in samplers_for(process_of(model.config)):
        options = dict(mask=MASK, sampler=sampler, steps=5, strength=0.8)
        drawn = [generate(model, LABELS, **from_picture(model, PICTURES, seed=seed, **options)) for seed in (1, 1, 2)]
        assert torch.equal(drawn[0], drawn[1])
        assert torch.equal(drawn[0][..., ~MASK], PICTURES[..., ~MASK])
        assert not torch.allclose(drawn[0][..., MASK], drawn[2][..., MASK], atol=1e-3)
        assert not torch.allclose(drawn[0][..., MASK], PICTURES[..., MASK], atol=1e-3)


def test_drawn_anew_from_noise_alone_a_part_owes_nothing_to_what_was_there():
    model, other = random_model(), torch.where(MASK, -PICTURES, PICTURES)
    anew, half = (
        [
            generate(model, LABELS, **from_picture(model, each, mask=MASK, strength=strength, steps=6))
            for each in (PICTURES, other)
        ]
        for strength in (1.0, 0.5)
    )
    assert torch.equal(*anew) and not torch.equal(*half)


def test_on_the_way_what_is_kept_is_as_noisy_as_the_step():
    model = random_model(**FLOW)
    options = from_picture(model, torch.zeros(1, 3, 8, 12), mask=MASK, steps=4, seed=3)
    for step in list(sample(model, LABELS, **options))[1:]:
        kept = step.x[..., ~MASK]
        assert kept.std().item() == pytest.approx(step.t / 1000, rel=0.15)  # of 432 values


def test_where_two_pictures_are_known_the_part_that_is_kept_decides_which_is_drawn():
    known = torch.stack([torch.full((1, 4, 4), value) for value in (-0.8, 0.8)])
    model, mask = ideal_denoiser(known), torch.ones(4, 4, dtype=torch.bool)
    mask[:2] = False
    for number, picture in enumerate(known):
        torn = picture.clone()
        torn[:, 2:] = 0.0
        drawn = generate(
            model, [0] * 8, **from_picture(model, torn[None], mask=mask, steps=50, sampler="ddpm", seed=number)
        )
        assert (drawn - picture).abs().amax(dim=(1, 2, 3)).lt(0.1).float().mean() > 0.9


def test_little_strength_stays_near_the_picture_and_much_leaves_it():
    known = torch.stack([torch.full((1, 4, 4), value) for value in (-0.8, 0.8)])
    model = ideal_denoiser(known)
    low, high = (
        generate(model, [0] * 64, **from_picture(model, known[:1], strength=strength, steps=20, seed=1))
        for strength in (0.2, 1.0)
    )
    assert_close(low, known[:1].expand_as(low), rtol=0, atol=0.05)
    assert 0.2 < (high > 0).float().mean() < 0.8


@OBJECTIVES
def test_the_run_is_recorded_kept_and_looked_into(objective, tmp_path):
    model = random_model(**objective)
    for mask in (None, MASK):
        run = record(model, LABELS, cfg_scale=2.0, **from_picture(model, PICTURES, mask=mask, strength=0.5, steps=6))
        run.save(tmp_path / "run.safetensors")
        again = Trajectory.load(tmp_path / "run.safetensors")
        assert len(again.t) == 3 and again.options["seed"] is None
        assert torch.equal(again.sample, run.sample) and again.attention(model, 1).isfinite().all()
        assert again.options["sampler"] == ("ddim" if mask is None else "own")


def test_a_size_that_was_not_trained_and_one_picture_for_all_labels():
    model = random_model()
    drawn = generate(model, [1, 2, 3], **from_picture(model, torch.zeros(1, 3, 16, 8), strength=0.5, steps=4))
    assert drawn.shape == (3, 3, 16, 8)
    each = torch.zeros(3, 1, 16, 8, dtype=torch.bool)
    each[1] = True
    drawn = generate(model, [1, 2, 3], **from_picture(model, torch.zeros(3, 3, 16, 8), mask=each, steps=4))
    assert drawn[[0, 2]].eq(0).all() and drawn[1].ne(0).all()


def test_one_mask_does_for_all_pictures_whether_or_not_it_says_so():
    model = random_model()
    drawn = [
        generate(model, LABELS, **from_picture(model, PICTURES, mask=mask, steps=4))
        for mask in (MASK, MASK.expand(1, 1, 8, 12), MASK.expand(2, 1, 8, 12))
    ]
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], drawn[2])


def test_the_process_and_the_clipping_that_are_asked_for_are_those_of_the_walk():
    model, cosine = random_model(null_label=False), Diffusion.named("cosine")
    options = from_picture(model, PICTURES, strength=0.5, steps=4, process=cosine, clip_x0=True)
    assert options["process"] is cosine and options["clip_x0"] is True and "size" not in options
    first = next(sample(model, LABELS, **options))
    a, s = (level.item() for level in cosine.signal_and_noise(torch.tensor([int(first.t)]), PICTURES))
    assert_close(first.x, a * PICTURES + s * noise_of(0), rtol=1e-4, atol=1e-4)
    assert first.x0.abs().max() <= 1


@pytest.mark.parametrize(
    "changes, told",
    [
        (
            dict(pictures=torch.zeros(1, 4, 8, 12)),
            "pictures must be a tensor b 3 h w, as the model draws, not of shape",
        ),
        (dict(pictures="a.png"), "pictures must be a tensor b 3 h w, as the model draws, not 'a.png'"),
        (dict(pictures=torch.full((1, 3, 8, 12), torch.nan)), "hold NaN or Inf"),
        (dict(pictures=torch.tensor([0.0, torch.inf]).expand(1, 3, 8, 2)), "hold NaN or Inf"),
        (dict(pictures=torch.zeros(0, 3, 8, 12)), r"pictures must be .*, not of shape \(0, 3, 8, 12\)"),
        (dict(strength=0.01), "strength 0.01 leaves none of 20 steps"),
        (dict(strength=1.1), "strength must be a number from 0 to 1"),
        (dict(strength=-0.5), "strength must be a number from 0 to 1"),
        (dict(strength="half"), "strength must be a number from 0 to 1"),
        (dict(mask=torch.ones(8, 12)), r"mask must be bools of \(8, 12\), .*, not torch.float32 of \(8, 12\)$"),
        (dict(mask=[[True]]), r"mask must be bools of \(8, 12\), .*, not \[\[True\]\]$"),
        (dict(mask=torch.ones(8, 8, dtype=torch.bool)), "mask must be bools of"),
        (dict(mask=torch.zeros(8, 12, dtype=torch.bool)), "the mask keeps every pixel"),
        (dict(sampler="none"), "there is no sampler 'none'"),
        (dict(steps=0), "steps must be a whole number"),
        (dict(seed=0.5), "seed must be a whole number"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, told):
    model = random_model()
    asked = dict(pictures=PICTURES, steps=20) | changes
    with pytest.raises(ValueError, match=told):
        from_picture(model, asked.pop("pictures"), **asked)


def test_pictures_for_other_labels_and_a_second_walk_are_refused():
    model = random_model()
    with pytest.raises(ValueError, match="give one picture for all labels or one a label"):
        generate(model, [1, 2, 3], **from_picture(model, PICTURES, steps=4))
    options = from_picture(model, PICTURES, steps=4)
    generate(model, LABELS, **options)
    with pytest.raises(ValueError, match="the options of one walk, and this is another"):
        generate(model, LABELS, **options)
    with pytest.raises(ValueError, match="ddpm takes a diffusion's steps"):
        from_picture(random_model(**FLOW), PICTURES, mask=MASK, sampler="ddpm")
