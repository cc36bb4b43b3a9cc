"""A model made fast for inference, in one place for all who wait: commands, app, notebooks.

`forward` stays the paper's. What changes is the precision of its products, how weights are laid out, what is made
before the loop, and, where asked, whether a compiler takes it over.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

import torch
from torch import nn

from dit_lab.models.ahead import Ahead, twin
from dit_lab.models.compiling import can_compile, check_compiler
from dit_lab.models.devices import clocked, fastest, in_turns, uses_bf16
from dit_lab.models.packed import halve, packs, unhook
from dit_lab.models.udit import fold
from dit_lab.program import quoted

PRECISION = Literal["auto", "fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TURNS, PATIENCE = 5, 2.0  # of each precision, until this many seconds are over
WORTH = 1.2  # times as fast as fp32 must half precision be to be chosen: below, it is no more than chance
COMPILE = {"auto": "auto", "yes": True, "no": False}  # by what commands call it
PAYS = 10  # times as long as compiling takes must the work be that is left, to try it: so much of it is lost at most
COMPILED_WORTH = 1.05  # and so many times as fast must it be
FEW = 100  # forwards, of which not even one is taken to find out


@dataclass(frozen=True)
class Speed:
    """How a fast model runs: `precision` is a name of `DTYPES`, `seconds` a forward's in each that was tried.

    `emulated` is a precision that the CPU does not compute in: several times as slow as fp32.
    """

    precision: str
    compiled: bool
    folded: bool
    batch: int
    seconds: dict[str, float]
    emulated: bool = False

    def __str__(self):
        """In words, for a progress line or an app's header: `bf16, compiled (…)`."""
        tried = ", ".join(f"{name} {1e3 * seconds:.3g} ms" for name, seconds in self.seconds.items())
        slow = " (slow: this CPU does not compute in it)" * self.emulated
        words = [self.precision + slow, *["folded"] * self.folded, *["compiled"] * self.compiled]
        return ", ".join(words) + (f" (a forward of {self.batch}: {tried})" if len(self.seconds) > 1 else "")


def fast(
    model: nn.Module, *, precision: PRECISION = "auto", compile: bool | Literal["auto"] = False, batch: int = 2,
    size=None, forwards: int = 0, tell: Callable[[str], object] = lambda sentence: None,
) -> nn.Module:  # fmt: skip
    """A model with the same contract that answers sooner: `x: b c h w, t: b, y: b -> b (2c) h w`; `model` stays.

    `precision` auto is found out by a few forwards of `batch` pictures, twice the samples where they are guided, of
    `size` (None: the model's own). In fp32 and not compiled it runs on the model's weights and its outputs are the
    model's bit for bit; but a re-parameterised U-DiT is folded, to weights of its own, which are off by rounding alone.
    In half precision blocks run in 16 bits and the stream between them in 32. `compile` has `sample` ask compiled code,
    of one shape, for which a CPU needs a C++ compiler; the first step waits for it. Calls of the model itself are not
    compiled, so that it can be watched, edited and replayed. On a CPU code for few numbers has the weights in it, as
    they are at its first step. `compile` auto tries it where the `forwards` to come take
    `PAYS` times as long as compiling, which it tells by `tell` before, and stays with what is faster.

    Hooks that hang in `model` do not come along: made while it is edited or watched, the fast one is neither.
    The model returned has `speed`, which says what runs, and `ahead`, by which `sample` tells it of a run's timesteps
    and labels. Raises ValueError on a precision that is not there, or that this device does not compute in, and on
    another `compile`.
    """
    if precision not in (*DTYPES, "auto"):
        raise ValueError(f"precision must be auto, {', '.join(DTYPES)}, not {quoted(precision)}")
    if not isinstance(compile, bool) and compile != "auto":
        raise ValueError(f"compile must be True, False or auto, not {quoted(compile)}")
    device = device_of(model)
    if device.type == "cpu" and precision == "fp16" and not packs(torch.float16):
        raise ValueError("this CPU does not compute in fp16: take bf16, fp32 or auto")
    if compile is True:
        check_compiler(device)
    folds = getattr(model.config, "mlp", None) == "reparameterised"
    plain = twin(fold(model) if folds else model).eval()
    unhook(plain)
    made = {"fp32": plain} if precision in ("auto", "fp32") else {}
    for name in halves(device) if precision == "auto" else [precision] if precision != "fp32" else []:
        made[name] = half(plain, DTYPES[name], packed=True)
    seconds = timed(made, plain.config, device, batch, size) if len(made) > 1 else {}
    chosen = fastest(seconds, WORTH) if seconds else next(iter(made))
    quick, ahead = made[chosen], None
    if compile == "auto":
        code, spent = tried(plain, quick, chosen, batch, size, forwards, tell, seconds)
        compile, seconds = code is not None, seconds | spent
        quick, ahead = (code.model, code) if compile else (quick, None)
    elif compile:
        quick = compilable(plain, quick, chosen)
    emulated = chosen == "bf16" and device.type == "cpu" and not packs(torch.bfloat16)
    quick.speed = Speed(chosen, compile, folds, batch, seconds, emulated)
    if compile or chosen != "fp32":
        quick.ahead = ahead or Ahead(quick, compile)
    return quick


