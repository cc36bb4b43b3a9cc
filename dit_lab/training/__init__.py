"""Training as a generator of steps: one process or many, stopped and resumed bit for bit, and what a run leaves."""

from dit_lab.training.autoencoder import new_vae, train_vae
from dit_lab.training.fine_tune import adapted
from dit_lab.training.options import TrainOptions
from dit_lab.training.others import recipe
from dit_lab.training.parallel import device_of, processes
from dit_lab.training.train import NonFiniteLoss, TrainStep, train
from dit_lab.training.vae_options import VaeOptions

__all__ = [
    "NonFiniteLoss", "TrainOptions", "TrainStep", "VaeOptions", "adapted", "device_of", "new_vae", "processes",
    "recipe", "train", "train_vae",
]  # fmt: skip
