"""Training as a generator: a notebook, the command line and the app are three callers of the same loop.

DiT paper, section 4: AdamW at 1e-4 without decay, EMA 0.9999, labels dropped with probability 0.1 for guidance.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import nn

from dit_lab.diffusion import Diffusion, whole
from dit_lab.folder import checkpoint, log, open_folder
from dit_lab.state import TrainState

PRECISION = Literal["auto", "fp32", "bf16"]
LOG_EVERY = 50
LOGGED = ("loss", "mse", "vb", "gradient_norm", "images_per_second")


@dataclass(frozen=True)
class TrainOptions:
    """What a run does; the paper's values where it has one, except that the batch is sized for one machine."""

    steps: int = 10_000
    """Optimiser steps in all."""
    batch_size: int = 64
    """Images a step (the paper: 256)."""
    lr: float = 1e-4
    """Learning rate of AdamW, constant after the warm-up."""
    warmup: int = 0
    """Steps over which the learning rate rises linearly from 0."""
    ema_decay: float = 0.9999
    """Decay of the weights' moving average; the average is what is saved and sampled."""
    label_dropout: float = 0.1
    """Probability that a label becomes the null label, so that guidance has an unconditional pass."""
    clip: float = 1.0
    """Largest gradient norm; larger ones are scaled down to it."""
    mirror: bool = False
    """Flip half of the pictures left to right, as the paper does; right for photographs, wrong for digits."""
    precision: PRECISION = "auto"
    """fp32, bf16 (autocast), or auto: bf16 where the machine computes it."""
    seed: int = 0
    """Fixes the new model's weights, the data order, the noise, the timesteps and the dropped labels."""
    save_every: int = 1000
    """Steps between checkpoints."""

    def __post_init__(self):
        """Raise ValueError, in one sentence, on a value that makes no sense."""
        least = dict(steps=1, batch_size=1, warmup=0, seed=0, save_every=1)
        wrong = [
            f"{name} must be a whole number of at least {low} and 63 bits at most"
            for name, low in least.items()
            if not (whole(getattr(self, name)) and low <= getattr(self, name) < 2**63)
        ]
        for name in "lr", "clip":
            if not 0 < getattr(self, name) < math.inf:
                wrong.append(f"{name} must be a finite number above 0")
        for name in "ema_decay", "label_dropout":
            if not 0 <= getattr(self, name) <= 1:
                wrong.append(f"{name} must be between 0 and 1")
        if self.precision not in get_args(PRECISION):
            wrong.append(f"precision must be one of {', '.join(get_args(PRECISION))}")
        if wrong:
            raise ValueError(f"{', '.join(f'{text}, not {getattr(self, text.split()[0])}' for text in wrong)}")


@dataclass(frozen=True)
class TrainStep:
    """What one optimiser step did: losses are means over the batch, `vb` in bits per dimension."""

    step: int
    loss: float
    mse: float
    vb: float
    gradient_norm: float
    lr: float
    images_per_second: float


class NonFiniteLoss(RuntimeError):
    """The loss or its gradient turned NaN or infinite; the last checkpoint before it stays."""


def train(model: nn.Module, images, options=TrainOptions(), *, out=None, resume=False) -> Iterator[TrainStep]:  # noqa: B008
    """Train `model` on `images`, yielding a `TrainStep` after each optimiser step.

    `model` itself ends with the weights as trained; their average, which is what to sample from, is in `out`.
    With `out`, a checkpoint is written every `save_every` steps, at the end, and when the caller stops early: the
    averaged model in our own format, then `state.safetensors` to `resume` from, bit-exactly on a CPU; and `log.jsonl`
    gets the mean losses of every 50 steps. Raises ValueError, before any work, on a folder that holds another run or
    (with `resume`) none; NonFiniteLoss when training diverges, the step named.
    """
    taken, given = (model.config.in_channels, *model.config.size), tuple(images.shape)
    if taken != given or len(images.names) != model.config.num_classes:
        raise ValueError(
            f"the model takes pictures of {spelt(taken)} (c h w) in {model.config.num_classes} classes, "
            f"these are {spelt(given)} in {len(images.names)}"
        )
    state = TrainState.fresh(model, options.lr)
    if out is not None:
        open_folder(Path(out), state, identity(state, images, options), resume)
    elif resume:
        raise ValueError("resume needs the folder of the run: give out")
    return loop(state, images, options, None if out is None else Path(out))


def spelt(shape) -> str:
    """`(1, 8, 8) -> 1 x 8 x 8`."""
    return " x ".join(map(str, shape))


