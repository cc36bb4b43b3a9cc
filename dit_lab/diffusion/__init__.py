"""Noise and back: the processes, what a network predicts in them, and the samplers that walk them."""

from dit_lab.diffusion.by_timestep import loss_by_timestep
from dit_lab.diffusion.checks import check_finite
from dit_lab.diffusion.described import Described, Task, described
from dit_lab.diffusion.editing import Keeping, from_picture
from dit_lab.diffusion.flow import Flow, SiT
from dit_lab.diffusion.gaussian import SCHEDULES, Diffusion
from dit_lab.diffusion.guides import Rescaled
from dit_lab.diffusion.ideal import ideal_denoiser, posterior_mean, posterior_weights
from dit_lab.diffusion.objectives import PROCESSES, objective, process_of
from dit_lab.diffusion.process import PREDICTIONS, Process
from dit_lab.diffusion.quality import QUALITIES, check_own, chosen, quality
from dit_lab.diffusion.sampling import SAMPLERS, Step, generate, sample, samplers_for
from dit_lab.diffusion.searching import searched
from dit_lab.diffusion.solvers import how_many
from dit_lab.diffusion.spacing import karras, shifted
from dit_lab.diffusion.unusual import Unusual, check_walk, late

__all__ = [
    "Described", "Diffusion", "Flow", "Keeping", "PREDICTIONS", "PROCESSES", "Process", "QUALITIES", "Rescaled",
    "SAMPLERS", "SCHEDULES", "SiT", "Step", "Task", "Unusual", "check_finite", "check_own", "check_walk", "chosen",
    "described", "from_picture", "generate", "how_many", "ideal_denoiser", "karras", "late", "loss_by_timestep",
    "objective", "posterior_mean", "posterior_weights", "process_of", "quality", "sample", "samplers_for", "searched",
    "shifted",
]  # fmt: skip
