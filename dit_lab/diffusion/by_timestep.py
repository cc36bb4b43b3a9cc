"""How well a network predicts at each noise level: the mean squared error of L_simple, timestep by timestep."""

from collections.abc import Sequence

import numpy as np
import torch

from dit_lab.diffusion.gaussian import Diffusion
from dit_lab.diffusion.objectives import process_of
from dit_lab.diffusion.process import PREDICTIONS, Process, flat_mean, split_output
from dit_lab.program import quoted


def step_told(process: Process, t):
    """The step of a full process at which the network is told `t: b -> b`, the inverse of `model_time`."""
    first, second = process.timesteps[:2].tolist()
    i = (t.double() - first) / (second - first)
    return i.round().long() if isinstance(process, Diffusion) else i


@torch.no_grad()
def loss_by_timestep(
    model, x0, y, times: Sequence[float], *, of: str | None = None, seeds: Sequence[int] = (0,), batch_size: int = 256,
) -> np.ndarray:  # fmt: skip
    """The mean squared error at some timesteps, a row a seed: `x0: n c h w, y: n -> seed time` in float64.

    `of` is what is compared, a name of `PREDICTIONS`: "eps", "x0", "v" ...; by itself what the model predicts. `times`
    are as the network is told them: 0 to 999, in flow matching 1000 t above 0. A seed's noise is the same at every
    timestep, so that a curve is no rougher than it has to be. Raises ValueError on another prediction, timestep or
    pictures.
    """
    process, device = process_of(model.config), next(model.parameters()).device
    kind = process.prediction if of is None else of
    if kind not in PREDICTIONS:
        raise ValueError(f"there is no prediction {quoted(kind)}; there are {', '.join(PREDICTIONS)}")
    low, high = sorted((process.timesteps[0].item(), process.timesteps[-1].item()))
    if wrong := [t for t in times if not low <= t <= high]:
        raise ValueError(f"times must be timesteps from {low:g} to {high:g}, not {quoted(wrong[0])}")
    if not len(x0) or len(x0) != len(y):
        raise ValueError(f"give at least one picture, and a label each: there are {len(x0)} and {len(y)}")
    x0, y = torch.as_tensor(x0).to(device, torch.float32), torch.as_tensor(y).long().to(device)
    training = model.training
    model.eval()
    try:
        rows = [[error(model, process, kind, x0, y, t, seed, batch_size) for t in times] for seed in seeds]
    finally:
        model.train(training)
    return np.array(rows)


def error(model, process: Process, kind: str, x0, y, t: float, seed: int, batch_size: int) -> float:
    """The mean squared error of all pictures at one timestep, with one seed's noise."""
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed)).to(x0.device)
    dtype, errors = next(model.parameters()).dtype, []
    for clean, noise, labels in zip(*(each.split(batch_size) for each in (x0, eps, y)), strict=True):
        told = torch.full((len(clean),), t, device=x0.device)
        i = step_told(process, told)
        x, (a, s) = process.noised(clean, i, noise), process.signal_and_noise(i, clean)
        output, _ = split_output(model(x.to(dtype), process.model_time(i), labels).float(), x)
        if kind != process.prediction:
            output = PREDICTIONS[kind].target(*process.denoised(output, x, i), a, s)
        errors.append(flat_mean((PREDICTIONS[kind].target(clean, noise, a, s) - output) ** 2).double())
    return torch.cat(errors).mean().item()
