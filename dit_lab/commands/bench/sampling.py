"""Where people wait: a forward, and a guided step of sampling, of the same network in each library."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

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
from dit_lab.commands.bench.report import FAILURES, Line, checked, compete, late, left_out, note, reason
from dit_lab.commands.bench.timing import peak
from dit_lab.diffusion import generate, sample
from dit_lab.models import DiTConfig, count, fast, preset

STEPS = 50
CHECKED = 10  # steps of the run whose sample tells what fast costs in the end


@dataclass(frozen=True)
class Field:
    """What a bench of sampling is run on: the device, its rounds, its peaks by dtype, and the original's checkout.

    `about` is what is kept of the bench beside its lines; what it finds out more goes there. Nothing is to begin after
    `until`, by `time.monotonic`.
    """

    device: torch.device
    rounds: int
    original: Path | None
    compile: bool
    peaks: dict[torch.dtype, float]
    about: dict = field(default_factory=dict)
    until: float = math.inf

    @classmethod
    def measured(
        cls, device, rounds: int, original: Path | None, compile: bool, about: dict, until: float = math.inf
    ) -> "Field":
        """With the peaks of this machine, as they are now, which `about` will tell too."""
        peaks = {dtype: peak(device, dtype) for dtype in (torch.float32, torch.bfloat16)}
        for dtype, most in peaks.items():
            name = str(dtype).removeprefix("torch.")
            note(about, f"peak of {name} matrix products", f"{most / 1e12:.3g} TFLOP/s")
        found = cls(device, rounds, original, compile, peaks, about, until)
        if not found.gains_by_half:
            note(about, "contestants in bf16", "left out: this machine multiplies no faster in it than in fp32")
        return found

    @property
    def gains_by_half(self) -> bool:
        """Whether bf16 is worth measuring here."""
        return self.peaks[torch.bfloat16] > self.peaks[torch.float32]

    def taken(self, ways: dict[str, Any]) -> dict[str, Any]:
        """Those that are measured here, by who they are: nobody in bf16 where that is the slower one."""
        return {who: way for who, way in ways.items() if self.gains_by_half or "bf16" not in who}

    def race(self, work: str, calls: dict[str, Callable], **known) -> list[Line]:
        """A line a contestant; `known` are `flops` and `errors`, where they are."""
        peaks = {who: self.peak_of(who) for who in calls}
        return compete(work, calls, self.rounds, self.device, peaks=peaks, until=self.until, **known)

    def peak_of(self, who: str) -> float:
        """The peak that a contestant is held to: that of the precision which its name says."""
        return self.peaks[torch.float32 if "fp32" in who else torch.bfloat16]


@dataclass(frozen=True)
class Entry:
    """A contestant: its network as `ask(x, t, y) -> out`, and a guided step, `step(x, y) -> call`."""

    ask: Callable
    step: Callable


def entries(work: str, model: nn.Module, field: Field, batch: int) -> tuple[dict[str, Entry], list[Line]]:
    """Who takes part in a work, the original first where it is there, and a line for each code base that cannot."""
    found, lines = {}, []
    for code, party in PARTIES.items():
        try:
            found |= field.taken(party(model, field, batch))
        except FAILURES as error:
            lines.append(left_out(work, code, error))
    return found, lines


def original_party(model: nn.Module, field: Field, batch: int) -> dict[str, Entry]:
    """The original at its default, TF32 products on a GPU, and under autocast; nobody without a checkout."""
    if not field.original:
        return {}
    theirs, device = original_model(model, field.original), field.device
    ask = lambda x, t, y: theirs(x, t, y)
    step = lambda x, y: original_step(theirs, field.original, x, y)
    return {
        "original, its default (fp32)": Entry(in_tf32(ask), lambda x, y: in_tf32(step(x, y))),
        "original, autocast bf16": Entry(autocast(ask, device), lambda x, y: autocast(step(x, y), device)),
    }


def diffusers_party(model: nn.Module, field: Field, batch: int) -> dict[str, Entry]:
    """diffusers' model in fp32 and under autocast."""
    theirs, device = diffusers_model(model), field.device
    ask = lambda x, t, y: theirs(x, timestep=t, class_labels=y).sample
    step = lambda x, y: diffusers_step(theirs, x, y)
    return {
        "diffusers, fp32": Entry(ask, step),
        "diffusers, autocast bf16": Entry(autocast(ask, device), lambda x, y: autocast(step(x, y), device)),
    }


