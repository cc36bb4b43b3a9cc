"""What papers vary in a recipe: how the learning rate falls, weight decay, moments, averages and clipping."""

import json
import math
import re
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from shared import assert_same, random_model

from dit_lab.data import open_data
from dit_lab.models import build
from dit_lab.training import TrainOptions, train

OPTIONS = TrainOptions(steps=6, batch_size=4, lr=2e-3, precision="fp32", save_every=3)
NEW = ("lr_decay", "weight_decay", "betas", "ema_warmup")


@pytest.fixture(scope="module")
def digits():
    return open_data("digits")


def tiny():
    torch.manual_seed(0)
    return build("DiT-nano/4", input_size=8, in_channels=1, num_classes=10, dim=16, depth=1, heads=2)


def state(out):
    return load_file(out / "state.safetensors")


@pytest.mark.parametrize(
    ("decay", "at"),
    [
        ("constant", {10: 1.0, 55: 1.0, 99: 1.0}),
        ("linear", {9: 1.0, 10: 1.0, 55: 0.5, 82: 0.2, 99: 1 / 90}),
        ("cosine", {9: 1.0, 10: 1.0, 40: 0.75, 55: 0.5, 70: 0.25, 99: (1 - math.cos(math.pi / 90)) / 2}),
    ],
)
def test_the_learning_rate_rises_over_the_warm_up_and_then_falls_to_nothing_over_what_is_left(decay, at):
    options = TrainOptions(steps=100, warmup=10, lr=2e-3, lr_decay=decay)
    assert [options.lr_at(step) for step in range(3)] == pytest.approx([2e-4, 4e-4, 6e-4])
    assert {step: options.lr_at(step) / 2e-3 for step in at} == pytest.approx(at)
    if decay != "constant":
        assert options.lr_at(100) == pytest.approx(0, abs=1e-12)


def test_the_optimiser_steps_at_that_rate(digits):
    options = replace(OPTIONS, lr_decay="linear")
    assert [step.lr for step in train(tiny(), digits, options)] == [options.lr_at(step) for step in range(6)]
    model, still = (
        tiny(),
        replace(OPTIONS, steps=2, warmup=1, lr_decay="linear", lr=1.0, weight_decay=0.5, betas=(0, 0)),
    )
    before = model.out.bias.detach().clone()
    next(train(model, digits, still))
    moved = (model.out.bias - before).abs()
    assert torch.isclose(moved, torch.ones(()), rtol=1e-2).float().mean() > 0.9  # Adam's first step is the rate itself


def test_a_falling_run_goes_on_bit_for_bit_and_not_to_another_last_step(digits, tmp_path):
    options, (whole, cut) = replace(OPTIONS, lr_decay="cosine", warmup=2), (tmp_path / "whole", tmp_path / "cut")
    list(train(tiny(), digits, options, out=whole))
    steps = train(tiny(), digits, options, out=cut)
    next(steps), next(steps), next(steps), steps.close()
    told = r"option lr_decay cosine-over-6-steps \(now cosine-over-9-steps\)"
    with pytest.raises(ValueError, match=told):
        train(tiny(), digits, replace(options, steps=9), out=cut, resume=True)
    with pytest.raises(ValueError, match=r"lr_decay cosine-over-6-steps \(now constant\)"):
        train(tiny(), digits, replace(options, lr_decay="constant"), out=cut, resume=True)
    list(train(tiny(), digits, options, out=cut, resume=True))
    assert_same(state(whole), state(cut))


def test_a_run_from_before_these_options_goes_on_as_what_it_was(digits, tmp_path):
    whole, old = tmp_path / "whole", tmp_path / "old"
    list(train(tiny(), digits, OPTIONS, out=whole))
    list(train(tiny(), digits, replace(OPTIONS, steps=3), out=old))
    with safe_open(old / "state.safetensors", framework="pt") as file:
        about = json.loads(file.metadata()["dit_lab"])
    about["run"]["option"] = {name: value for name, value in about["run"]["option"].items() if name not in NEW}
    save_file(state(old), old / "state.safetensors", {"dit_lab": json.dumps(about)})
    for name, value in ("lr_decay", "linear"), ("weight_decay", 0.1), ("betas", (0.9, 0.95)), ("ema_warmup", False):
        with pytest.raises(ValueError, match=f"was started with option {name} "):
            train(tiny(), digits, replace(OPTIONS, **{name: value}), out=old, resume=True)
    list(train(tiny(), digits, OPTIONS, out=old, resume=True))
    assert_same(state(whole), state(old))


def test_weight_decay_shrinks_what_has_no_gradient_and_moments_move_as_told(digits, tmp_path):
    model = random_model(in_channels=1, input_size=8, num_classes=10, depth=1)
    before = model.label_embedding.weight.detach().clone()
    step = next(train(model, digits, replace(OPTIONS, lr=0.1, weight_decay=0.5, betas=(0.5, 0.75), label_dropout=0)))
    gradient = model.label_embedding.weight.grad
    unseen = (gradient == 0).all(1)
    assert step.lr == 0.1 and 0 < unseen.sum() < len(unseen)
    torch.testing.assert_close(model.label_embedding.weight[unseen], before[unseen] * (1 - 0.1 * 0.5))
    list(train(tiny(), digits, replace(OPTIONS, steps=1, betas=(0.5, 0.75), clip=None), out=tmp_path))
    first, second = (state(tmp_path)[f"optimiser.{name}.out.weight"] for name in ("exp_avg", "exp_avg_sq"))
    torch.testing.assert_close(first.square() / 0.5**2, second / 0.25)


