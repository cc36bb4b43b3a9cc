"""A training step, from the batch to the moved average, as each code base takes it: forward, backward, AdamW, EMA.

Contestants of one code base share weights and gradients, so that all of them fit on a device: the learning rate is too
small to move a weight. The error is that of the first step's gradient against the same code's in fp32.
"""

from collections.abc import Callable
from copy import deepcopy
from functools import partial

import torch
from torch import nn
from torch.nn.utils import get_total_norm

from dit_lab.commands.bench.contestants import autocast, diffusers_model, importable, original_model, ours
from dit_lab.commands.bench.report import FAILURES, Line, checked, in_time, left_out
from dit_lab.commands.bench.sampling import Field, in_tf32, inputs, latents
from dit_lab.commands.bench.timing import stirred
from dit_lab.models import DiTConfig, build, count, preset
from dit_lab.training import TrainOptions, train

ENDLESS = 2**40  # steps
LR = 1e-12  # times Adam's largest step of 1, below the last digit of all weights but those next to 0
DECAY = 0.9999


class Noise:
    """As many random latents as a bench needs, by the interface of `Images`."""

    codec, fingerprint = "latents", {"latents": "random"}

    def __init__(self, config: DiTConfig, count: int):
        self.shape, self.names = (config.in_channels, *config.size), [str(label) for label in range(config.num_classes)]
        self.latents = torch.randn(count, *self.shape, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.latents)

    def batch(self, places, mirrored, fresh):
        """The latents at some places and their labels: `-> b c h w, b`."""
        places = torch.as_tensor(places)
        return self.latents[places], places % len(self.names)


def bench_training(names: tuple[str, ...], batch: int, field: Field) -> list[Line]:
    """A line a contestant for each preset, of `batch` latents (0: 8 for DiT-S/2, else 4); who cannot run says why."""
    lines = []
    for name in names:
        config = preset(name)
        size = batch or latents(name)
        work, calls, errors = f"{name} training step, {size}", {}, {}
        for code, party in PARTIES.items():
            try:
                in_time(field.until)
                found, wrong = party(config, size, field)
            except FAILURES as error:
                lines.append(left_out(work, code, error))
                continue
            calls, errors = calls | found, errors | wrong
        lines += field.race(work, calls, flops=6 * size * count(config).macs, errors=errors)
        calls.clear()
        if field.device.type == "cuda":
            torch.cuda.empty_cache()
    return lines


def original_party(config: DiTConfig, batch: int, field: Field) -> tuple[dict[str, Callable], dict[str, float]]:
    """The original's step at its default, TF32 products on a GPU, and under autocast; nobody without a checkout."""
    if not field.original:
        return {}, {}
    model = original_model(ours(config, field.device), field.original).requires_grad_(True).train()
    model.pos_embed.requires_grad_(False)
    step = original_training(model, config, batch, field)
    ways = {
        "original, its default (fp32)": in_tf32(step),
        "original, autocast bf16": autocast(step, field.device),
    }
    return compared(ways, model, gradients(model, step), field)


def diffusers_party(config: DiTConfig, batch: int, field: Field) -> tuple[dict[str, Callable], dict[str, float]]:
    """A step with diffusers' model, in fp32 and under autocast."""
    model = diffusers_model(ours(config, field.device)).requires_grad_(True).train()
    step = diffusers_training(model, config, batch, field.device)
    ways = {"diffusers, fp32": step, "diffusers, autocast bf16": autocast(step, field.device)}
    if field.device.type == "cuda":
        del ways["diffusers, fp32"]
    return compared(ways, model, gradients(model, step), field)


def our_party(config: DiTConfig, batch: int, field: Field) -> tuple[dict[str, Callable], dict[str, float]]:
    """Our step in fp32, under autocast and compiled, by the loop that people run."""
    torch.manual_seed(0)
    model = stirred(build(config)).to(field.device)
    exact, ways = gradients(model, stepping(model, config, batch, "fp32")), {}
    if field.device.type != "cuda":
        ways["dit_lab, fp32"] = stepping(model, config, batch, "fp32")
    ways["dit_lab, bf16"] = stepping(model, config, batch, "bf16")
    for precision in ("bf16",) if field.device.type == "cuda" else ("fp32", "bf16"):
        if field.compile:
            ways[f"dit_lab, {precision}, compiled"] = stepping(model, config, batch, precision, compile=True)
    return compared(ways, model, exact, field)


PARTIES = {"original": original_party, "diffusers": diffusers_party, "dit_lab": our_party}


def stepping(model: nn.Module, config: DiTConfig, batch: int, precision: str, compile: bool = False) -> Callable:
    """The next step of a run without end, as the original's recipe: on the model's weights, with modules of its own."""
    mine = deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
    options = TrainOptions(
        steps=ENDLESS, batch_size=batch, lr=LR, precision=precision, compile=compile, clip=None, ema_warmup=False
    )
    return partial(next, train(mine, Noise(config, 8 * batch), options))


def compared(
    ways: dict[str, Callable], model: nn.Module, exact: list[torch.Tensor], field: Field
) -> tuple[dict[str, Callable], dict[str, float]]:
    """The contestants of a code base, and the errors of their gradients; one that fails does so again when run."""
    return checked(field.taken(ways), lambda step: (step, relative_error(gradients(model, step), exact)), field.until)


def gradients(model: nn.Module, step: Callable) -> list[torch.Tensor]:
    """What a step leaves at each parameter, always from the same random numbers, on the CPU."""
    torch.manual_seed(0)
    step()
    return [parameter.grad.cpu().clone() for parameter in model.parameters() if parameter.grad is not None]


def relative_error(found: list[torch.Tensor], exact: list[torch.Tensor]) -> float:
    """||g - exact|| / ||exact|| over all parameters."""
    wrong = [x - y for x, y in zip(found, exact, strict=True)]
    return (get_total_norm(wrong) / get_total_norm(exact)).item()


def original_training(model: nn.Module, config: DiTConfig, batch: int, field: Field) -> Callable:
    """A step as the original's train.py takes it, for a batch that is on the device already."""
    with importable(field.original, "diffusion") as package:
        diffusion = package.create_diffusion("")
    average = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimiser = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0)
    x, _, y = inputs(config, batch, field.device)

    def step():
        t = torch.randint(0, diffusion.num_timesteps, (len(x),), device=x.device)
        loss = diffusion.training_losses(model, x, t, dict(y=y))["loss"].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                average[name].mul_(DECAY).add_(parameter, alpha=1 - DECAY)
        return loss.item()

    return step


def diffusers_training(model: nn.Module, config: DiTConfig, batch: int, device: torch.device) -> Callable:
    """A step of AdamW on the error of eps, and of diffusers' average; diffusers has no script that trains a DiT."""
    from diffusers.training_utils import EMAModel

    average = EMAModel(model.parameters(), decay=DECAY, foreach=True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0)
    x, t, y = inputs(config, batch, device)

    def step():
        eps = torch.randn_like(x)
        output = model(0.5 * x + 0.5 * eps, timestep=t, class_labels=y).sample[:, : x.shape[1]]
        loss = (output - eps).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        average.step(model.parameters())
        return loss.item()

    return step
