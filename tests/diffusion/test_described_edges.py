"""Where a network of one's own ends: the least and most of a task's fields, its config, and the loss asked of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dit_lab.diffusion import Diffusion, Flow, Task, described, ideal_denoiser, loss_by_timestep, posterior_mean
from dit_lab.diffusion.by_timestep import step_told
from dit_lab.diffusion.described import MOST
from dit_lab.models import DiTConfig

PLAIN = dict(input_size=(4, 6), in_channels=2)


def zeros(x, t, y):
    return torch.zeros_like(x)


def test_a_task_takes_the_least_and_the_most_and_nothing_beyond():
    assert (Task(1, 1).size, Task([1, 5], 1, 0).size) == ((1, 1), (1, 5))
    assert Task((1, MOST), MOST, MOST).size == (1, MOST)
    for wrong in dict(input_size=(1, MOST + 1)), dict(in_channels=MOST + 1), dict(num_classes=MOST + 1):
        with pytest.raises(ValueError, match="must be a"):
            Task(**PLAIN | wrong)
    for wrong in dict(input_size=(1, 2, 3)), dict(input_size=(4,)), dict(input_size=(4.0, 8)), dict(num_classes=-1):
        with pytest.raises(ValueError, match="must be a"):
            Task(**PLAIN | wrong)
    with pytest.raises(ValueError, match="schedule and prediction are names"):
        Task(**PLAIN, schedule=3)
    with pytest.raises(ValueError, match="null_label must be true or false"):
        Task(**PLAIN, null_label=1)


def test_a_task_says_what_it_is_for_files_also_of_oblong_pictures():
    fields = dict(num_classes=0, learned_variance=False, prediction="eps", schedule="linear", null_label=True)
    told = {"architecture": "a network of one's own", "input_size": (4, 6), "in_channels": 2, **fields}
    assert Task(**PLAIN).as_json() == told
    assert ideal_denoiser(torch.zeros(3, 2, 4, 6)).config.as_json() == told


def test_with_a_learned_variance_it_gives_twice_the_channels():
    x, t, y = torch.zeros(3, 2, 4, 6), torch.zeros(3), torch.zeros(3, dtype=torch.long)
    both = described(lambda x, t, y: torch.cat([x, x], dim=1), learned_variance=True, **PLAIN)
    assert both(x, t, y).shape == (3, 4, 4, 6)
    with pytest.raises(ValueError, match=r"must give a tensor of \(3, 4, 4, 6\) and gave one of \(3, 2, 4, 6\)"):
        described(zeros, learned_variance=True, **PLAIN)(x, t, y)


def test_a_given_config_is_taken_with_what_is_told_changed_in_it():
    config = DiTConfig(input_size=8, in_channels=1, num_classes=3)
    assert described(zeros, config).config == config
    assert described(zeros, config, patch_size=4, schedule="cosine").config == replace(
        config, patch_size=4, schedule="cosine"
    )
    with pytest.raises(ValueError, match="there is no field 'steps'; there are"):
        described(zeros, config, steps=4)


def test_a_diffusion_told_a_timestep_between_two_is_at_the_nearer_and_a_flow_between_them():
    t = torch.tensor([700.2, 700.7, 5.0])
    assert step_told(Diffusion.named(), t).tolist() == [700, 701, 5]
    assert step_told(Flow(), t).tolist() == pytest.approx([699.2, 699.7, 4], rel=1e-6)


def test_the_loss_by_timestep_takes_arrays_and_asks_in_the_networks_dtype_and_in_evaluation():
    asked = []

    def network(x, t, y):
        asked.append((x.dtype, y.dtype, y.tolist(), t.tolist(), model.training))
        return torch.zeros_like(x)

    model = described(network, num_classes=3, **PLAIN).double()
    for training in True, False:
        loss_by_timestep(model.train(training), np.zeros((3, 2, 4, 6), np.float32), np.array([0, 2, 3], np.uint8), [7],
            batch_size=2)  # fmt: skip
        assert model.training == training
    first = (torch.float64, torch.int64, [0, 2], [7, 7], False)
    assert asked == [first, (torch.float64, torch.int64, [3], [7], False)] * 2


@pytest.mark.parametrize(
    ("schedule", "ends", "beyond"), [("linear", (0, 999), (-1, 1000)), ("flow", (1, 1000), (0.5, 1001)),
    ("sit", (0, 0.999), (-0.1, 1))],
)  # fmt: skip
def test_the_loss_by_timestep_can_be_had_from_the_first_timestep_to_the_last(schedule, ends, beyond):
    model = described(zeros, schedule=schedule, **PLAIN)
    x0, y = torch.rand(5, 2, 4, 6, generator=torch.Generator().manual_seed(0)), [0] * 5
    assert np.isfinite(loss_by_timestep(model, x0, y, ends)).all()
    for t in beyond:
        with pytest.raises(ValueError, match=f"times must be timesteps from {ends[0]} to {ends[1]}, not {t}"):
            loss_by_timestep(model, x0, y, [t])
    with pytest.raises(ValueError, match="give at least one picture, and a label each: there are 0 and 0"):
        loss_by_timestep(model, x0[:0], [], [ends[0]])


def test_the_mean_of_pictures_has_their_channels_rows_and_columns():
    picture = torch.rand(1, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    half = torch.full((2, 1, 1, 1), 0.5)
    assert torch.equal(
        posterior_mean(torch.zeros(2, 3, 4, 5), picture, half, half), picture.double().repeat(2, 1, 1, 1)
    )