def compilable(plain: nn.Module, quick: nn.Module, precision: str) -> nn.Module:
    """What a compiler is given of a model that runs in a precision: it lays weights out by itself."""
    return quick if precision == "fp32" else half(plain, DTYPES[precision], packed=False)


def tried(
    plain, quick, precision: str, batch: int, size, forwards: int, tell, known: dict[str, float]
) -> tuple[Ahead | None, dict[str, float]]:
    """Compiled code where it is faster than `quick`, and seconds of a forward of both; nothing where it cannot pay.

    `known` are seconds that were measured already.
    """
    device, cost = device_of(plain), seconds_to_compile(plain)
    if forwards < FEW or not can_compile(device):
        return None, {}
    known = known or timed({precision: quick}, plain.config, device, batch, size, turns=1)
    left = forwards * known[precision]
    if left < PAYS * cost:
        return None, {}
    tell(f"{forwards:,} forwards are to come, some {left / 60:.0f} minutes: compiling is tried, in about {cost:.0f} s")
    t, y = torch.tensor([500], device=device), torch.tensor([0], device=device)  # those of `timed`
    name = f"{precision} compiled"
    try:
        code = Ahead(compilable(plain, quick, precision), compile=True)
        calls = {precision: quick if precision == "fp32" else Ahead(quick)(t, y), name: code(t, y)}
        timed({name: calls[name]}, plain.config, device, batch, size, turns=1)  # which waits for the compiler
        seconds = timed(calls, plain.config, device, batch, size)
    except (RuntimeError, OSError) as error:  # of the compiler, of the code that it made, or of where that is written
        tell(f"compiling failed, so it runs as it is ({quoted(str(error).partition(chr(10))[0], 120)})")
        return None, {}
    return (code if seconds[name] * COMPILED_WORTH < seconds[precision] else None), seconds


def seconds_to_compile(model: nn.Module) -> float:
    """About how long the first step of compiled code takes: measured on slow cores (docs/results/bench-log.md)."""
    return 10 + 0.4 * len([*model.modules()]) if device_of(model).type == "cpu" else 60


def half(model: nn.Module, dtype: torch.dtype, packed: bool) -> nn.Module:
    """A twin of a model whose blocks compute in `dtype`, their linears `packed` where there are kernels for it."""
    made = twin(model)
    halve(made, dtype, packed and device_of(model).type == "cpu" and packs(dtype))
    return made


def halves(device: torch.device) -> list[str]:
    """The half precisions that are worth trying on a device: those that it computes in, bf16 first."""
    if device.type == "cuda":
        return ["bf16" if uses_bf16("auto", device) else "fp16"]
    return ["bf16"] if device.type == "mps" or packs(torch.bfloat16) else []


@torch.no_grad()
def timed(calls: dict[str, Callable], config, device, batch: int, size=None, turns: int = TURNS) -> dict[str, float]:
    """Seconds of a forward by each way to call it, the median of a few, taking turns after one to warm up."""
    config = config if size is None else replace(config, input_size=size)
    x = torch.randn(batch, config.in_channels, *config.size, generator=torch.Generator().manual_seed(0)).to(device)
    t, y = (torch.full((batch,), number, device=device) for number in (500, 0))
    spent = in_turns(lambda name: clocked(lambda: calls[name](x, t, y), device), calls, turns, PATIENCE)
    return {name: median(times) for name, times in spent.items()}


def device_of(model: nn.Module) -> torch.device:
    """Where a model computes."""
    return next(model.parameters()).device
