"""Tensors to matplotlib figures: trajectories, samples, parts, causes, attention, modulation, spectra, losses.

Every function returns a `Figure` that belongs to nobody: no pyplot, so no state, no windows and no leaks in a server. A
notebook shows it as a picture after `%matplotlib inline`.
Colour maps are viridis and cividis, which colour-blind readers see too.
"""

from dit_lab.inside.plots.attention import attention_overlay
from dit_lab.inside.plots.attention_numbers import attention_numbers_map, similarity_map
from dit_lab.inside.plots.base import BLUE, CATEGORIES, GREEN, NOISE_REACH, ORANGE, as_pictures, panels
from dit_lab.inside.plots.causal import causal_table, what_made_this
from dit_lab.inside.plots.effects import effect_pictures, effect_plot
from dit_lab.inside.plots.losses import loss_curve
from dit_lab.inside.plots.network import modulation_heat_map, spectrum
from dit_lab.inside.plots.parts import contribution_norms_map, contribution_pictures, lens_strip
from dit_lab.inside.plots.pictures import picture_table, sample_grid, trajectory_strip

__all__ = [
    "BLUE", "CATEGORIES", "GREEN", "NOISE_REACH", "ORANGE", "as_pictures", "attention_numbers_map",
    "attention_overlay", "causal_table", "contribution_norms_map", "contribution_pictures", "effect_pictures",
    "effect_plot", "lens_strip", "loss_curve", "modulation_heat_map", "panels", "picture_table", "sample_grid",
    "similarity_map", "spectrum", "trajectory_strip", "what_made_this",
]  # fmt: skip
