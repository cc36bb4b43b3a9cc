"""What the training of a VAE does, and what of it makes a run this one and no other."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Literal, get_args

from dit_lab.training.options import DECAY, PRECISIONS, TrainOptions

ERROR = Literal["l2", "l1"]


@dataclass(frozen=True)
class VaeOptions:
    """How a VAE is trained."""

    steps: int = 3_000
    """Optimiser steps in all."""
    batch_size: int = 32
    """Pictures a step, over all processes together."""
    lr: float | None = None
    """Learning rate of AdamW after the warm-up (default: 1e-3, and 1e-4 with --init)."""
    warmup: int = 100
    """Steps over which the learning rate rises linearly from 0."""
    lr_decay: DECAY = "cosine"
    """What the learning rate does then: falls to 0 over the steps that are left, whose number is then part of the run,
    or stays (constant), so that --resume may ask for more --steps."""
    loss: ERROR = "l2"
    """How far a rebuilt pixel is from the real one: l2, the squared error (highest PSNR), or l1, the absolute one
    (sharper edges). Perceptual and adversarial losses, which need trained networks of their own, are not offered."""
    kl_weight: float = 5e-4
    """Weight of the KL divergence (nats a number of the latent) beside the error of pixels in [-1, 1]."""
    ema_decay: float = 0.998
    """Decay of the weights' moving average; the average is what is kept."""
    mirror: bool = False
    """Flip half of the pictures left to right; right for photographs, wrong for digits."""
    held_back: float = 0.1
    """Share of the pictures, at least one, that is not trained on: the figures are measured on these."""
    precision: Literal[PRECISIONS] = "fp32"
    """fp32, or bf16 (autocast); figures are measured in fp32."""
    seed: int = 0
    """Fixes the new VAE's weights, which pictures are held back, the data order, the flips and the noise."""
    save_every: int = 500
    """Steps between checkpoints, each with figures of at most 256 pictures; at the end all are measured."""

    def __post_init__(self):
        """Raise ValueError, in one sentence, on a value that makes no sense."""
        self.plan  # noqa: B018 - which checks what the two have in common
        if self.loss not in get_args(ERROR):
            raise ValueError(f"loss must be one of {', '.join(get_args(ERROR))}, not {self.loss}")
        if not 0 <= self.kl_weight < math.inf:
            raise ValueError(f"kl_weight must be a finite number from 0, not {self.kl_weight}")
        if not 0 < self.held_back < 1:
            raise ValueError(f"held_back must be a share between 0 and 1, not {self.held_back}")

    @property
    def plan(self) -> TrainOptions:
        """What it has in common with a generator's training."""
        ours = {field.name for field in fields(TrainOptions)}
        common = {name: value for name, value in asdict(self).items() if name in ours}
        return TrainOptions(**common | {"lr": 1e-3 if self.lr is None else self.lr})

    @property
    def fixed(self) -> dict:
        """The options that make a run this one and no other, as JSON."""
        own, known = asdict(self), self.plan.fixed
        return {name: known.get(name, value) for name, value in own.items() if name not in ("steps", "save_every")}