def our_party(model: nn.Module, field: Field, batch: int) -> dict[str, Entry]:
    """Ours, each named with the precision of its products: as it is, fast, and compiled where that is asked for."""
    plain, device = fast(model, precision="fp32"), field.device
    found = {"dit_lab, fp32": Entry(plain, lambda x, y: our_step(plain, y))}
    for compiles in (False, True) if field.compile else (False,):
        for name in ("bf16",) if device.type == "cuda" else ("fp32", "bf16"):
            if name == "fp32" and not compiles:
                continue
            quick = fast(model, precision=name, compile=compiles, batch=batch)
            found[f"dit_lab, fast, {name}{', compiled' * compiles}"] = Entry(
                partial(asked_ahead, quick), lambda x, y, quick=quick: our_step(quick, y)
            )
    return found


PARTIES = {"original": original_party, "diffusers": diffusers_party, "dit_lab": our_party}


def asked_ahead(model: nn.Module, x, t, y):
    """A forward as a run asks for it, what is made ahead of the run included."""
    return ready(model, x, t, y)()


def ready(model: nn.Module, x, t, y) -> Callable:
    """A forward as a run's steps ask for it, what is made ahead of the run made already."""
    return partial(model.ahead(t.unique(), y.unique()) if hasattr(model, "ahead") else model, x, t, y)


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
    config, work = preset(name), f"{name} forward, {batch}"
    model = ours(config, field.device)
    (found, lines), (x, t, y) = entries(work, model, field, batch), inputs(config, batch, field.device)
    exact = model(x, t, y)
    ways = {who: partial(entry.ask, x, t, y) for who, entry in found.items()}
    calls, errors = checked(ways, lambda call: (call, relative_error(call(), exact)), field.until)
    return lines + field.race(work, calls, flops=2 * batch * count(config).macs, errors=errors)


@torch.no_grad()
def bench_trained(name: str, model: nn.Module, batch: int, field: Field) -> list[Line]:
    """A forward of a trained model as a run's steps ask for it, with its tables made: as it is, fast, and compiled."""
    work, (x, t, y) = f"{name} forward, {batch}", inputs(model.config, batch, field.device)
    exact = model(x, t, y)
    made = {"dit_lab, fp32": lambda: model}
    if getattr(model.config, "mlp", None) == "reparameterised":
        made["dit_lab, fast, fp32"] = partial(fast, model, precision="fp32")  # folded; of others that is the model
    for precision in ("fp32", "bf16") if field.compile else ():
        made[f"dit_lab, fast, {precision}, compiled"] = partial(fast, model, precision=precision, compile=True)
    made["dit_lab, fast, bf16"] = partial(fast, model, precision="bf16")

    def check(make):
        quick = make()
        call = ready(quick, x, t, y)
        return call, relative_error(call(), exact)

    calls, errors = checked(field.taken(made), check, field.until)
    return field.race(work, calls, flops=2 * batch * count(model.config).macs, errors=errors)


@torch.no_grad()
def bench_step(name: str, pictures: int, field: Field) -> list[Line]:
    """A guided step of a preset, a line a contestant; errors are those of one forward, and a sample's is noted."""
    config, work = preset(name), f"{name} guided step, {pictures}"
    model = ours(config, field.device)
    (found, lines), (x, t, y) = entries(work, model, field, 2 * pictures), inputs(config, pictures, field.device)
    exact = model(x, t, y)
    check = lambda entry: (entry.step(x, y), relative_error(entry.ask(x, t, y), exact))
    calls, errors = checked(found, check, field.until)
    lines += field.race(work, calls, flops=4 * pictures * count(config).macs, errors=errors)
    if late(field.until) or not field.gains_by_half:
        return lines
    drawn = partial(generate, labels=y.tolist(), steps=CHECKED, cfg_scale=SCALE, seed=0)
    try:
        error = f"{relative_error(drawn(fast(model, precision='bf16')), drawn(model)):.1e}"
    except FAILURES as failed:  # the lines are there, and stay
        error = f"none, {reason(failed)}"
    note(
        field.about, f"error of a sample of {CHECKED} guided steps, bf16 against fp32", f"{error} ({name}, {pictures})"
    )
    return lines


def relative_error(x, reference) -> float:
    """||x - reference|| / ||reference||."""
    return ((x.float() - reference).norm() / reference.norm()).item()


@torch.no_grad()
def bench_udit(batch: int, field: Field) -> list[Line]:
    """A forward of the folded U-DiT-S beside that of DiT-S/2, which has its MACs; the ratio is of time per MAC."""
    lines = []
    for precision in field.taken(dict.fromkeys(("fp32", "bf16"))):
        calls = {}
        for name in ("DiT-S/2", "U-DiT-S"):
            model = fast(ours(preset(name), field.device), precision=precision, compile=field.compile, batch=batch)
            x, t, y = inputs(model.config, batch, field.device)
            calls[f"{name}, {precision}"] = ready(model, x, t, y)
        lines += field.race(f"U-DiT-S folded forward, {batch}, {precision}", calls)
    return lines
