"""The training loop in this process: what a step does, and what it refuses."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from dit_lab.data import Images, open_data
from dit_lab.diffusion import Diffusion
from dit_lab.presets import build
from dit_lab.state import TrainState
from dit_lab.train import NonFiniteLoss, TrainOptions, draw, order, train, uses_bf16

QUICK = TrainOptions(steps=3, batch_size=4)


@pytest.fixture(scope="module")
def digits():
    return open_data("digits")


def tiny(**changes):
    torch.manual_seed(0)
    options = dict(input_size=8, in_channels=1, num_classes=10, dim=32, depth=1, heads=2)
    return build("DiT-nano/4", **(options | changes))


def test_steps_come_one_by_one_with_their_losses(digits):
    steps = list(train(tiny(), digits, QUICK))
    assert [step.step for step in steps] == [1, 2, 3]
    assert all(step.loss == pytest.approx(step.mse + step.vb) and step.images_per_second > 0 for step in steps)


def test_training_learns(digits):
    losses = [step.mse for step in train(tiny(), digits, TrainOptions(steps=150, batch_size=32, lr=2e-3))]
    assert np.mean(losses[-20:]) < 0.75 * np.mean(losses[:5])


@pytest.mark.parametrize("prediction", ["x0", "v"])
@pytest.mark.parametrize("block", ["in_context", "cross_attention", "adaln", "adaln_zero"])
def test_every_block_and_prediction_trains(block, prediction, digits):
    model = tiny(block=block, prediction=prediction, schedule="cosine", learned_variance=prediction == "v")
    assert all(math.isfinite(step.loss) for step in train(model, digits, QUICK))


def test_a_model_without_classes_trains_on_the_null_label():
    images = open_data("digits", labelled=False)
    assert images.names == [] and not images.labels.any()
    assert len(list(train(tiny(num_classes=0), images, QUICK))) == 3


def test_the_optimiser_is_the_papers(digits):
    state = TrainState.fresh(tiny(), TrainOptions().lr)
    assert isinstance(state.optimiser, torch.optim.AdamW)
    assert state.optimiser.param_groups[0]["lr"] == 1e-4 and state.optimiser.param_groups[0]["weight_decay"] == 0


def test_the_average_follows_its_closed_form(digits):
    model = tiny()
    state = TrainState.fresh(model, 1e-3)
    expected = copy.deepcopy(model.out.weight.detach())
    for step in range(1, 4):
        with torch.no_grad():
            model.out.weight.add_(1.0)
        state.step = step
        state.average(0.9999)
        decay = (1 + step) / (10 + step)
        expected = decay * expected + (1 - decay) * model.out.weight.detach()
    torch.testing.assert_close(state.ema.out.weight, expected)


def test_labels_are_dropped_at_the_asked_rate(digits):
    model, diffusion = tiny(), Diffusion.named()
    for rate in 0.0, 0.1, 1.0:
        options = TrainOptions(batch_size=4000, label_dropout=rate)
        _, _, y, _ = draw(digits, TrainState.fresh(model, 1e-4), diffusion, options)
        assert (y == 10).float().mean() == pytest.approx(rate, abs=0.02)


def test_half_of_the_pictures_are_mirrored_only_when_asked(digits):
    state, diffusion = TrainState.fresh(tiny(), 1e-4), Diffusion.named()
    plain, *rest = draw(digits, state, diffusion, QUICK)
    options = replace(QUICK, mirror=True, batch_size=400)
    plain = draw(digits, state, diffusion, replace(options, mirror=False))[0]
    mirrored = draw(digits, state, diffusion, options)[0]
    flipped = (mirrored != plain).flatten(1).any(1)
    assert torch.equal(mirrored[flipped], plain[flipped].flip(-1)) and 0.4 < flipped.float().mean() < 0.6


def test_gradients_are_clipped(digits):
    model = tiny()
    norm = next(train(model, digits, replace(QUICK, clip=1e-3))).gradient_norm
    held = torch.stack([parameter.grad.norm() for parameter in model.parameters() if parameter.grad is not None]).norm()
    assert norm > 1e-2 and held == pytest.approx(1e-3, rel=1e-3)


def test_the_learning_rate_warms_up(digits):
    rates = [step.lr for step in train(tiny(), digits, replace(QUICK, steps=4, warmup=2, lr=1.0e-3))]
    assert rates == [0.5e-3, 1e-3, 1e-3, 1e-3]


def test_every_epoch_shows_every_picture_once_and_each_in_another_order():
    stream = np.concatenate([order(10, 0, start, 4) for start in range(0, 40, 4)])
    epochs = stream.reshape(4, 10)
    assert (np.sort(epochs) == np.arange(10)).all() and len({tuple(epoch) for epoch in epochs}) == 4
    assert sorted(order(3, 0, 0, 9)) == [0, 0, 0, 1, 1, 1, 2, 2, 2]  # a batch of three epochs


def test_bf16_is_taken_where_the_machine_computes_it(monkeypatch, digits):
    cpu = torch.device("cpu")
    for told, taken in ({}, False), ({"avx512_bf16": True}, True), ({"bf16": True}, True), ({"amx_bf16": True}, True):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda told=told: told)
        assert uses_bf16("auto", cpu) is taken
        assert uses_bf16("bf16", cpu) and not uses_bf16("fp32", cpu)
    exact = next(train(tiny(), digits, replace(QUICK, precision="fp32", batch_size=16)))
    rough = next(train(tiny(), digits, replace(QUICK, precision="bf16", batch_size=16)))
    assert rough.gradient_norm != exact.gradient_norm and rough.loss == pytest.approx(exact.loss, rel=0.02)


def test_a_loss_that_turns_nan_names_the_step_and_leaves_the_weights(digits, tmp_path):
    class Poisoned(Images):
        """Digits whose fourth batch is not a number."""

        def batch(self, indices):
            x0, y = super().batch(indices)
            batches.append(1)
            return (x0 * math.nan if len(batches) == 4 else x0), y

    batches, model = [], tiny()
    images = Poisoned(digits.pixels, digits.labels, digits.names)
    steps = train(model, images, replace(QUICK, steps=9, save_every=3), out=tmp_path)
    with pytest.raises(NonFiniteLoss, match=f"turned nan at step 4.*checkpoint of step 3 stays in {tmp_path}"):
        list(steps)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    resumed = train(tiny(), digits, replace(QUICK, steps=4, save_every=3), out=tmp_path, resume=True)
    assert [step.step for step in resumed] == [4]


def test_closing_the_generator_saves(digits, tmp_path):
    steps = train(tiny(), digits, replace(QUICK, steps=99), out=tmp_path)
    next(steps), next(steps), steps.close()
    resumed = train(tiny(), digits, replace(QUICK, steps=99), out=tmp_path, resume=True)
    assert next(resumed).step == 3
    resumed.close()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (dict(in_channels=3), "pictures of 3 x 8 x 8 .* in 10 classes, these are 1 x 8 x 8 in 10"),
        (dict(input_size=16), "pictures of 1 x 16 x 16 .* in 10 classes, these are 1 x 8 x 8 in 10"),
        (dict(num_classes=4), "pictures of 1 x 8 x 8 .* in 4 classes, these are 1 x 8 x 8 in 10"),
    ],
)
def test_a_model_that_does_not_fit_the_images_is_refused(change, told, digits):
    with pytest.raises(ValueError, match=told):
        train(tiny(**change), digits, QUICK)


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", 0), ("batch_size", 0), ("lr", 0.0), ("lr", math.nan), ("warmup", -1), ("ema_decay", 1.5)]
    + [("label_dropout", -0.1), ("clip", 0.0), ("seed", -1), ("seed", 2**64), ("save_every", 0), ("steps", 2.5)]
    + [("precision", "bf61")],
)
def test_an_impossible_option_is_one_sentence(name, value):
    with pytest.raises(ValueError, match=f"{name} must be .*, not {value}"):
        TrainOptions(**{name: value})
