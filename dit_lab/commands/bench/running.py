"""Whole guided runs of a trained model: seconds, and how far each sample is from that of a run of all timesteps.

Every contestant walks the same path, from the same noise to the same limit. So solvers of few steps, diffusers' caches,
which compute some steps and forecast what lies between, and half precision stand on one axis.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn

from dit_lab.checkpoints import Loaded, load
from dit_lab.commands.bench.contestants import diffusers_guided, diffusers_model
from dit_lab.commands.bench.report import FAILURES, Line, checked, compete, left_out
from dit_lab.commands.bench.sampling import relative_error
from dit_lab.diffusion import generate, how_many, process_of, quality, sample
from dit_lab.models import fast

PICTURES, STEPS, FEW, ALL, GUIDANCE = 8, 50, 14, 1000, 2.0
THRESHOLDS = 0.1, 0.2  # of the first block's change, below which the others' is taken from the step before
EVERY, ORDER = (2, 5), 1  # TaylorSeer computes each such step, its default is 5, and forecasts by a line
BRANCHES = r"transformer_blocks\.\d+\.(attn1|ff)"  # which TaylorSeer's own pattern misses in a DiT


def opened(name: str, device: torch.device) -> Loaded:
    """A checkpoint to be run. Raises ValueError where it has no classes to guide to."""
    loaded = load(name, device=device)
    if not loaded.model.config.num_classes:
        raise ValueError(f"{name} has no classes, and runs are guided to one: name a checkpoint that has")
    return loaded


@torch.no_grad()
def bench_run(name: str, loaded: Loaded, rounds: int, device: torch.device) -> list[Line]:
    """A line a way to draw `PICTURES` pictures with a checkpoint, ours in fp32 by `STEPS` of DDIM first."""
    model = loaded.model
    labels = [number % model.config.num_classes for number in range(PICTURES)]
    drawn = partial(generate, labels=labels, cfg_scale=GUIDANCE, seed=0, clip_x0=False)
    exact = drawn(model, sampler="ddim", steps=ALL)
    work, calls, lines = f"{name}, {PICTURES} guided pictures", our_runs(model, drawn, loaded.qualities), []
    if model.config.prediction == "eps" and model.config.schedule == "linear":  # what diffusers' pipeline is for
        noise = next(sample(model, labels, steps=2, seed=0)).x
        try:
            calls |= dict(their_runs(model, noise, torch.tensor(labels, device=device)))
        except FAILURES as error:
            lines.append(left_out(work, "diffusers", error))
    calls, errors = checked(calls, lambda call: (call, relative_error(call(), exact)))
    return lines + compete(work, calls, rounds, device, errors=errors)


def our_runs(model: nn.Module, drawn: Callable, own: dict) -> dict[str, Callable]:
    """Ours: in fp32, as the app begins, and fast, by the qualities by name but the paper's, whose steps draw noise."""
    quick, plain = fast(model, batch=2 * PICTURES), dict(sampler="ddim", steps=STEPS)
    named = {name: quality(name, process_of(model.config), own) for name in ("good", "draft")}
    ways = {f"DDIM {STEPS}": plain} | {
        f"{name} ({way['sampler']} {how_many(way['steps'])})": way for name, way in named.items()
    }
    found = {f"dit_lab, fp32, {told}": partial(drawn, model, **way) for told, way in [*ways.items()][:2]}
    for told, way in ways.items():
        found[f"dit_lab, fast, {quick.speed.precision}, {told}"] = partial(drawn, quick, **way)
    return found


def their_runs(model: nn.Module, noise, labels) -> Iterator[tuple[str, Callable]]:
    """diffusers' in fp32: its DDIM and DPM-Solver++, and its DDIM with each of the caches that fit a DiT."""
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
    from diffusers.hooks import FirstBlockCacheConfig, TaylorSeerCacheConfig

    options = dict(num_train_timesteps=ALL, beta_schedule="linear", timestep_spacing="trailing")
    ddim = DDIMScheduler(**options, clip_sample=False)
    plain = diffusers_model(model)
    yield f"diffusers, DDIM {STEPS}", partial(walked, plain, ddim, STEPS, noise, labels)
    yield f"diffusers, DPM++ {FEW}", partial(walked, plain, DPMSolverMultistepScheduler(**options), FEW, noise, labels)
    caches = {f"first block {threshold:g}": FirstBlockCacheConfig(threshold) for threshold in THRESHOLDS}
    caches |= {
        f"TaylorSeer {every}": TaylorSeerCacheConfig(
            cache_interval=every, max_order=ORDER, taylor_factors_dtype=torch.float32, cache_identifiers=[BRANCHES]
        )
        for every in EVERY
    }
    for told, cache in caches.items():
        cached = diffusers_model(model, cache)
        yield f"diffusers, DDIM {STEPS}, {told}", partial(walked, cached, ddim, STEPS, noise, labels)


def walked(model: nn.Module, scheduler, steps: int, x, labels) -> torch.Tensor:
    """A run as diffusers' DiTPipeline takes it, from the noise `x: b c h w` to the sample `b c h w`."""
    scheduler.set_timesteps(steps)
    with model.cache_context("run"):
        for time in scheduler.timesteps:
            x = diffusers_guided(model, scheduler, time, x, labels, GUIDANCE)
    model._reset_stateful_cache()
    return x
