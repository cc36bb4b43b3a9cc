"""Tensors to matplotlib figures, a file for each field of work; every one is titled and says what to look for.

Every function returns a `Figure` that belongs to nobody: no pyplot, so no state, no windows and no leaks in a server. A
notebook shows it as a picture after `%matplotlib inline`.
Magnitudes are in viridis or cividis, what has a sign from blue over white to orange: colour-blind readers see both.
"""

from dit_lab.inside.plots.attention import attended_by_overlay, attention_overlay, received_overlay, rollout_overlay
from dit_lab.inside.plots.attention_numbers import attention_numbers_map, similarity_map
from dit_lab.inside.plots.base import BLUE, CATEGORIES, GREEN, NOISE_REACH, ORANGE, as_pictures, panels
from dit_lab.inside.plots.causal import causal_table, what_made_this
from dit_lab.inside.plots.effects import effect_pictures, effect_plot
from dit_lab.inside.plots.losses import loss_curve
from dit_lab.inside.plots.neighbours import neighbours_table
from dit_lab.inside.plots.network import modulation_heat_map, spectrum
from dit_lab.inside.plots.parts import contribution_norms_map, contribution_pictures, lens_strip
from dit_lab.inside.plots.path import (
    guidance_strip,
    path_spectra_plot,
    signal_to_noise_plot,
    x0_changes_plot,
    x0_channels_plot,
)
from dit_lab.inside.plots.pictures import picture_table, sample_grid, trajectory_strip
from dit_lab.inside.plots.schedules import loss_by_timestep_plot, schedule_plot
from dit_lab.inside.plots.tokens import colour_pictures, massive_plot, token_norms_map, token_similarity_overlay

__all__ = [
    "BLUE", "CATEGORIES", "GREEN", "NOISE_REACH", "ORANGE", "as_pictures", "attended_by_overlay",
    "attention_numbers_map", "attention_overlay", "causal_table", "colour_pictures", "contribution_norms_map",
    "contribution_pictures", "effect_pictures", "effect_plot", "guidance_strip", "lens_strip", "loss_by_timestep_plot",
    "loss_curve", "massive_plot", "modulation_heat_map", "neighbours_table", "panels", "path_spectra_plot",
    "picture_table", "received_overlay", "rollout_overlay", "sample_grid", "schedule_plot", "signal_to_noise_plot",
    "similarity_map", "spectrum", "token_norms_map", "token_similarity_overlay", "trajectory_strip", "what_made_this",
    "x0_changes_plot", "x0_channels_plot",
]  # fmt: skip
