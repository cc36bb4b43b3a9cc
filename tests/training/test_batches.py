"""What is random in a batch: another at every step, the same at the same step, and shared out without a change."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dit_lab.data import Images
from dit_lab.diffusion import Diffusion, process_of
from dit_lab.models import preset
from dit_lab.training import TrainOptions, train
from dit_lab.training.batches import Chance, draw, draw_all, draw_chance, order, parts

OPTIONS = TrainOptions(batch_size=64, mirror=True, label_dropout=0.5)
DIFFUSION = Diffusion.named()
# Of seed 3, step 7, four pictures.
EARLIER = dict(
    i=[131, 960, 962, 163], dropped=[True, True, True, False], mirrored=[True, False, True, False],
    eps=[1.3702, -0.7087, -1.5276, -0.3537], fresh=[-1.3448, -1.6256, 0.7168, -0.8087], order=[3, 8, 4, 1],
)  # fmt: skip


class Latentlike(Images):
    """Pictures whose codec is a VAE, so that each batch also draws their places in their distributions."""

    codec = "made"


@pytest.fixture
def images():
    random = np.random.default_rng(0)
    return Latentlike(random.integers(0, 256, (70, 1, 4, 4), np.uint8), np.arange(70) % 3, ["a", "b", "c"])


@pytest.mark.parametrize("name", Chance._fields)
def test_all_that_is_random_is_another_at_every_step_and_for_every_seed(name, images):
    value = lambda step, seed=0: getattr(draw_chance(images, step, DIFFUSION, replace(OPTIONS, seed=seed)), name)
    drawn = [value(step) for step in range(6)] + [value(step, seed=1) for step in range(6)]
    for place, one in enumerate(drawn):
        assert not any(torch.equal(one, other) for other in drawn[:place])
    assert torch.equal(value(3), drawn[3]) and torch.equal(value(3, seed=1), drawn[9])


def test_every_step_trains_on_other_noise_timesteps_and_dropped_labels(images):
    """Seen from where a model stands: of the same pictures, it is shown another batch at each step of a run."""
    seen = []

    class Watched(torch.nn.Module):
        config = preset("DiT-nano/4", input_size=4, in_channels=1, num_classes=3)

        def __init__(self):
            super().__init__()
            self.weight, self.blocks = torch.nn.Parameter(torch.zeros(())), []

        def forward(self, x, t, y):
            seen.append((x, t, y))
            return self.weight * torch.cat([x, x], dim=1)

    few = Images(np.zeros((1, 1, 4, 4), np.uint8), np.zeros(1, np.int64), ["a", "b", "c"])
    list(train(Watched(), few, replace(OPTIONS, steps=5, precision="fp32")))
    for one in range(5):
        for other in range(one):
            assert not any(torch.equal(*pair) for pair in zip(seen[one], seen[other], strict=True))


def test_noise_is_normal_and_each_of_its_numbers_its_own(images):
    eps = torch.cat([draw_chance(images, step, DIFFUSION, OPTIONS).eps for step in range(50)])
    assert eps.mean().abs() < 0.02 and abs(eps.std() - 1) < 0.02
    flat = eps.flatten(1)
    assert torch.corrcoef(flat.T).fill_diagonal_(0).abs().max() < 0.1


def test_timesteps_cover_all_of_the_process_evenly(images):
    i = torch.cat([draw_chance(images, step, DIFFUSION, OPTIONS).i for step in range(800)])
    assert (i.min(), i.max()) == (0, 999)
    assert torch.histc(i.float(), 10, 0, 1000).sub(len(i) / 10).abs().max() < 0.05 * len(i) / 10


def test_half_of_the_pictures_are_mirrored_if_asked_and_none_else(images):
    share = lambda options: draw_chance(images, 0, DIFFUSION, replace(options, batch_size=4000)).mirrored.float().mean()
    assert share(OPTIONS) == pytest.approx(0.5, abs=0.03) and share(replace(OPTIONS, mirror=False)) == 0


def test_pixels_have_no_place_in_a_distribution_and_leaving_it_out_changes_nothing_else(images):
    pixels = Images(images.pixels, images.labels, images.names)
    with_place, without = (draw_chance(each, 2, DIFFUSION, OPTIONS) for each in (images, pixels))
    assert without.fresh is None and with_place.fresh.shape == (64, 1, 4, 4)
    assert all(torch.equal(*pair) for pair in zip(with_place[:4], without[:4], strict=True))
    assert not torch.equal(with_place.fresh, with_place.eps)


@pytest.mark.parametrize(("processes", "accumulate"), [(1, 1), (1, 4), (4, 1), (2, 4)])
def test_the_parts_of_all_processes_are_the_whole_batch_in_its_order(processes, accumulate, images):
    options = replace(OPTIONS, accumulate=accumulate)
    pixels = Images(images.pixels, images.labels, images.names)
    whole = draw(pixels, 5, DIFFUSION, options)
    shared = [
        part
        for rank in range(processes)
        for part in draw_all(pixels, 5, DIFFUSION, options, parts(options, rank, processes))
    ]
    assert len(shared) == processes * accumulate and {len(part[0]) for part in shared} == {64 // len(shared)}
    for place, tensor in enumerate(whole):
        assert torch.equal(torch.cat([part[place] for part in shared]), tensor)


def test_pictures_labels_and_dropped_labels_belong_together(images):
    pixels = Images(images.pixels, images.labels, images.names)
    x0, i, y, eps = draw(pixels, 3, DIFFUSION, replace(OPTIONS, mirror=False))
    places, chance = order(70, 0, 3 * 64, 64), draw_chance(pixels, 3, DIFFUSION, OPTIONS)
    assert torch.equal(i, chance.i) and torch.equal(eps, chance.eps)
    assert torch.equal(x0, torch.tensor(pixels.pixels[places]).float() / 127.5 - 1)
    labels = torch.tensor(pixels.labels[places])
    assert (y == 3).any() and torch.equal(y[~chance.dropped], labels[~chance.dropped])
    assert (y[chance.dropped] == 3).all()


def test_every_step_goes_on_in_the_epoch_where_the_last_one_ended(images):
    stream = np.concatenate([order(70, 4, step * 64, 64) for step in range(35)])
    epochs = stream.reshape(32, 70)
    assert (np.sort(epochs) == np.arange(70)).all() and len({tuple(epoch) for epoch in epochs}) == 32
    assert not np.array_equal(order(70, 4, 0, 64), order(70, 5, 0, 64))
    assert np.array_equal(order(70, 4, 69, 2), [epochs[0][-1], epochs[1][0]])


@pytest.mark.parametrize("start", [0, 1, 69, 70])
@pytest.mark.parametrize("count", [1, 2, 68, 69, 70, 71, 140, 141])
def test_a_stretch_of_the_epochs_is_as_long_as_it_is_asked_for(start, count):
    assert np.array_equal(order(70, 4, start, count), order(70, 4, 0, 300)[start : start + count])


def test_the_numbers_of_a_step_are_those_that_runs_so_far_were_begun_with(images):
    """A run of an earlier version goes on with the batches that it would have had."""
    chance = draw_chance(images, 7, DIFFUSION, replace(OPTIONS, seed=3, batch_size=4))
    assert chance.i.tolist() == EARLIER["i"]
    assert (chance.dropped.tolist(), chance.mirrored.tolist()) == (EARLIER["dropped"], EARLIER["mirrored"])
    assert chance.eps[:, 0, 0, 0].tolist() == pytest.approx(EARLIER["eps"], abs=1e-4)
    assert chance.fresh[:, 0, 0, 0].tolist() == pytest.approx(EARLIER["fresh"], abs=1e-4)
    assert order(10, 3, 8, 4).tolist() == EARLIER["order"]


def test_a_batch_that_cannot_be_shared_evenly_says_by_what_it_could():
    with pytest.raises(ValueError, match="batch_size 64 cannot be shared by 3 processes in 2 passes each; .* of 6$"):
        parts(replace(OPTIONS, accumulate=2), 0, 3)


def test_logit_normal_times_are_more_often_in_the_middle(images):
    flow = process_of(preset("DiT-S/4", schedule="flow", prediction="velocity", learned_variance=False))
    drawn = lambda times: torch.cat(
        [draw_chance(images, step, flow, replace(OPTIONS, times=times)).i for step in range(100)]
    )
    middle = lambda i: ((i > 250) & (i < 750)).float().mean()
    assert middle(drawn("uniform")) == pytest.approx(0.5, abs=0.03)
    assert middle(drawn("logit_normal")) == pytest.approx(0.73, abs=0.03)  # that |z| < ln 3
