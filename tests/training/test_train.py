"""The training loop in this process: what a step does, and what it refuses."""

import copy
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from shared import assert_same
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dit_lab.checkpoints import load
from dit_lab.commands.train import train_command
from dit_lab.data import Images, open_data
from dit_lab.diffusion import Diffusion, generate
from dit_lab.models import build, uses_bf16
from dit_lab.models import products as products_file
from dit_lab.models.products import products
from dit_lab.program import run
from dit_lab.training import NonFiniteLoss, TrainOptions, train
from dit_lab.training.batches import draw, order
from dit_lab.training.state import TrainState

plain_compile = torch.nn.Module.compile
QUICK = TrainOptions(steps=3, batch_size=4, precision="fp32")


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
    state = TrainState.fresh(model, 1e-3, (0.9999, 0.5))
    expected = [copy.deepcopy(model.out.weight.detach())] * 2
    for step in range(1, 20):
        with torch.no_grad():
            model.out.weight.add_(1.0)
        state.step = step
        state.average()
        ramp = (1 + step) / (10 + step)
        for place, decay in enumerate((0.9999, 0.5)):
            weight = min(decay, ramp)
            expected[place] = weight * expected[place] + (1 - weight) * model.out.weight.detach()
    for decay, wanted in zip((0.9999, 0.5), expected, strict=True):
        torch.testing.assert_close(state.averages[decay]["out.weight"], wanted)
    torch.testing.assert_close(state.averaged().out.weight, expected[0])


def test_the_average_can_be_watched_in_memory_and_is_the_one_that_is_saved(digits, tmp_path):
    plain, model = tiny(), tiny()
    average = copy.deepcopy(model)
    list(train(plain, digits, QUICK))
    for step in train(model, digits, replace(QUICK, ema_decay=(0.5, 0.9)), out=tmp_path, average=average):
        moved = not torch.equal(average.out.weight, model.out.weight)
        assert moved and average.out.weight.any() and not average.training, step
    assert_same(load(tmp_path).model.state_dict(), average.state_dict())
    assert_same(model.state_dict(), plain.state_dict())  # watching changes no bit of what is trained
    again = tiny()
    next(train(tiny(), digits, replace(QUICK, steps=4, ema_decay=(0.5, 0.9)), out=tmp_path, resume=True, average=again))
    assert not torch.equal(again.out.weight, average.out.weight)


def test_a_set_of_the_callers_own_that_gives_batches_is_trained_on_in_memory(digits):
    class Half:
        shape, names, codec = digits.shape, digits.names, digits.codec
        __len__ = lambda self: len(digits) // 2
        batch = lambda self, indices, mirrored=None, noise=None: digits.batch(indices, mirrored, noise)

    assert [step.step for step in train(tiny(), Half(), QUICK)] == [1, 2, 3]


def test_an_average_that_cannot_follow_is_refused(digits):
    model = tiny()
    for average, options in (model, QUICK), (tiny(dim=16), QUICK), (tiny(), replace(QUICK, shard=True)):
        with pytest.raises(ValueError, match="another model of the same config"):
            train(model, digits, options, average=average)


def test_labels_are_dropped_at_the_asked_rate(digits):
    for rate in 0.0, 0.1, 1.0:
        _, _, y, _ = draw(digits, 0, Diffusion.named(), TrainOptions(batch_size=4000, label_dropout=rate))
        assert (y == 10).float().mean() == pytest.approx(rate, abs=0.02)


def test_half_of_the_pictures_are_mirrored_only_when_asked(digits):
    diffusion, options = Diffusion.named(), replace(QUICK, mirror=True, batch_size=400)
    plain = draw(digits, 0, diffusion, replace(options, mirror=False))[0]
    mirrored = draw(digits, 0, diffusion, options)[0]
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

        def batch(self, *asked):
            x0, y = super().batch(*asked)
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
    + [("precision", "bf61"), ("times", "late"), ("min_snr", 0.0), ("accumulate", 0), ("ema_decay", ())]
    + [("ema_decay", (0.9, 0.9))],
)
def test_an_impossible_option_is_one_sentence(name, value):
    with pytest.raises(ValueError, match=f"{name} must be .*, not {re.escape(str(value))}"):
        TrainOptions(**{name: value})


def test_a_grid_of_samples_is_drawn_from_the_average_now_and_then(digits, tmp_path):
    options = replace(QUICK, steps=4, sample_every=2, tracker=("tensorboard",), save_every=4)
    model = tiny()
    assert len(list(train(model, digits, options, out=tmp_path))) == 4
    grids = sorted((tmp_path / "samples").iterdir())
    assert [grid.name for grid in grids] == ["step-0000002.png", "step-0000004.png"]
    assert [Image.open(grid).size for grid in grids] == [(32, 32)] * 2
    assert torch.equal(model.out.weight, load(tmp_path, weights="model").model.out.weight)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"loss", "mse", "vb", "gradient_norm", "images_per_second"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Images("samples")] == [2, 4]
    shown = load(tmp_path).model  # the first average, as it was at the end
    expected = generate(shown, [number % 10 for number in range(16)], steps=25, cfg_scale=2.0)
    pixels = np.asarray(Image.open(grids[-1]).convert("L"), dtype=np.float32).reshape(4, 8, 4, 8).transpose(0, 2, 1, 3)
    ours = ((expected.clamp(-1, 1) + 1) * 127.5).numpy().reshape(16, 8, 8)
    assert np.abs(pixels.reshape(16, 8, 8) - ours).max() <= 1


