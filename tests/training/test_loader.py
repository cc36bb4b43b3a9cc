"""Batches made ahead in a thread: the same numbers, errors at their step, and nobody left behind."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from shared import assert_same

from dit_lab.data import DataError, Images, open_data
from dit_lab.diffusion import Diffusion
from dit_lab.models import build
from dit_lab.training import TrainOptions, train
from dit_lab.training.batches import draw, draw_all, draw_chance, order, shuffled
from dit_lab.training.loader import EARLY, ahead, pinned

OPTIONS = TrainOptions(steps=6, batch_size=8, lr=2e-3, precision="fp32", save_every=3, mirror=True)


@pytest.fixture(scope="module")
def digits():
    return open_data("digits")


@pytest.fixture
def threaded(monkeypatch):
    """A CPU that prepares its batches as a GPU's does."""
    monkeypatch.setitem(EARLY, "cpu", 2)


def tiny():
    torch.manual_seed(0)
    return build("DiT-nano/4", input_size=8, in_channels=1, num_classes=10, dim=32, depth=1, heads=2)


def loading():
    """The threads that make batches."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


class Faulty(Images):
    """Digits of which one batch is broken."""

    def batch(self, *asked):
        asked_for.append(1)
        if len(asked_for) == 4:
            raise DataError("picture 7 is gone")
        return super().batch(*asked)


asked_for = []


@pytest.fixture
def faulty(digits):
    asked_for.clear()
    return Faulty(digits.pixels, digits.labels, digits.names)


@pytest.mark.parametrize("depth", [0, 1, 2, 7])
def test_every_step_gets_its_own_batch_in_order_however_early_it_was_made(depth):
    assert list(ahead(lambda step: step * 2, range(3, 8), depth)) == [6, 8, 10, 12, 14]
    assert list(ahead(lambda step: step, range(0), depth)) == []
    assert not loading()


def test_batches_are_made_while_the_step_computes_and_not_much_earlier():
    made, two = [], threading.Event()

    def make(step):
        made.append(step)
        if step == 2:
            two.set()
        return step

    batches = ahead(make, range(10**6), 2)
    assert next(batches) == 0 and two.wait(20)  # nobody has asked for step 2
    assert loading() and not {3, 4} & set(made)
    batches.close()
    assert not loading()


@pytest.mark.parametrize("depth", [0, 3])
def test_an_error_comes_at_its_step_after_the_batches_before_it(depth):
    def make(step):
        if step == 2:
            raise DataError("picture 7 is gone")
        return step

    batches = ahead(make, range(9), depth)
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(DataError, match="picture 7"):
        next(batches)
    assert not loading()


@pytest.mark.parametrize("changes", [{}, dict(accumulate=2), dict(batch_size=700, steps=3)])
def test_a_run_with_a_thread_is_bit_for_bit_the_one_without(changes, digits, tmp_path, monkeypatch):
    options, told = replace(OPTIONS, **changes), {}
    for depth in 0, 2:
        monkeypatch.setitem(EARLY, "cpu", depth)
        steps = train(tiny(), digits, options, out=tmp_path / str(depth))
        told[depth] = [(step.loss, step.gradient_norm) for step in steps]
    assert told[0] == told[2] and not loading()
    assert_same(*(load_file(tmp_path / str(depth) / "state.safetensors") for depth in told))


def test_a_run_closed_early_leaves_no_thread_and_goes_on_bit_for_bit(digits, tmp_path, threaded):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    list(train(tiny(), digits, OPTIONS, out=whole))
    steps = train(tiny(), digits, OPTIONS, out=cut)
    next(steps), next(steps)
    assert loading()
    steps.close()
    assert not loading()
    list(train(tiny(), digits, OPTIONS, out=cut, resume=True))
    assert_same(*(load_file(out / "state.safetensors") for out in (whole, cut)))


def test_an_error_of_the_data_reaches_the_caller_at_its_step(faulty, tmp_path, threaded):
    steps, seen = train(tiny(), faulty, OPTIONS, out=tmp_path), []
    with pytest.raises(DataError, match="picture 7 is gone"):
        for step in steps:
            seen.append(step.step)
    assert seen == [1, 2, 3] and not loading()
    assert load_file(tmp_path / "state.safetensors")["optimiser.step.out.bias"] == 3


def test_no_batch_beyond_the_last_step_is_read(faulty, threaded):
    assert len(list(train(tiny(), faulty, replace(OPTIONS, steps=3)))) == 3 and len(asked_for) == 3


def test_damaged_data_is_named_with_a_thread_too(digits, threaded):
    class Damaged(Images):
        """Digits of which picture 5 is not a number."""

        def batch(self, places, *asked):
            x0, y = super().batch(places, *asked)
            x0[np.asarray(places) == 5] = torch.nan
            return x0, y

    images = Damaged(digits.pixels[:16], digits.labels[:16], digits.names)
    with pytest.raises(DataError, match="picture 5 of the data holds NaN or Inf, met at step [12]"):
        list(train(tiny(), images, OPTIONS))
    assert not loading()


def test_what_is_random_at_a_step_stays_what_it_was_in_runs_of_old(digits):
    """Numbers of the first version: a run that it began goes on with the same."""
    options = TrainOptions(batch_size=8, mirror=True, label_dropout=0.5)
    x0, i, y, eps = draw(digits, 3, Diffusion.named(), options)
    assert i.tolist() == [837, 376, 868, 577, 359, 293, 30, 28] and y.tolist() == [10, 10, 8, 0, 10, 4, 10, 9]
    assert eps[0, 0, 0].tolist()[:3] == pytest.approx([-0.1944628, 0.5529397, 0.4350794], rel=1e-5)
    assert x0.sum().item() == pytest.approx(-211.4196, rel=1e-5)


def test_the_parts_of_a_batch_are_drawn_at_once_as_each_alone(digits):
    share = [slice(0, 3), slice(3, 6)]
    for part, drawn in zip(share, draw_all(digits, 5, Diffusion.named(), OPTIONS, share), strict=True):
        assert all(map(torch.equal, drawn, draw(digits, 5, Diffusion.named(), OPTIONS, part)))


def test_only_latents_draw_where_in_their_distribution_they_are_taken(digits):
    class Encoded(Images):
        """Digits that pass for latents."""

        codec = "vae"

    latents = Encoded(digits.pixels, digits.labels, digits.names)
    plain, drawn = (draw_chance(images, 4, Diffusion.named(), OPTIONS) for images in (digits, latents))
    assert plain.fresh is None and drawn.fresh.shape == (8, 1, 8, 8)
    assert all(map(torch.equal, plain[:4], drawn[:4]))


@pytest.mark.parametrize("start, count", [(0, 4), (8, 4), (9, 25), (39, 1), (10, 10)])
def test_the_order_of_pictures_is_a_stretch_of_shuffled_epochs(start, count):
    stream = np.concatenate([shuffled(10, 1, epoch) for epoch in range(6)])
    assert order(10, 1, start, count).tolist() == stream[start : start + count].tolist()


def test_tensors_for_a_cpu_are_left_where_they_are():
    tensors = torch.zeros(2), torch.ones(2)
    assert all(kept is tensor for kept, tensor in zip(pinned(tensors, torch.device("cpu")), tensors, strict=True))
