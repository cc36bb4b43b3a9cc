"""`python -m dit_lab.zoo.vae --data uoft-cs/cifar10 --out dit_lab/zoo/cifar10_vae`: the zoo's small VAE, made again.

diffusers' AutoencoderKL, f = 4: 32 x 32 x 3 pixels become 8 x 8 x 4 latents, a twelfth of the numbers. The loss is the
mean squared error, whose minimum is the highest PSNR, plus a small KL divergence from the standard normal distribution
(arXiv 1312.6114, appendix B) that keeps latents near unit size and gives neighbours of a latent nearly its picture.
There is no perceptual or adversarial loss, which need networks of their own: what does not fit is blurred.
"""

import json
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from einops import reduce
from torch import nn
from tqdm.auto import tqdm

from dit_lab.checkpoints.places import STATE
from dit_lab.data import Autoencoder, open_data, open_vae
from dit_lab.data.previews import PREVIEW, fit_preview
from dit_lab.data.vaes import FILES
from dit_lab.files import atomic, write_json, write_tensors
from dit_lab.models import pick_device
from dit_lab.program import run, stop, stop_flag
from dit_lab.training.batches import order
from dit_lab.training.folder import keep_state, log, open_folder
from dit_lab.training.state import TrainState

LOG_EVERY = 50
BATCH = 500


@dataclass(frozen=True)
class VaeOptions:
    """What a run does."""

    steps: int = 7_000
    """Optimiser steps in all; the learning rate has fallen to 0 by then."""
    batch_size: int = 32
    """Pictures a step."""
    lr: float = 1e-3
    """Learning rate of AdamW at its height; it falls to 0 as half a cosine."""
    warmup: int = 200
    """Steps over which the learning rate rises linearly from 0."""
    kl_weight: float = 5e-4
    """Weight of the KL divergence (nats a latent value) beside the mean squared error of pixels in [-1, 1]."""
    ema_decay: float = 0.998
    """Decay of the weights' moving average, which is what is kept."""
    seed: int = 0
    """Fixes the first weights, the data order, the flips and the noise."""
    save_every: int = 250
    """Steps between states to resume from."""
    widths: tuple[int, ...] = (24, 48, 96)
    """Channels at each resolution, from the picture's to the latent's."""
    latent_channels: int = 4
    """Channels of the latents."""


def vae_command(
    options: Annotated[VaeOptions, tyro.conf.arg(name="")] = VaeOptions(),  # noqa: B008
    *,
    data: str = "uoft-cs/cifar10",
    out: Path,
    device: str = "auto",
    resume: bool = False,
) -> None:
    """Train the VAE, then measure it and write it in diffusers' format. Ctrl-C (or SIGTERM) saves; --resume continues.

    Args:
        options: The run.
        data: Pictures with a train and a test split: a hub id or a local folder.
        out: Folder for the VAE; until it is done, also for the state to resume from.
        device: cpu, cuda, mps, or auto.
        resume: Continue the run in `out`; with no more steps than it has, it is only measured and written.
    """
    if not resume and (out / FILES[1]).exists():
        raise ValueError(f"{out} already holds a VAE; choose another folder")
    torch.manual_seed(options.seed)
    state = TrainState.fresh(new_vae(options).to(pick_device(device)), options.lr, (options.ema_decay,))
    images, test = (open_data(data, split=split) for split in ("train", "test"))
    with open_folder(out, state, identity(options, images), resume, {"data": images.fingerprint}):
        with stop_flag() as stopped:
            train_vae(state, images, options, out, stopped)
        if stopped and state.step < options.steps:
            stop(f"stopped and saved in {out}; the same command with --resume continues", 128 + stopped[0])
        finish(state.averaged(), images, test, out)
        (out / STATE).unlink()


def new_vae(options: VaeOptions) -> nn.Module:
    """A fresh AutoencoderKL: one residual block a resolution and no attention, which 8 x 8 latents do without."""
    from diffusers import AutoencoderKL

    levels = len(options.widths)
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * levels, up_block_types=["UpDecoderBlock2D"] * levels,
        block_out_channels=options.widths, latent_channels=options.latent_channels, layers_per_block=1,
        norm_num_groups=8, mid_block_add_attention=False, sample_size=32,
    )  # fmt: skip


def identity(options: VaeOptions, images) -> dict:
    """What makes a run this one and no other."""
    fixed = {name: value for name, value in asdict(options).items() if name not in ("steps", "save_every")}
    return {"option": fixed, "data": images.fingerprint}


def train_vae(state: TrainState, images, options: VaeOptions, out: Path, stopped: list) -> None:
    """Take the steps that are left, saving now and then, and when `stopped` holds a signal."""
    interval = 0.5 if sys.stderr.isatty() else 30
    saved = state.step
    with tqdm(total=options.steps, initial=state.step, unit="step", mininterval=interval) as bar:
        while state.step < options.steps and not stopped:
            state.recent.append(figures := advance(state, images, options))
            bar.set_postfix_str(", ".join(f"{name} {value:.4g}" for name, value in figures.items()), refresh=False)
            bar.update()
            if state.step % LOG_EVERY == 0 or state.step == options.steps:
                log(out, state)
            if state.step % options.save_every == 0:
                keep_state(out, state, identity(options, images))
                saved = state.step
    if state.step > saved:
        keep_state(out, state, identity(options, images))


