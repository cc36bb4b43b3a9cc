"""Flow matching and the weighting of losses: the path, the times, the velocity, and what is refused."""

import math
from types import SimpleNamespace

import pytest
import torch
from einops import rearrange
from shared import random_model
from torch.testing import assert_close

from dit_lab.diffusion import (
    PREDICTIONS,
    PROCESSES,
    Diffusion,
    Flow,
    SiT,
    generate,
    objective,
    process_of,
    sample,
    samplers_for,
)
from dit_lab.diffusion.weights import min_snr_weight
from dit_lab.inside import Trajectory, record

FLOW = dict(schedule="flow", prediction="velocity", learned_variance=False)


def pictures(count=64, dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    return [torch.randn(count, 2, 4, 4, generator=g, dtype=dtype) for _ in "ab"]


def test_the_path_is_straight_and_runs_from_picture_to_noise():
    flow, (x0, eps) = Flow(), pictures()
    t = torch.linspace(0, 1, 64, dtype=torch.float64)
    x = flow.noised(x0, 1000 * t - 1, eps)
    assert_close(x, x0 + t[:, None, None, None] * (eps - x0))
    assert flow.levels(-1) == (1, 0) and flow.levels(999) == (0, 1)


def test_the_network_is_told_a_thousand_t():
    assert Flow().timesteps[[0, -1]].tolist() == [1, 1000]
    assert Flow().respaced(4).timesteps.tolist() == [250, 500, 750, 1000]
    assert_close(Flow(4).model_time(torch.arange(4)), torch.tensor([250.0, 500, 750, 1000]))


@pytest.mark.parametrize("prediction", ["velocity", "x0"])
def test_the_loss_is_the_mean_square_of_what_is_predicted(prediction):
    x0, eps = pictures()
    flow, i = Flow(prediction=prediction), torch.linspace(-0.9, 999, 64, dtype=torch.float64)
    seen = []

    def model(x, t, y):
        seen.append((x, t))
        return torch.zeros_like(x)

    losses = flow.losses(model, x0, i, None, eps)
    target = eps - x0 if prediction == "velocity" else x0
    assert_close(losses.mse, target.square().mean((1, 2, 3)))
    assert torch.equal(losses.loss, losses.mse) and not losses.vb.any()
    assert_close(seen[0][0], flow.noised(x0, i, eps))
    assert_close(seen[0][1], i + 1)


@pytest.mark.parametrize(
    "process", [Flow(), Flow(prediction="x0"), *(Diffusion.named("linear", k) for k in PREDICTIONS)]
)
def test_a_perfect_output_gives_back_x0_and_eps(process):
    (x0, eps), i = pictures(), torch.arange(0, 960, 15)
    x = process.noised(x0, i, eps)
    output = PREDICTIONS[process.prediction].target(x0, eps, *process.signal_and_noise(i, x0))
    for found, true in zip(process.denoised(output, x, i), (x0, eps), strict=True):
        assert_close(found, true, rtol=1e-6, atol=1e-6)


def test_uniform_times_are_uniform_and_never_the_clean_picture():
    t = (Flow().times(100_000, torch.Generator().manual_seed(0)) + 1) / 1000
    assert t.min() > 0 and t.max() <= 1
    assert_close(t.quantile(torch.tensor([0.1, 0.5, 0.9])), torch.tensor([0.1, 0.5, 0.9]), rtol=0, atol=0.01)


def test_logit_normal_times_are_sigmoids_of_a_normal():
    t = (Flow().times(100_000, torch.Generator().manual_seed(0), "logit_normal") + 1) / 1000
    shares = torch.tensor([0.1, 0.5, 0.9])
    expected = torch.distributions.Normal(0, 1).icdf(shares).sigmoid()
    assert_close(t.quantile(shares), expected, rtol=0, atol=0.01)


def test_logit_normal_times_are_refused_for_a_diffusion():
    with pytest.raises(ValueError, match="are for flow matching"):
        Diffusion.named().times(4, torch.Generator(), "logit_normal")


@pytest.mark.parametrize("prediction", ["eps", "v", "score"])
def test_what_cannot_be_read_at_pure_noise_is_refused(prediction):
    with pytest.raises(ValueError, match="flow matching predicts velocity or x0"):
        Flow(prediction=prediction)


def test_a_learned_variance_is_refused():
    config = SimpleNamespace(schedule="flow", prediction="velocity", learned_variance=True)
    with pytest.raises(ValueError, match="no variance to learn"):
        process_of(config)


def test_unknown_schedules_are_refused_by_name():
    with pytest.raises(ValueError, match="no schedule 'sigmoid'; there are linear, cosine, flow"):
        process_of(SimpleNamespace(schedule="sigmoid", prediction="eps", learned_variance=False))


@pytest.mark.parametrize("schedule", PROCESSES)
def test_every_schedule_has_an_objective_that_fits_it(schedule):
    config = SimpleNamespace(**objective(schedule))
    assert isinstance(process_of(config), PROCESSES[schedule])
    assert config.learned_variance == (schedule not in ("flow", "sit"))
    assert objective(schedule, "x0", False) == dict(schedule=schedule, prediction="x0", learned_variance=False)


def test_ancestral_steps_are_refused_in_flow_matching():
    assert samplers_for(Flow()) == ["ddim", "euler", "heun", "dpmpp", "dpmpp3", "unipc", "sde", "dpmpp_sde"]
    with pytest.raises(ValueError, match="ddpm takes a diffusion's steps; for flow matching take ddim, euler"):
        sample(random_model(**FLOW), [1], sampler="ddpm")


@pytest.mark.parametrize("snr", [0.01, 1.0, 4.0, 400.0])
def test_min_snr_weights_are_the_papers(snr):
    """Of a diffusion, equation 9 and section 3.3 of Min-SNR: on eps min(SNR, 5) / SNR, on v min(SNR, 5) / (SNR + 1)."""
    s = torch.tensor([[[[1 / math.sqrt(1 + snr)]]]], dtype=torch.float64)
    a = (1 - s**2).sqrt()
    expected = {"eps": min(snr, 5) / snr, "x0": min(snr, 5), "v": min(snr, 5) / (snr + 1)}
    for prediction, weight in expected.items():
        assert min_snr_weight(PREDICTIONS[prediction].x0, a, s, 5).item() == pytest.approx(weight)


def test_min_snr_weighs_the_same_error_of_x0_alike_for_every_prediction():
    (x0, eps), (wrong, _) = pictures(), pictures(64)
    wrong = x0 + 0.1 * wrong.flip(0)
    for process in (
        Flow(),
        Flow(prediction="x0"),
        Diffusion.named("cosine", "v"),
        Diffusion.named("cosine", "velocity"),
    ):
        i = torch.arange(0, 960, 15)
        a, s = process.signal_and_noise(i, x0)
        x = process.noised(x0, i, eps)
        output = PREDICTIONS[process.prediction].target(wrong, (x - a * wrong) / s, a, s)
        losses = process.losses(lambda *_, out=output: out, x0, i, None, eps, min_snr=5.0)
        weight = torch.minimum((a / s) ** 2, torch.tensor(5.0)).flatten()
        assert_close(losses.loss, weight * (x0 - wrong).square().mean((1, 2, 3)), rtol=1e-6, atol=1e-12)
        assert not torch.allclose(losses.loss, losses.mse)


def test_weights_stay_finite_at_both_ends_of_the_path():
    ends = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1)
    assert min_snr_weight(PREDICTIONS["velocity"].x0, 1 - ends, ends + 1e-12, 5).isfinite().all()


