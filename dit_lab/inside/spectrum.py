"""How coarse the features of a model are: their Fourier power by frequency, by depth and by timestep.

U-DiT's argument (section 3.1) is that the features of a U-shaped backbone are mostly of low frequency, so that
attention may downsample them. Frequencies are in cycles per pixel of the input, which all grids share; the mean over
the grid (frequency 0) says nothing about structure and is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange

from dit_lab.inside.trace import place
from dit_lab.inside.trajectory import Trajectory

LOW = 0.5  # "low" is below this share of the grid's highest frequency along an axis


@dataclass(frozen=True)
class Spectra:
    """The spectra of all blocks at some timesteps `t`: `power[block]` is `step f` at `frequency[block]` (f).

    `low` is the share of the power that is of low frequency, `block step`, and `noise` what white noise would have.
    """

    names: list[str]
    t: list[int]
    frequency: list[torch.Tensor]
    power: list[torch.Tensor]
    low: torch.Tensor
    noise: list[float]

    def as_json(self) -> dict:
        """Everything, rounded to four digits."""
        plain = lambda x: [float(f"{value:.4g}") for value in x] if x.ndim == 1 else [plain(row) for row in x]
        blocks = zip(self.names, self.frequency, self.power, self.low, self.noise, strict=True)
        of = lambda name, frequency, power, low, noise: {
            "name": name, "frequency": plain(frequency), "power": plain(power), "low": plain(low),
            "noise": round(noise, 4),
        }  # fmt: skip
        return {"t": self.t, "blocks": [of(*block) for block in blocks]}


def feature_spectra(trajectory: Trajectory, model, steps: Sequence[int] | None = None) -> Spectra:
    """The spectra of every block's output in a recorded run, the mean over its samples and features.

    `steps` are step numbers, all by default. Raises TraceError on a step that is not there, or on another model.
    """
    steps = range(len(trajectory.t)) if steps is None else [place("step", step, len(trajectory.t)) for step in steps]
    grids = [trajectory.grid_of(block) for block in range(trajectory.config.depth)]
    patches = [trajectory.config.stage_of(block).patch for block in range(trajectory.config.depth)]
    radii = [radius(grid) for grid in grids]
    samples, powers = range(len(trajectory.labels)), []
    for step in steps:
        seen = trajectory.replay(model, step, samples, "cond", attention=None, modulation=False)
        powers.append([power_of(seen.features[block].float().cpu(), grid) for block, grid in enumerate(grids)])
    by_block = list(zip(zip(*powers, strict=True), radii, strict=True))
    return Spectra(
        trajectory.config.block_names,
        [trajectory.t[step] for step in steps],
        [frequencies(grid) / patch for grid, patch in zip(grids, patches, strict=True)],
        [torch.stack([ring_means(power, r) for power in of_block]) for of_block, r in by_block],
        torch.tensor([[low_share(power, r) for power in of_block] for of_block, r in by_block]),
        [low_share(torch.ones(grid), r) for grid, r in zip(grids, radii, strict=True)],
    )


def power_of(x: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """The mean Fourier power of features: `x: b n d -> h w`; tokens beyond the grid (conditions) are left out."""
    rows, columns = grid
    x = rearrange(x[:, : rows * columns], "b (h w) d -> b d h w", h=rows)
    return torch.fft.fft2(x, norm="ortho").abs().square().mean(dim=(0, 1))


def radius(grid: tuple[int, int]) -> torch.Tensor:
    """How far each Fourier mode is from 0, in cycles per token: `-> h w`."""
    rows, columns = (torch.fft.fftfreq(side) for side in grid)
    return torch.sqrt(rearrange(rows, "h -> h 1") ** 2 + columns**2)


def frequencies(grid: tuple[int, int]) -> torch.Tensor:
    """The radii of the rings that `ring_means` averages over, from one cycle a picture to the highest: `-> f`."""
    return torch.arange(1, min(grid) // 2 + 1) / min(grid)


def ring_means(power: torch.Tensor, radii: torch.Tensor) -> torch.Tensor:
    """The mean power in rings around frequency 0: `h w -> f`."""
    rings = torch.round(radii * min(power.shape)).long()
    return torch.stack([power[rings == ring].mean() for ring in range(1, min(power.shape) // 2 + 1)])


def low_share(power: torch.Tensor, radii: torch.Tensor) -> float:
    """The share of the power, that of frequency 0 left out, that is of low frequency."""
    return (power[(radii > 0) & (radii <= LOW / 2)].sum() / power[radii > 0].sum()).item()