def advance(state: TrainState, images, options: VaeOptions) -> dict[str, float]:
    """One optimiser step. What is random in it depends on (seed, step) alone, so that a resumed run repeats it."""
    start, step = time.perf_counter(), state.step
    seed = np.random.SeedSequence([options.seed, step]).generate_state(1, np.uint64)[0]
    random = torch.Generator().manual_seed(int(seed >> np.uint64(1)))
    places = order(len(images), options.seed, step * options.batch_size, options.batch_size)
    x, _ = images.batch(places, torch.rand(len(places), generator=random) < 0.5)
    x = x.to(next(state.model.parameters()).device, memory_format=torch.channels_last)  # a fifth faster on CPUs
    rise = min(1.0, (step + 1) / max(1, options.warmup))
    for group in state.optimiser.param_groups:
        group["lr"] = options.lr * rise * (1 + math.cos(math.pi * min(1.0, step / options.steps))) / 2
    posterior = state.model.train().encode(x).latent_dist
    mse = (state.model.decode(posterior.sample(random)).sample - x).square().mean()
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    loss = mse + options.kl_weight * kl
    state.optimiser.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
    if not (loss.isfinite() and norm.isfinite()):
        raise ValueError(f"the loss or its gradient turned NaN or infinite at step {step + 1}; try a lower --lr")
    state.optimiser.step()
    state.step += 1
    state.average()
    rate = len(x) / (time.perf_counter() - start)
    return {"loss": loss.item(), "mse": mse.item(), "kl": kl.item(), "images_per_second": rate}


def finish(vae: nn.Module, train, test, out: Path) -> None:
    """Write the VAE with its scaling factor and its linear preview; `figures.json` is measured on what is written."""
    weights = {name: tensor.half() for name, tensor in vae.state_dict().items()}
    vae.load_state_dict(weights)
    vae.register_to_config(scaling_factor=1.0)
    mean, std, small = latents_of(Autoencoder(vae.eval()), train)
    scaling = round((mean.var() + std.square().mean()).rsqrt().item(), 5)  # to unit size, drawn for a random picture
    vae.register_to_config(scaling_factor=scaling)
    preview = fit_preview(mean * scaling, small)
    write_json(out / PREVIEW, {"weight": preview.weight.tolist(), "bias": preview.bias.tolist()})
    with atomic(out / FILES[0]) as partial:
        partial.write_text(vae.to_json_string())
    write_tensors(out / FILES[1], weights, {})
    errors = squared_errors(Autoencoder(open_vae(str(out))), test)
    over = lambda x: reduce(x.double(), "n c h w -> c", "mean")
    total = over(mean.square()) - over(mean).square() + over(std.square())
    channels = {"latent_mean": over(mean), "latent_std": total.sqrt(), "posterior_std": over(std)}
    figures = {
        "parameters": sum(tensor.numel() for tensor in weights.values()), "scaling_factor": scaling,
        "test_pictures": len(test), "psnr_mean_over_pictures": psnr(errors).mean().item(),
        "psnr_of_mean_squared_error": psnr(errors.mean()).item(),
        "preview_rmse": (preview.decode(mean * scaling) - small).square().mean().sqrt().item(),
        **{name: [round(value, 4) for value in (x * scaling).tolist()] for name, x in channels.items()},
    }  # fmt: skip
    write_json(out / "figures.json", figures)
    print(json.dumps(figures, indent=2))


def latents_of(codec: Autoencoder, images):
    """Of all pictures, the latents and the pictures pooled to their size: `-> (n c h w, n c h w, n 3 h w)`."""
    found = []
    for x in batches(images, "latents"):
        mean, std = codec.moments(x)
        found.append((mean, std, reduce(x, "b c (h p) (w q) -> b c h w", "mean", h=mean.shape[-2], w=mean.shape[-1])))
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def squared_errors(codec: Autoencoder, images):
    """Each picture's mean squared error once rebuilt from its mean latent and rounded to 8 bits, in [0, 1]: `-> n`."""
    bits = lambda x: ((x + 1) * 127.5).round() / 255
    found = [
        reduce((bits(codec.decode(codec.encode(x))) - bits(x)).square(), "b c h w -> b", "mean")
        for x in batches(images, "rebuilding")
    ]
    return torch.cat(found)


def psnr(error):
    """Peak signal-to-noise ratio in dB of mean squared errors of pictures in [0, 1]."""
    return -10 * error.log10()


def batches(images, what: str):
    """All pictures in order, a batch at a time: `b c h w`, under a bar."""
    for start in tqdm(range(0, len(images), BATCH), desc=what, unit="batch", mininterval=1):
        yield images.batch(range(start, min(start + BATCH, len(images))))[0]


if __name__ == "__main__":
    run(vae_command, "dit_lab.zoo.vae")
