"""Tensors to matplotlib figures: trajectories, samples, attention, modulation, spectra and losses.

Every function returns a `Figure` that belongs to nobody: no pyplot, so no state, no windows and no leaks in a server. A
notebook shows it as a picture after `%matplotlib inline`.
Colour maps are viridis and cividis, which colour-blind readers see too.
"""

from dit_lab.inside.plots.attention import attention_overlay
from dit_lab.inside.plots.base import BLUE, CATEGORIES, GREEN, NOISE_REACH, ORANGE, as_pictures, panels
from dit_lab.inside.plots.losses import loss_curve
from dit_lab.inside.plots.network import modulation_heat_map, spectrum
from dit_lab.inside.plots.pictures import picture_table, sample_grid, trajectory_strip

__all__ = [
    "BLUE", "CATEGORIES", "GREEN", "NOISE_REACH", "ORANGE", "as_pictures", "attention_overlay", "loss_curve",
    "modulation_heat_map", "panels", "picture_table", "sample_grid", "spectrum", "trajectory_strip",
]  # fmt: skip