def test_a_run_of_flow_matching_is_recorded_saved_and_looked_into(tmp_path):
    model = random_model(**FLOW)
    trajectory = record(model, [2], steps=3, sampler="euler")
    assert trajectory.t == pytest.approx([1000, 2000 / 3, 1000 / 3])
    trajectory.save(tmp_path / "flow.safetensors")
    loaded = Trajectory.load(tmp_path / "flow.safetensors")
    assert loaded.t == trajectory.t
    rows = loaded.attention(model, 1, block=1)
    assert_close(rows.sum(-1), torch.ones(rows.shape[:-1]))


def test_a_sit_sampled_by_euler_is_its_ode_from_noise_to_picture_in_its_own_time():
    """An Euler solver of a few lines in SiT's words: x moves by v(x, s) ds, s from 0 to 1; the network is told s."""
    torch.manual_seed(0)
    weight = torch.randn(3)

    def network(x, s, y):
        return torch.tanh(x * weight[0] + rearrange(s, "b -> b 1 1 1") * weight[1] + y.sum() * weight[2] / 10)

    config = SimpleNamespace(
        **objective("sit"), in_channels=2, size=(4, 4), num_classes=3, null_label=True, input_size=4, out_channels=2
    )  # fmt: skip
    model = torch.nn.Linear(1, 1)  # for its device and dtype
    model.config, model.forward = config, network
    start = torch.randn(1, 2, 4, 4)
    ours = generate(model, [1], sampler="euler", steps=20, noise=lambda shape: start)
    x = start
    for k in range(20):
        x = x + network(x, torch.full((1,), k / 20), torch.tensor([1])) / 20
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-5)


def test_a_sit_learns_what_a_flow_does_with_the_opposite_sign():
    x0, eps, i, y = torch.randn(4, 1, 2, 2), torch.randn(4, 1, 2, 2), torch.rand(4) * 999, torch.zeros(4).long()
    told = []
    flow = Flow().losses(lambda x, t, y: told.append(t) or 0.3 * x, x0, i, y, eps)
    sit = SiT().losses(lambda x, s, y: told.append(s) or -0.3 * x, x0, i, y, eps)
    assert torch.equal(flow.mse, sit.mse)
    torch.testing.assert_close(1 - told[0] / 1000, told[1])