def identity(state: TrainState, images, options: TrainOptions) -> dict:
    """What makes a run this one and no other, as JSON; a run is continued only with the same."""
    fixed = {name: value for name, value in asdict(options).items() if name not in ("steps", "save_every")}
    return {"model": state.model.config.as_json(), "option": fixed, "data": images.fingerprint}


def loop(state: TrainState, images, options: TrainOptions, out: Path | None) -> Iterator[TrainStep]:
    """The training loop behind `train`, its folder prepared and its state restored."""
    keep = lambda: checkpoint(out, state, identity(state, images, options), images.names)
    diffusion = Diffusion.named(state.model.config.schedule, state.model.config.prediction)
    saved = state.step
    try:
        while state.step < options.steps:
            step = advance(state, images, diffusion, options)
            state.recent.append({name: getattr(step, name) for name in LOGGED})
            if out and (state.step % LOG_EVERY == 0 or state.step == options.steps):
                log(out, state)
            if out and (state.step % options.save_every == 0 or state.step == options.steps):
                keep()
                saved = state.step
            yield step
    except GeneratorExit:
        if out and state.step > saved:
            keep()
        raise
    except NonFiniteLoss as error:
        kept = f"; the checkpoint of step {saved} stays in {out}" if out and saved else ""
        raise NonFiniteLoss(f"{error}{kept}") from None


def advance(state: TrainState, images, diffusion: Diffusion, options: TrainOptions) -> TrainStep:
    """One optimiser step. What is random in it depends on (seed, step) alone, so that a resumed run repeats it."""
    start = time.perf_counter()
    device = next(state.model.parameters()).device
    x0, i, y, eps = (tensor.to(device) for tensor in draw(images, state, diffusion, options))
    lr = options.lr * min(1.0, (state.step + 1) / max(1, options.warmup))
    for group in state.optimiser.param_groups:
        group["lr"] = lr
    state.model.train()
    with torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(options.precision, device)):
        losses = diffusion.losses(state.model, x0, i, y, eps)
    loss, mse, vb = (part.mean().item() for part in losses)
    state.optimiser.zero_grad()
    losses.loss.mean().backward()
    norm = nn.utils.clip_grad_norm_(state.model.parameters(), options.clip).item()
    # Before the weights move: what is in memory, and on disk, is still the last good step.
    if not (math.isfinite(loss) and math.isfinite(norm)):
        what = f"loss turned {loss}" if not math.isfinite(loss) else f"gradient turned {norm}"
        raise NonFiniteLoss(f"the {what} at step {state.step + 1}; try a lower learning rate than {options.lr:g}")
    state.optimiser.step()
    state.step += 1
    state.average(options.ema_decay)
    rate = len(x0) / (time.perf_counter() - start)
    return TrainStep(state.step, loss, mse, vb, norm, lr, rate)


def draw(images, state: TrainState, diffusion: Diffusion, options: TrainOptions):
    """A step's batch and its randomness: `-> x0: b c h w, i: b, y: b, eps: b c h w`."""
    seed = np.random.SeedSequence([options.seed, state.step]).generate_state(1, np.uint64)[0]
    random = torch.Generator().manual_seed(int(seed >> np.uint64(1)))
    x0, y = images.batch(order(len(images), options.seed, state.step * options.batch_size, options.batch_size))
    eps = torch.randn(x0.shape, generator=random)
    i = torch.randint(len(diffusion.betas), y.shape, generator=random)
    dropped = torch.rand(y.shape, generator=random) < options.label_dropout
    mirrored = torch.rand(y.shape, generator=random) < (0.5 if options.mirror else 0)
    x0 = torch.where(mirrored[:, None, None, None], x0.flip(-1), x0)
    return x0, i, torch.where(dropped, state.model.config.num_classes, y), eps


def order(total: int, seed: int, start: int, count: int) -> np.ndarray:
    """Places `start` to `start + count` of an endless stream of shuffled epochs over `total` images."""
    epochs = range(start // total, (start + count - 1) // total + 1)
    stream = np.concatenate([shuffled(total, seed, epoch) for epoch in epochs])
    return stream[start - epochs[0] * total :][:count]


@lru_cache(maxsize=2)
def shuffled(total: int, seed: int, epoch: int) -> np.ndarray:
    """One epoch's order of `total` images."""
    return np.random.default_rng([seed, epoch]).permutation(total)


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether to autocast to bf16: asked for, or `auto` on a device that computes in it."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # x86's names for it, and ARM's.
    able = torch.cpu.get_capabilities()
    return device.type == "cpu" and any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
