"""Looking in: one forward watched, a sampling run recorded, replayed and edited, and what is computed from them.

`plots`, the figures of these, is a room of its own that is not opened with the wing: it takes Matplotlib.
"""

from dit_lab.inside.attention import AttentionNumbers, attention_numbers
from dit_lab.inside.causal import Attribution, CausalMap, Cell, Interventions, attribute, causal_map, cells, intervene
from dit_lab.inside.colours import Colours, fit_colours
from dit_lab.inside.contributions import Contributions
from dit_lab.inside.controls import Effect, control, controls_of, effect, effects
from dit_lab.inside.edits import Channels, Cut, Edit, Label, Modulate, Patch, Scale, Temperature, edited
from dit_lab.inside.geometry import Box, token_at, token_box, token_under
from dit_lab.inside.maps import attended_by, head_similarity, received, rollout, step_similarity, trajectory_rollout
from dit_lab.inside.neighbours import Memorised, Neighbours, memorised, nearest
from dit_lab.inside.parts import Part
from dit_lab.inside.path import GuidanceField, guidance_field, path_spectra, signal_to_noise, x0_changes, x0_channels
from dit_lab.inside.recording import Recording, record
from dit_lab.inside.spectrum import Spectra, feature_spectra
from dit_lab.inside.tokens import Massive, massive, token_norms, token_similarity
from dit_lab.inside.trace import Seen, TraceError, watch
from dit_lab.inside.trajectory import Trajectory

__all__ = [
    "AttentionNumbers", "Attribution", "Box", "CausalMap", "Cell", "Channels", "Colours", "Contributions", "Cut",
    "Edit", "Effect", "GuidanceField", "Interventions", "Label", "Massive", "Memorised", "Modulate", "Neighbours",
    "Part", "Patch", "Recording", "Scale", "Seen", "Spectra", "Temperature", "TraceError", "Trajectory", "attended_by",
    "attention_numbers", "attribute", "causal_map", "cells", "control", "controls_of", "edited", "effect", "effects",
    "feature_spectra", "fit_colours", "guidance_field", "head_similarity", "intervene", "massive", "memorised",
    "nearest", "path_spectra", "received", "record", "rollout", "signal_to_noise", "step_similarity", "token_at",
    "token_box", "token_norms", "token_similarity", "token_under", "trajectory_rollout", "watch", "x0_changes",
    "x0_channels",
]  # fmt: skip
