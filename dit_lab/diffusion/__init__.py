"""Noise and back: the processes, what a network predicts in them, and the samplers that walk them."""

from dit_lab.diffusion.checks import check_finite
from dit_lab.diffusion.flow import Flow, SiT
from dit_lab.diffusion.gaussian import SCHEDULES, Diffusion
from dit_lab.diffusion.objectives import PROCESSES, objective, process_of
from dit_lab.diffusion.process import PREDICTIONS, Process
from dit_lab.diffusion.quality import QUALITIES, quality
from dit_lab.diffusion.sampling import SAMPLERS, Step, generate, sample, samplers_for

__all__ = [
    "Diffusion", "Flow", "PREDICTIONS", "PROCESSES", "Process", "QUALITIES", "SAMPLERS", "SCHEDULES", "SiT",
    "Step", "check_finite", "generate", "objective", "process_of", "quality", "sample", "samplers_for",
]  # fmt: skip
