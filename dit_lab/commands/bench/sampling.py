"""Where people wait: a forward, and a guided step of sampling, of the same network in each library."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from dit_lab.commands.bench.contestants import (
    SCALE,
    autocast,
    diffusers_model,
    diffusers_step,
    original_model,
    original_step,
    ours,
)  # fmt: skip
from dit_lab.commands.bench.report import Line, compete
from dit_lab.commands.bench.timing import peak
from dit_lab.diffusion import generate, sample
from dit_lab.models import DiTConfig, count, fast, preset

STEPS = 50
CHECKED = 10  # steps of the run whose sample tells what fast costs in the end


@dataclass(frozen=True)
class Field:
    """What a bench of sampling is run on: the device, its rounds, its peaks by dtype, and the original's checkout."""

    device: torch.device
    rounds: int
    original: Path | None
    compile: bool
    peaks: dict[torch.dtype, float]

    @classmethod
    def measured(cls, device, rounds: int, original: Path | None, compile: bool) -> "Field":
        """With the peaks of this machine, as they are now."""
        peaks = {dtype: peak(device, dtype) for dtype in (torch.float32, torch.bfloat16)}
        for dtype, most in peaks.items():
            print(f"peak of {str(dtype).removeprefix('torch.')} matrix products: {most / 1e12:.3g} TFLOP/s")
        return cls(device, rounds, original, compile, peaks)

    def peak_of(self, who: str) -> float:
        """The peak that a contestant is held to: that of the precision which its name says."""
        return self.peaks[torch.float32 if "fp32" in who else torch.bfloat16]


@dataclass(frozen=True)
class Entry:
    """A contestant: its network as `ask(x, t, y) -> out`, and a guided step, `step(x, y) -> call`."""

    ask: Callable
    step: Callable


def entries(model: nn.Module, field: Field, batch: int) -> dict[str, Entry]:
    """Who takes part, the original first where it is there; each is named with the precision of its products."""
    device, found = field.device, {}
    if field.original:
        theirs = original_model(model, field.original)
        ask = lambda x, t, y: theirs(x, t, y)
        step = lambda x, y: original_step(theirs, field.original, x, y)
        found["original, its default (fp32)"] = Entry(in_tf32(ask), lambda x, y: in_tf32(step(x, y)))
        found["original, autocast bf16"] = Entry(autocast(ask, device), lambda x, y: autocast(step(x, y), device))
    with suppress(ImportError):
        other = diffusers_model(model)
        ask = lambda x, t, y: other(x, timestep=t, class_labels=y).sample
        found["diffusers, fp32"] = Entry(ask, lambda x, y: diffusers_step(other, x, y))
        found["diffusers, autocast bf16"] = Entry(
            autocast(ask, device), lambda x, y: autocast(diffusers_step(other, x, y), device)
        )
    plain = fast(model, precision="fp32")
    found["dit_lab, fp32"] = Entry(plain, lambda x, y: our_step(plain, y))
    for compiles in (False, True) if field.compile else (False,):
        for name in ("bf16",) if device.type == "cuda" else ("fp32", "bf16"):
            if name == "fp32" and not compiles:
                continue
            quick = fast(model, precision=name, compile=compiles, batch=batch)
            found[f"dit_lab, fast, {name}{', compiled' * compiles}"] = Entry(
                partial(asked_ahead, quick), lambda x, y, quick=quick: our_step(quick, y)
            )
    return found


def asked_ahead(model: nn.Module, x, t, y):
    """A forward as a run asks for it, what is made ahead of the run included."""
    return model.ahead(t.unique(), y.unique())(x, t, y)


def in_tf32(call: Callable) -> Callable:
    """`call` with TF32 products allowed, as the original's scripts do on GPUs."""

    def allowed(*inputs):
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = True
        try:
            return call(*inputs)
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before

    return allowed


def our_step(model: nn.Module, y) -> Callable:
    """A guided step by DDIM of a run that begins anew when it is over."""
    run = lambda: sample(model, y.tolist(), steps=STEPS, cfg_scale=SCALE, seed=0)
    walks = [run()]

    def step():
        taken = next(walks[0], None)
        if taken is None:
            walks[0] = run()
            taken = next(walks[0])
        return taken.previous

    return step


def latents(name: str) -> int:
    """How many latents a call takes of a preset, where nobody says: fewer of the large ones."""
    return 8 if name == "DiT-S/2" else 4


def inputs(config: DiTConfig, batch: int, device: torch.device):
    """Random `x: b c h w`, one timestep and labels for all, `t, y: b`."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(batch, config.in_channels, *config.size, generator=random)
    y = torch.randint(config.num_classes, (batch,), generator=random)
    return x.to(device), torch.full((batch,), 500, device=device), y.to(device)


@torch.no_grad()
def bench_forward(name: str, batch: int, field: Field) -> list[Line]:
    """A forward of a preset, a line a contestant."""
    config = preset(name)
    model = ours(config, field.device)
    found, (x, t, y) = entries(model, field, batch), inputs(config, batch, field.device)
    exact = model(x, t, y)
    calls = {who: partial(entry.ask, x, t, y) for who, entry in found.items()}
    errors = {who: relative_error(call(), exact) for who, call in calls.items()}
    flops, peaks = 2 * batch * count(config).macs, {who: field.peak_of(who) for who in found}
    work = f"{name} forward, {batch}"
    return compete(work, calls, field.rounds, field.device, flops=flops, peaks=peaks, errors=errors)


@torch.no_grad()
def bench_step(name: str, pictures: int, field: Field) -> list[Line]:
    """A guided step of a preset, a line a contestant; errors are those of one forward, a sample's is told after."""
    config = preset(name)
    model = ours(config, field.device)
    found, (x, t, y) = entries(model, field, 2 * pictures), inputs(config, pictures, field.device)
    exact = model(x, t, y)
    errors = {who: relative_error(entry.ask(x, t, y), exact) for who, entry in found.items()}
    calls = {who: entry.step(x, y) for who, entry in found.items()}
    flops, peaks = 4 * pictures * count(config).macs, {who: field.peak_of(who) for who in found}
    work = f"{name} guided step, {pictures}"
    lines = compete(work, calls, field.rounds, field.device, flops=flops, peaks=peaks, errors=errors)
    drawn = generate(model, y.tolist(), steps=CHECKED, cfg_scale=SCALE, seed=0)
    quick = fast(model, precision="bf16")
    error = relative_error(generate(quick, y.tolist(), steps=CHECKED, cfg_scale=SCALE, seed=0), drawn)
    print(f"  sample of {CHECKED} such steps, bf16 against fp32: error {error:.1e}")
    return lines


def relative_error(x, reference) -> float:
    """||x - reference|| / ||reference||."""
    return ((x.float() - reference).norm() / reference.norm()).item()


@torch.no_grad()
def bench_udit(batch: int, field: Field) -> list[Line]:
    """A forward of the folded U-DiT-S beside that of DiT-S/2, which has its MACs; the ratio is of time per MAC."""
    lines, precisions = [], ("fp32", "bf16")
    for precision in precisions:
        calls = {}
        for name in ("DiT-S/2", "U-DiT-S"):
            model = fast(ours(preset(name), field.device), precision=precision, compile=field.compile, batch=batch)
            x, t, y = inputs(model.config, batch, field.device)
            calls[f"{name}, {precision}"] = partial(
                model.ahead(t.unique(), y.unique()) if hasattr(model, "ahead") else model, x, t, y
            )
        lines += compete(f"U-DiT-S folded forward, {batch}, {precision}", calls, field.rounds, field.device)
    return lines
