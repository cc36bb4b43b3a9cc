"""A model made fast for inference, in one place for all who wait: commands, app, notebooks.

`forward` stays the paper's. What changes is the precision of its products, how weights are laid out, what is made
before the loop, and, where asked, whether a compiler takes it over.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Literal

import torch
from torch import nn

from dit_lab.models.ahead import Ahead, twin
from dit_lab.models.compiling import check_compiler
from dit_lab.models.packed import halve, packs
from dit_lab.models.udit import fold
from dit_lab.program import quoted

PRECISION = Literal["auto", "fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TURNS, PATIENCE = 5, 2.0  # of each precision, until this many seconds are over
WORTH = 1.2  # times as fast as fp32 must half precision be to be chosen: below, it is no more than chance


@dataclass(frozen=True)
class Speed:
    """How a fast model runs: `precision` is a name of `DTYPES`, `seconds` a forward's in each that was tried."""

    precision: str
    compiled: bool
    folded: bool
    batch: int
    seconds: dict[str, float]

    def __str__(self):
        """In words, for a progress line or an app's header: `bf16, compiled (…)`."""
        tried = ", ".join(f"{name} {1e3 * seconds:.3g} ms" for name, seconds in self.seconds.items())
        words = [self.precision, *["folded"] * self.folded, *["compiled"] * self.compiled]
        return ", ".join(words) + (f" (a forward of {self.batch}: {tried})" if len(self.seconds) > 1 else "")


def fast(model: nn.Module, *, precision: PRECISION = "auto", compile: bool = False, batch: int = 2, size=None):
    """A model with the same contract that answers sooner: `x: b c h w, t: b, y: b -> b (2c) h w`; `model` stays.

    `precision` auto is found out by a few forwards of `batch` pictures, twice the samples where they are guided, of
    `size` (None: the model's own). In fp32 and not compiled it runs on the model's weights and its outputs are the
    model's bit for bit; in half precision blocks run in 16 bits and the stream between them in 32. A U-DiT is folded.
    `compile` has `sample` ask compiled code, of one shape, for which a CPU needs a C++ compiler; the first step waits
    for it. Calls of the model itself are not compiled, so that it can be watched, edited and replayed.

    The model returned has `speed`, which says what runs, and `ahead`, by which `sample` tells it of a run's timesteps
    and labels. Raises ValueError on a precision that is not there, or that this device does not compute in.
    """
    if precision not in (*DTYPES, "auto"):
        raise ValueError(f"precision must be auto, {', '.join(DTYPES)}, not {quoted(precision)}")
    device = next(model.parameters()).device
    folds = getattr(model.config, "mlp", None) == "reparameterised"
    plain = twin(fold(model) if folds else model).eval()
    check_precision(precision, device)
    made = {"fp32": plain} if precision in ("auto", "fp32") else {}
    for name in halves(device) if precision == "auto" else [precision] if precision != "fp32" else []:
        made[name] = half(plain, DTYPES[name], packed=True)
    seconds = timed(made, batch, size) if len(made) > 1 else {}
    chosen = choice(seconds) if seconds else next(iter(made))
    if compile:
        check_compiler(device)
        # The compiler lays weights out by itself.
        made[chosen] = plain if chosen == "fp32" else half(plain, DTYPES[chosen], packed=False)
    model = made[chosen]
    model.speed = Speed(chosen, compile, folds, batch, seconds)
    if compile or chosen != "fp32":
        model.ahead = Ahead(model, compile)
    return model


def choice(seconds: dict[str, float]) -> str:
    """The precision that is fastest, by its seconds a forward: fp32 unless another is so by more than chance."""
    best = min(seconds, key=seconds.get)
    return best if seconds[best] * WORTH < seconds["fp32"] else "fp32"


def half(model: nn.Module, dtype: torch.dtype, packed: bool) -> nn.Module:
    """A twin of a model whose blocks compute in `dtype`, their linears `packed` where there are kernels for it."""
    made = twin(model)
    halve(made, dtype, packed and next(model.parameters()).device.type == "cpu" and packs(dtype))
    return made


def halves(device: torch.device) -> list[str]:
    """The half precisions that are worth trying on a device: those that it computes in, bf16 first."""
    if device.type == "cuda":
        return ["bf16"] if torch.cuda.is_bf16_supported(including_emulation=False) else ["fp16"]
    return ["bf16"] if device.type == "mps" or packs(torch.bfloat16) else []


def check_precision(precision: str, device: torch.device) -> None:
    """Raise ValueError on a precision that a device has no products in."""
    if device.type == "cpu" and precision == "fp16" and not packs(torch.float16):
        raise ValueError("this CPU does not compute in fp16: take bf16, fp32 or auto")


@torch.no_grad()
def timed(models: dict[str, nn.Module], batch: int, size=None) -> dict[str, float]:
    """Seconds of a forward of each model, the median of a few, taking turns after one to warm up."""
    config, device = next(iter(models.values())).config, next(next(iter(models.values())).parameters()).device
    shape = (size, size) if isinstance(size, int) else size or config.size
    x = torch.randn(batch, config.in_channels, *shape, generator=torch.Generator().manual_seed(0)).to(device)
    t, y = torch.full((batch,), 500, device=device), torch.zeros(batch, dtype=torch.int64, device=device)
    seconds, end = {name: [] for name in models}, None
    for turn in range(TURNS + 1):
        for name, model in models.items():
            spent = clocked(lambda model=model: model(x, t, y), device)
            if turn:
                seconds[name].append(spent)
        end = end or time.perf_counter() + PATIENCE
        if turn and time.perf_counter() > end:
            break
    return {name: median(spent) for name, spent in seconds.items()}


def clocked(call: Callable, device: torch.device) -> float:
    """Seconds that a call takes, to its end on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