def test_drawing_samples_changes_no_bit_of_the_training(digits, tmp_path):
    plain, watched = tiny(), tiny()
    list(train(plain, digits, replace(QUICK, steps=4)))
    list(train(watched, digits, replace(QUICK, steps=4, sample_every=1), out=tmp_path))
    assert all(torch.equal(*pair) for pair in zip(plain.parameters(), watched.parameters(), strict=True))


def test_several_averages_are_several_checkpoints(digits, tmp_path):
    list(train(tiny(), digits, replace(QUICK, ema_decay=(0.9, 0.0)), out=tmp_path))
    slow, last = load(tmp_path).model, load(tmp_path / "ema-0.0").model
    assert not torch.equal(slow.out.weight, last.out.weight)
    assert torch.equal(last.out.weight, load(tmp_path, weights="model").model.out.weight)


@pytest.mark.parametrize("sharing", [{}, dict(accumulate=2, checkpointing=True)])
def test_bf16_follows_fp32_and_keeps_its_weights_in_fp32(sharing, digits):
    options = replace(QUICK, steps=20, batch_size=16, lr=2e-3, precision="fp32")
    model, plain = tiny(), tiny()
    ours = [step.mse for step in train(model, digits, replace(options, precision="bf16", **sharing))]
    theirs = [step.mse for step in train(plain, digits, options)]
    assert ours == pytest.approx(theirs, rel=0.02) and ours != theirs
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("amx", [True, False])
def test_on_a_cpu_without_amx_bf16_attends_by_products_and_the_model_ends_as_it_was(amx, digits, monkeypatch):
    made = []
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_tile": amx})
    monkeypatch.setattr(products_file, "products", lambda *given: made.append(given) or products(*given))
    model = tiny(depth=2)
    steps = train(model, digits, replace(QUICK, precision="bf16"))
    next(steps)
    assert bool(made) is not amx
    steps.close()
    assert not any("forward" in vars(module) for module in model.modules())
    made.clear()
    list(train(tiny(), digits, replace(QUICK, precision="fp32")))
    assert not made


def test_averages_that_print_alike_in_few_digits_are_kept_apart(digits, tmp_path):
    decays = 0.9, 0.9999999, 0.99999999
    list(train(tiny(), digits, replace(QUICK, ema_decay=decays), out=tmp_path))
    assert {path.name for path in tmp_path.glob("ema-*")} == {"ema-0.9999999", "ema-0.99999999"}


def test_recomputing_leaves_the_model_as_it_was(digits):
    model, plain = tiny(depth=2), tiny(depth=2)
    list(train(model, digits, replace(QUICK, checkpointing=True)))
    list(train(plain, digits, QUICK))
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), plain.parameters(), strict=True))
    assert all("forward" not in vars(block) for block in model.blocks)


def test_a_compiled_model_learns_what_an_uncompiled_one_does_and_its_checkpoint_opens(digits, tmp_path, monkeypatch):
    """Traced for real; the code that a C++ compiler would make of it is left out, as not every machine has one."""
    compiled = []
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self: compiled.append(plain_compile(self, fullgraph=True, backend="eager"))
    )
    runs = {name: list(train(tiny(), digits, replace(QUICK, compile=name == "compiled"), out=tmp_path / name))
            for name in ("compiled", "plain")}  # fmt: skip
    assert len(compiled) == tiny().config.depth
    assert [step.loss for step in runs["compiled"]] == pytest.approx([step.loss for step in runs["plain"]], rel=1e-5)
    ours, theirs = (load(tmp_path / name).model.state_dict() for name in runs)
    assert_same(ours, theirs)


@pytest.mark.parametrize("times", ["uniform", "logit_normal"])
def test_flow_matching_trains(times, digits):
    model = tiny(schedule="flow", prediction="velocity", learned_variance=False)
    options = TrainOptions(steps=150, batch_size=32, lr=2e-3, times=times, min_snr=5.0)
    losses = [step.loss for step in train(model, digits, options)]
    assert np.mean(losses[-20:]) < 0.75 * np.mean(losses[:5])


def test_what_does_not_go_together_is_refused_before_any_work(digits, tmp_path):
    with pytest.raises(ValueError, match="are for flow matching"):
        train(tiny(), digits, replace(QUICK, times="logit_normal"), out=tmp_path / "run")
    with pytest.raises(ValueError, match="cannot be shared by 1 processes in 3 passes"):
        train(tiny(), digits, replace(QUICK, accumulate=3), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_memory_that_runs_out_names_the_knobs(monkeypatch, tmp_path, capsys):
    class Full(Images):
        """Digits that do not fit: what torch says on a CPU."""

        def batch(self, *asked):
            torch.empty(2**60)

    digits = open_data("digits")
    monkeypatch.setattr(
        "dit_lab.commands.train.open_data", lambda *_, **__: Full(digits.pixels, digits.labels, digits.names)
    )
    with pytest.raises(SystemExit) as left:
        run(train_command, "dit_lab train", ["--preset", "DiT-nano/8", "--out", str(tmp_path / "run")])
    assert left.value.code == 1
    assert "out of memory; take more passes (--accumulate), --checkpointing" in capsys.readouterr().err
