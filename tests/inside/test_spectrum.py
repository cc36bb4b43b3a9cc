"""Spectra of features: waves land in their ring, white noise is flat, and all blocks of both models are there."""

import math

import pytest
import torch
from shared import random_model, random_udit

from dit_lab.inside import TraceError, feature_spectra, record, watch
from dit_lab.inside.spectrum import frequencies, low_share, power_of, radius, ring_means
from dit_lab.models import build


def wave(rows, columns, down, across):
    """A cosine with so many periods down and across, as tokens of one feature: 1 n 1."""
    r, c = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.cos(2 * math.pi * (down * r / rows + across * c / columns)).reshape(1, -1, 1)


@pytest.mark.parametrize(("down", "across", "ring"), [(1, 0, 1), (0, 3, 3), (3, 4, 5), (8, 0, 8)])
def test_a_wave_lands_in_the_ring_of_its_frequency(down, across, ring):
    grid = (16, 16)
    power = ring_means(power_of(wave(*grid, down, across), grid), radius(grid))
    assert power.argmax() + 1 == ring
    assert power.sum() == pytest.approx(power[ring - 1].item(), rel=1e-4)
    assert frequencies(grid)[ring - 1] == pytest.approx(ring / 16)


def test_low_frequencies_are_below_half_of_the_highest_and_the_mean_does_not_count():
    grid = (16, 16)
    share = lambda x: low_share(power_of(x, grid), radius(grid))
    assert share(wave(16, 16, 3, 0) + 100) == pytest.approx(1, abs=1e-4)
    assert share(wave(16, 16, 0, 7)) == pytest.approx(0, abs=1e-4)
    assert share(wave(16, 16, 2, 0) + wave(16, 16, 6, 0)) == pytest.approx(0.5, abs=1e-4)


def test_white_noise_is_flat():
    grid, random = (16, 24), torch.Generator().manual_seed(0)
    power = power_of(torch.randn(8, 384, 64, generator=random), grid)
    assert ring_means(power, radius(grid)).sub(1).abs().max() < 0.1
    assert low_share(power, radius(grid)) == pytest.approx(low_share(torch.ones(grid), radius(grid)), abs=0.02)


@pytest.mark.parametrize(
    "model", [random_model(), random_model("in_context"), random_udit()], ids=["dit", "joined", "u"]
)
def test_every_block_and_asked_timestep_of_a_run_is_there(model):
    trajectory = record(model, [1, 5], steps=4, cfg_scale=2.0)
    seen = feature_spectra(trajectory, model, [0, 3])
    blocks = model.config.depth
    assert seen.names == model.config.block_names and seen.t == [999, 0]
    assert seen.low.shape == (blocks, 2) and len(seen.power) == len(seen.frequency) == len(seen.noise) == blocks
    with watch(model) as watched, torch.no_grad():
        model(trajectory.x[3], torch.zeros(2), torch.tensor([1, 5]))
    last, grid = watched.features[blocks - 1], trajectory.grid_of(blocks - 1)
    expected = ring_means(power_of(last[:, : math.prod(grid)], grid), radius(grid))
    torch.testing.assert_close(seen.power[-1][1], expected)


def test_frequencies_are_in_cycles_per_pixel_on_every_grid():
    model = random_udit()
    seen = feature_spectra(record(model, [0], steps=1), model)
    assert seen.frequency[0].tolist() == pytest.approx([1 / 8, 2 / 8, 3 / 8, 4 / 8])
    assert seen.frequency[2].tolist() == pytest.approx([1 / 8, 2 / 8])


def test_a_step_that_is_not_there_and_another_model_are_refused():
    model = random_udit()
    trajectory = record(model, [0], steps=2)
    with pytest.raises(TraceError, match="step must be a whole number from 0 to 1"):
        feature_spectra(trajectory, model, [2])
    with pytest.raises(TraceError, match="another model"):
        feature_spectra(trajectory, build("U-DiT-tiny", input_size=16, num_classes=5))
