"""Training as a generator of steps: one process or many, stopped and resumed bit for bit, and what a run leaves."""

from dit_lab.training.fine_tune import adapted
from dit_lab.training.options import TrainOptions
from dit_lab.training.parallel import device_of, processes
from dit_lab.training.train import NonFiniteLoss, TrainStep, train

__all__ = ["NonFiniteLoss", "TrainOptions", "TrainStep", "adapted", "device_of", "processes", "train"]
