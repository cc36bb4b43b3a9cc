"""The same network, the same random weights, as each library runs it: ours, diffusers' and the original's.

The original is a checkout that the user names; it is imported as it is and nothing of it is ours.
"""

import importlib
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import torch
from einops import repeat
from torch import nn

from dit_lab.checkpoints.diffusers_dit import to_theirs as to_diffusers
from dit_lab.checkpoints.meta_dit import to_theirs as to_original
from dit_lab.commands.bench.timing import stirred
from dit_lab.models import DiTConfig, build

SCALE = 4.0  # of guidance, as the paper's pictures are drawn


def ours(config: DiTConfig, device: torch.device) -> nn.Module:
    """Our model with random weights that are nowhere zero, the same at every call."""
    torch.manual_seed(0)
    return stirred(build(config)).to(device).eval().requires_grad_(False)


def diffusers_model(model: nn.Module, cache=None) -> nn.Module:
    """diffusers' DiTTransformer2DModel with a model's weights, and maybe one of its caches, by the cache's config.

    Raises ImportError where diffusers is not installed.

    Its timestep's frequencies are set to the paper's, so that an error is one of arithmetic; by itself it takes others.
    """
    from diffusers import CacheMixin, DiTTransformer2DModel

    class Caching(DiTTransformer2DModel, CacheMixin):
        """Which in diffusers only later transformers are."""

    config = model.config
    theirs = Caching(
        num_attention_heads=config.heads, attention_head_dim=config.dim // config.heads, num_layers=config.depth,
        patch_size=config.patch_size, sample_size=config.size[0], in_channels=config.in_channels,
        out_channels=config.out_channels, num_embeds_ada_norm=config.num_classes,
    )  # fmt: skip
    theirs.load_state_dict(to_diffusers(model.state_dict(), config))
    for block in theirs.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    if cache is not None:
        theirs.enable_cache(cache)
    return theirs.to(next(model.parameters()).device).eval().requires_grad_(False)


def original_model(model: nn.Module, checkout: Path) -> nn.Module:
    """facebookresearch/DiT's network with a model's weights. Raises ImportError where it, or its timm, is not there."""
    with importable(checkout, "models") as models:
        config = model.config
        theirs = models.DiT(
            input_size=config.size[0], patch_size=config.patch_size, in_channels=config.in_channels,
            hidden_size=config.dim, depth=config.depth, num_heads=config.heads, num_classes=config.num_classes,
        )  # fmt: skip
    theirs.load_state_dict(to_original(model.state_dict(), config))
    return theirs.to(next(model.parameters()).device).eval().requires_grad_(False)


@contextmanager
def importable(checkout: Path, module: str):
    """A module of the original's checkout, which is a folder of scripts and no package."""
    if not (checkout / f"{module}.py").exists() and not (checkout / module).is_dir():
        raise ValueError(f"{checkout} is no checkout of facebookresearch/DiT: it has no {module}")
    sys.path.insert(0, str(checkout))
    try:
        yield importlib.import_module(module)
    finally:
        sys.path.remove(str(checkout))


def autocast(call: Callable, device: torch.device) -> Callable:
    """`call` with products in bf16 where that is safe."""
    return lambda *inputs: torch.autocast(device.type, torch.bfloat16)(call)(*inputs)


def original_step(model: nn.Module, checkout: Path, x, y) -> Callable:
    """One guided step as the original's sample.py takes it, by DDIM: `() -> b c h w`."""
    with importable(checkout, "diffusion") as package:
        diffusion = package.create_diffusion("50")
    null = torch.full_like(y, model.y_embedder.num_classes)
    kwargs = dict(y=torch.cat([y, null]), cfg_scale=SCALE)
    doubled, t = torch.cat([x, x]), torch.full((2 * len(y),), 30, device=x.device)
    step = lambda: diffusion.ddim_sample(
        model.forward_with_cfg, doubled, t, clip_denoised=False, model_kwargs=kwargs, eta=0.0
    )
    return lambda: step()["sample"][: len(y)]


def diffusers_step(model: nn.Module, x, y) -> Callable:
    """One guided step as diffusers' DiTPipeline takes it, by DDIM: `() -> b c h w`."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(num_train_timesteps=1000, beta_schedule="linear", clip_sample=False)
    scheduler.set_timesteps(50)
    return lambda: diffusers_guided(model, scheduler, scheduler.timesteps[20], x, y, SCALE)


def diffusers_guided(model: nn.Module, scheduler, time, x, y, scale: float) -> torch.Tensor:
    """A scheduler's step from `x: b c h w` at one of its timesteps, guided towards `y: b`: `-> b c h w`."""
    channels, null = x.shape[1], torch.full_like(y, model.config.num_embeds_ada_norm)
    doubled = scheduler.scale_model_input(torch.cat([x, x]), time)
    labels, t = torch.cat([y, null]), repeat(time.to(x.device), "-> b", b=len(doubled))
    noise = model(doubled.to(model.dtype), timestep=t, class_labels=labels).sample.float()
    cond, uncond = noise[:, :channels].chunk(2)
    return scheduler.step(uncond + scale * (cond - uncond), time, x).prev_sample
