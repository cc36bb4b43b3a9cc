"""What a training run does: the paper's values where it has one, and what one machine, or many, need besides."""

import math
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from dit_lab.diffusion.whole import whole

PRECISIONS = ("fp32", "bf16")
PRECISION = Literal[("auto", *PRECISIONS)]
SPREAD = Literal["uniform", "logit_normal"]
TRACKER = Literal["tensorboard", "wandb"]
DECAY = Literal["constant", "cosine", "linear"]
# What may change when a run is continued: how long and how often, and what moves no more than the last digits.
FREE = ("steps", "save_every", "sample_every", "tracker", "accumulate", "checkpointing", "compile", "shard")


@dataclass(frozen=True)
class TrainOptions:
    """What a run does; the paper's values where it has one, except that the batch is sized for one machine."""

    steps: int = 10_000
    """Optimiser steps in all."""
    batch_size: int = 64
    """Images a step, over all processes together (the paper: 256)."""
    accumulate: int = 1
    """Passes that a process takes its share of a batch in, each with less memory; the step stays the same."""
    lr: float = 1e-4
    """Learning rate of AdamW after the warm-up (the paper: 1e-4)."""
    warmup: int = 0
    """Steps over which the learning rate rises linearly from 0 (the paper: none)."""
    lr_decay: DECAY = "constant"
    """What the learning rate does then: stays, as in the paper, or falls to 0 over the steps that are left, whose
    number is then part of the run: it is continued to that step and no further."""
    weight_decay: float = 0.0
    """Weight decay of AdamW (the paper: 0)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """How slowly AdamW's moments of the gradient and of its square move (the paper: PyTorch's defaults, these)."""
    ema_decay: float | tuple[float, ...] = 0.9999
    """Decay of the weights' moving average (the paper: 0.9999), which is what is saved and sampled. Of several, the
    first."""
    ema_warmup: bool = True
    """Let the average follow faster at first, with a decay of at most (1 + step) / (10 + step); the original's is the
    same from its first step."""
    label_dropout: float = 0.1
    """Probability that a label becomes the null label (the paper: 0.1), so that guidance has an unconditional pass."""
    times: SPREAD = "uniform"
    """Which timesteps training draws: all alike, as in the paper, or (flow matching) those in the middle more often."""
    min_snr: float | None = None
    """Weight the steps by min(SNR, this) on the error of x0 (Min-SNR: 5); none is the paper's even weight."""
    clip: float | None = 1.0
    """Largest gradient norm; larger ones are scaled down to it. None scales none, as the original does."""
    mirror: bool = False
    """Flip half of the pictures left to right, as the paper does; right for photographs, wrong for digits."""
    precision: PRECISION = "auto"
    """fp32, bf16 (autocast), or auto: what a few passes at the start show to be faster here, which is kept with the
    run; two runs that are to agree bit for bit name one (the original: fp32, with TF32 products on GPUs)."""
    checkpointing: bool = False
    """Compute each block again in the backward pass instead of keeping what it needs: slower, far less memory."""
    compile: bool = False
    """Let torch.compile fuse the model's operations; the first step takes minutes."""
    shard: bool = False
    """With several processes, give each a part of weights, averages and moments (FSDP) instead of all (DDP)."""
    seed: int = 0
    """Fixes the new model's weights, the data order, the noise, the timesteps and the dropped labels."""
    save_every: int = 1000
    """Steps between checkpoints."""
    sample_every: int = 0
    """Steps between grids of samples in the run's folder; 0: none."""
    tracker: tuple[TRACKER, ...] = ()
    """Also give losses and sample grids to these: tensorboard (into the run's folder), wandb (Weights & Biases)."""

    def __post_init__(self):
        """Raise ValueError, in one sentence, on a value that makes no sense."""
        least = dict(steps=1, batch_size=1, accumulate=1, warmup=0, seed=0, save_every=1, sample_every=0)
        wrong = [
            f"{name} must be a whole number of at least {low} and 63 bits at most"
            for name, low in least.items()
            if not (whole(getattr(self, name)) and low <= getattr(self, name) < 2**63)
        ]
        for name, off in ("lr", ""), ("clip", " or None"), ("min_snr", " or None"):
            value = getattr(self, name)
            if not (off and value is None) and not 0 < value < math.inf:
                wrong.append(f"{name} must be a finite number above 0{off}")
        if not 0 <= self.weight_decay < math.inf:
            wrong.append("weight_decay must be a finite number from 0")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            wrong.append("betas must be two numbers from 0 to below 1")
        if not self.decays or not all(0 <= decay <= 1 for decay in self.decays):
            wrong.append("ema_decay must be between 0 and 1")
        elif len(set(self.decays)) < len(self.decays):
            wrong.append("ema_decay must be decays that differ")
        if not 0 <= self.label_dropout <= 1:
            wrong.append("label_dropout must be between 0 and 1")
        if len(set(self.tracker)) < len(self.tracker) or not {*self.tracker} <= {*get_args(TRACKER)}:
            wrong.append(f"tracker must be some of {', '.join(get_args(TRACKER))}, each once")
        for name, known in ("precision", PRECISION), ("times", SPREAD), ("lr_decay", DECAY):
            if getattr(self, name) not in get_args(known):
                wrong.append(f"{name} must be one of {', '.join(get_args(known))}")
        if wrong:
            raise ValueError(f"{', '.join(f'{text}, not {getattr(self, text.split()[0])}' for text in wrong)}")

    @property
    def decays(self) -> tuple[float, ...]:
        """The decays of the averages that are kept, the main one first."""
        return self.ema_decay if isinstance(self.ema_decay, tuple) else (self.ema_decay,)

    @property
    def fixed(self) -> dict:
        """The options that make a run this one and no other, as JSON; a learning rate that falls, over which steps."""
        kept = {name: value for name, value in asdict(self).items() if name not in FREE}
        if self.lr_decay != "constant":
            kept["lr_decay"] = f"{self.lr_decay}-over-{self.steps}-steps"
        return {name: list(value) if isinstance(value, tuple) else value for name, value in kept.items()}

    def lr_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0: up over the warm-up, then constant or down to 0 at `steps`."""
        lr = self.lr * min(1.0, (step + 1) / max(1, self.warmup))
        done = max(0, step - self.warmup) / max(1, self.steps - self.warmup)
        return lr * {"constant": 1.0, "cosine": (1 + math.cos(math.pi * done)) / 2, "linear": 1 - done}[self.lr_decay]