def test_without_its_warm_up_the_average_has_one_decay_from_the_first_step(digits, tmp_path):
    model = tiny()
    born = model.out.weight.detach().clone()
    list(train(model, digits, replace(OPTIONS, steps=1, ema_decay=0.9, ema_warmup=False), out=tmp_path))
    torch.testing.assert_close(state(tmp_path)["ema.out.weight"], 0.9 * born + 0.1 * model.out.weight.detach())


def test_without_clipping_gradients_are_left_as_they_are_and_their_norm_still_told(digits):
    model, clipped = tiny(), tiny()
    norm = next(train(model, digits, replace(OPTIONS, clip=None))).gradient_norm
    assert next(train(clipped, digits, replace(OPTIONS, clip=norm / 4))).gradient_norm == norm
    for trained, length in (model, norm), (clipped, norm / 4):
        held = torch.stack([each.grad.norm() for each in trained.parameters() if each.grad is not None]).norm()
        assert held.item() == pytest.approx(length, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "value"),
    [("lr_decay", "exponential"), ("weight_decay", -0.1), ("weight_decay", math.inf), ("betas", (0.9,))]
    + [("betas", (0.9, 1.0)), ("betas", (-0.1, 0.9)), ("clip", 0.0), ("clip", math.nan), ("min_snr", math.inf)],
)
def test_an_impossible_recipe_is_one_sentence(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be .*, not {re.escape(str(value))}$"):
        TrainOptions(**{name: value})


def test_the_command_line_takes_a_whole_recipe(command, tmp_path):
    recipe = ["--lr-decay", "cosine", "--weight-decay", "0.03", "--betas", "0.9", "0.95", "--no-ema-warmup"]
    model = ["--preset", "DiT-nano/8", "--dim", "16", "--depth", "1", "--heads", "2", "--device", "cpu"]
    recipe += ["--clip", "None", "--precision", "fp32", "--steps", "2", "--batch-size", "4"]
    code, _, said = command("train", "--out", tmp_path / "run", *model, *recipe)
    assert code == 0, said
    with safe_open(tmp_path / "run" / "state.safetensors", framework="pt") as file:
        option = json.loads(file.metadata()["dit_lab"])["run"]["option"]
    told = dict(lr_decay="cosine-over-2-steps", weight_decay=0.03, betas=[0.9, 0.95], ema_warmup=False, clip=None)
    assert {name: option[name] for name in told} == told


@pytest.mark.parametrize(
    "edge",
    [dict(steps=1, batch_size=1, accumulate=1, save_every=1), dict(warmup=0, seed=0, sample_every=0)]
    + [dict(steps=2**63 - 1, seed=2**63 - 1), dict(label_dropout=0.0), dict(label_dropout=1.0), dict(ema_decay=0.0)]
    + [dict(ema_decay=1.0), dict(betas=(0.0, 0.0)), dict(weight_decay=0.0), dict(clip=None, min_snr=None)]
    + [dict(times="logit_normal", tracker=("tensorboard", "wandb"))],
    ids=str,
)
def test_the_last_values_that_make_sense_are_taken(edge):
    assert all(getattr(TrainOptions(**edge), name) == value for name, value in edge.items())


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (dict(lr=0.0), "lr must be a finite number above 0, not 0.0"),
        (dict(clip=0.0), "clip must be a finite number above 0 or None, not 0.0"),
        (dict(min_snr=-1.0), "min_snr must be a finite number above 0 or None, not -1.0"),
        (dict(save_every=0), "save_every must be a whole number of at least 1 and 63 bits at most, not 0"),
        (dict(seed=2**63), f"seed must be a whole number of at least 0 and 63 bits at most, not {2**63}"),
        (dict(steps=True), "steps must be a whole number of at least 1 and 63 bits at most, not True"),
        (dict(ema_decay=()), "ema_decay must be between 0 and 1, not ()"),
        (dict(ema_decay=(0.9, -0.1)), "ema_decay must be between 0 and 1, not (0.9, -0.1)"),
        (dict(ema_decay=(0.9, 0.9)), "ema_decay must be decays that differ, not (0.9, 0.9)"),
        (dict(precision="fp16"), "precision must be one of auto, fp32, bf16, not fp16"),
        (dict(times="late"), "times must be one of uniform, logit_normal, not late"),
        (dict(lr_decay="step"), "lr_decay must be one of constant, cosine, linear, not step"),
        (dict(betas=(0.9,), label_dropout=2), "betas must be two numbers from 0 to below 1, not (0.9,), label_dropout "
                                              "must be between 0 and 1, not 2"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_impossible_is_said_with_what_would_be_possible(wrong, told):
    with pytest.raises(ValueError) as caught:
        TrainOptions(**wrong)
    assert str(caught.value) == told
