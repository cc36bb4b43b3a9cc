"""Training a small KL autoencoder (diffusers' AutoencoderKL) on pictures of one's own: the network, its loss, its loop.

A DiT works in the latents of such a VAE (DiT paper, section 3.1; arXiv 2112.10752). The loss is the error of the
rebuilt pixels plus a small KL divergence of the latents from the standard normal distribution (arXiv 1312.6114,
appendix B). There is no perceptual and no adversarial loss: what does not fit into the latents is blurred. What a run
leaves in its folder is `rebuilding`'s.
"""

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dit_lab.data import Images
from dit_lab.data.vaes import FILES, factor_of
from dit_lab.files import checksum
from dit_lab.training.batches import order, parts
from dit_lab.training.folder import birth, keep_state, log, open_folder
from dit_lab.training.parallel import mean, processes
from dit_lab.training.rebuilding import coloured, write_vae
from dit_lab.training.state import TrainState
from dit_lab.training.train import NonFiniteLoss, during
from dit_lab.training.vae_options import VaeOptions

LOG_EVERY = 50
LOGGED = ("loss", "error", "kl", "gradient_norm", "images_per_second")
DECODER = ("decoder", "post_quant_conv")
GROUPS = 8  # of channels that are normed together, as in the zoo's VAE
SMALLEST = 8  # latents along a side that a factor should leave, where none is asked for
QUICK = 256  # pictures that are measured in the middle of a run


@dataclass(frozen=True)
class VaeStep:
    """What one optimiser step did: means over the whole batch, `kl` in nats a number of the latent."""

    step: int
    loss: float
    error: float
    kl: float
    gradient_norm: float
    lr: float
    images_per_second: float

    @property
    def told(self) -> str:
        """What a bar says of it."""
        return f"error {self.error:.4f}, kl {self.kl:.3f}, {self.images_per_second:.0f} images/s"


class Rebuilding(nn.Module):
    """The parts of a VAE that are trained, all or what decodes, by their names in it; forward goes through the whole.

    `x: b c h w, eps: latents' b c h w -> rebuilt: b c h w, kl: a number`.
    """

    def __init__(self, vae: nn.Module, decoder_only: bool):
        super().__init__()
        self.whole, self.decoder_only = (vae,), decoder_only  # in a tuple: not all of its weights are ours
        for name, part in vae.named_children():
            if not decoder_only or name in DECODER:
                self.add_module(name, part.requires_grad_(True))

    def forward(self, x, eps):
        [vae] = self.whole
        vae.use_tiling = False
        with torch.no_grad() if self.decoder_only else nullcontext():
            latents = vae.encode(x).latent_dist
            average, log_variance = latents.mean.float(), latents.logvar.float()
            kl = (average.square() + log_variance.exp() - 1 - log_variance).mean() / 2
        return vae.decode(average + (log_variance / 2).exp() * eps).sample.float(), kl


def new_vae(
    shape: tuple[int, int, int], *, factor: int | None = None, width: int = 32, latent_channels: int = 4
) -> nn.Module:
    """A fresh AutoencoderKL for pictures of `shape` (c h w): one residual block a level, no attention.

    `factor` is how many pixels a latent has along each side, by default the largest of 8, 4 and 2 that leaves 8 latents
    along each; `width` is the channels at the pictures' size, which double with every halving, up to four times as
    many. Raises ValueError.
    """
    from diffusers import AutoencoderKL  # here: it takes seconds

    if width < GROUPS or width % GROUPS:
        raise ValueError(f"width must be a multiple of {GROUPS}, not {width}")
    if latent_channels < 1:
        raise ValueError(f"latent_channels must be at least 1, not {latent_channels}")
    if factor is None:
        leaves = lambda factor: all(side % factor == 0 and side // factor >= SMALLEST for side in shape[1:])
        factor = next(filter(leaves, (8, 4, 2)), 2)
    levels = int(math.log2(factor)) + 1
    check_sides(shape, factor)
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * levels, up_block_types=["UpDecoderBlock2D"] * levels,
        block_out_channels=[width * min(2**level, 4) for level in range(levels)], latent_channels=latent_channels,
        layers_per_block=1, norm_num_groups=GROUPS, mid_block_add_attention=False, sample_size=max(shape[1:]),
        scaling_factor=1.0,
    )  # fmt: skip


def check_sides(shape: tuple[int, int, int], factor: int) -> None:
    """Raise ValueError on pictures of a `shape` (c h w) that a VAE of this factor cannot halve evenly."""
    if any(side % factor for side in shape[1:]):
        h, w = shape[1:]
        raise ValueError(
            f"pictures of {h} x {w} (h w) do not divide by the VAE's factor {factor}; give a --size that does, such as "
            f"{max(factor, min(h, w) // factor * factor)}"
        )


def split_off(total: int, options: VaeOptions) -> tuple[np.ndarray, np.ndarray]:
    """Places of the pictures that are trained on, and of those held back, drawn by the seed. Raises ValueError."""
    count = max(1, round(total * options.held_back))
    if count >= total:
        raise ValueError(f"of {total} picture{'s' * (total > 1)} {count} cannot be held back; give more pictures")
    places = np.random.default_rng([options.seed, total]).permutation(total)
    return np.sort(places[count:]), np.sort(places[:count])


def train_vae(
    vae: nn.Module, images: Images, options=VaeOptions(), *, out, decoder_only: bool = False, resume: bool = False  # noqa: B008
) -> Iterator[VaeStep]:  # fmt: skip
    """Train an AutoencoderKL, or its decoder alone, on pictures, yielding a `VaeStep` after each optimiser step.

    In `out` is at every checkpoint, at the end, and when the caller stops early, the averaged VAE in diffusers' format
    with its figures and rebuilt pictures (`write_vae`), the state to `resume` from, bit-exactly on a CPU, and the loss
    log. With `decoder_only` no bit of the encoder changes, nor of its scaling: latents made before stay right. Under a
    launcher every process calls it alike. Raises ValueError, before any work, on what does not go together and on a
    folder that does not fit; NonFiniteLoss when training diverges.
    """
    out = Path(out)
    if not isinstance(images, Images):
        raise ValueError("a VAE is trained on pictures; these are latents already")
    if type(vae).__name__ != "AutoencoderKL":
        raise ValueError(f"an {type(vae).__name__} has no distribution of latents; give an AutoencoderKL")
    check_sides(images.shape, factor_of(vae))
    if not resume and (out / FILES[1]).exists():
        raise ValueError(f"{out} already holds a VAE ({FILES[1]}); continue it with --resume or choose another folder")
    places, crew = split_off(len(images), options), processes()
    share = parts(options.plan, crew.process_index, crew.num_processes)[0]
    model = Rebuilding(vae, decoder_only)
    run = identity(model, images, options)
    start = birth(out, model)
    state = TrainState.fresh(model, options.plan.lr, (options.ema_decay,))
    held = open_folder(out, state, run | start, resume)
    return during(held, loop(state, model, images, places, options, share, out, run))


def identity(model: Rebuilding, images: Images, options: VaeOptions) -> dict:
    """What makes a run this one and no other, as JSON; with the decoder alone also the encoder's weights."""
    [vae] = model.whole
    told = "block_out_channels", "latent_channels", "layers_per_block", "norm_num_groups", "mid_block_add_attention"
    about = {name: vae.config[name] for name in told} | {"decoder_only": model.decoder_only}
    if model.decoder_only:
        about["encoder"] = checksum(vae.encoder.state_dict())
    return {"option": options.fixed, "model": about, "data": images.fingerprint}


def loop(state: TrainState, model, images, places, options: VaeOptions, share: slice, out: Path, run: dict):
    """The training loop behind `train_vae`, its folder prepared and its state restored."""
    saved, [vae] = state.step, model.whole
    vae.requires_grad_(False)
    model.requires_grad_(True)

    def keep(most: int | None):
        with state.showing(options.ema_decay):
            if processes().is_main_process:
                write_vae(vae, images, places, out, state.step, scaled=not model.decoder_only, most=most)
        keep_state(out, state, run)

    try:
        while state.step < options.steps:
            step = advance(state, images, places[0], options, share, factor_of(vae), vae.config.latent_channels)
            state.recent.append({name: getattr(step, name) for name in LOGGED})
            last = state.step == options.steps
            if state.step % LOG_EVERY == 0 or last:
                log(out, state)
            if state.step % options.save_every == 0 or last:
                keep(None if last else QUICK)
                saved = state.step
            yield step
    except GeneratorExit:
        if state.step > saved:
            keep(QUICK)
        raise
    except NonFiniteLoss as error:
        kept = f"; the checkpoint of step {saved} stays in {out}" if saved else ""
        raise NonFiniteLoss(f"{error}{kept}") from None


def advance(state: TrainState, images, trained, options: VaeOptions, share: slice, factor: int, channels: int):
    """One optimiser step. What is random in it depends on (seed, step) alone, so that a resumed run repeats it."""
    start, step, count = time.perf_counter(), state.step, options.batch_size
    device, lr = next(state.model.parameters()).device, options.plan.lr_at(step)
    x, eps = drawn(images, trained, step, options, share, factor, channels)
    for group in state.optimiser.param_groups:
        group["lr"] = lr
    state.model.train()
    state.optimiser.zero_grad()
    with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16"):
        x = x.to(device, memory_format=torch.channels_last)  # a fifth faster on CPUs
        rebuilt, kl = state.model(x, eps.to(device))
    error = (rebuilt - x).square().mean() if options.loss == "l2" else (rebuilt - x).abs().mean()
    loss = error + options.kl_weight * kl
    loss.backward()
    norm = nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
    means = mean(torch.stack([loss.detach(), error.detach(), kl.detach()]))
    loss, error, kl, norm = torch.stack([*means, norm]).tolist()
    # Before the weights move: what is in memory, and on disk, is still the last good step.
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise NonFiniteLoss(
            f"the loss or its gradient turned NaN or infinite at step {step + 1}; try a lower learning rate than "
            f"{options.plan.lr:g}"
        )
    state.optimiser.step()
    state.step += 1
    state.average()
    return VaeStep(state.step, loss, error, kl, norm, lr, count / (time.perf_counter() - start))


def drawn(images, trained, step: int, options: VaeOptions, share: slice, factor: int, channels: int):
    """A process's share of a step's pictures and their noise: `-> x: b 3 h w, eps: b c h w` of the latents' shape."""
    seed = np.random.SeedSequence([options.seed, step]).generate_state(1, np.uint64)[0]
    random, count = torch.Generator().manual_seed(int(seed >> np.uint64(1))), options.batch_size
    places = trained[order(len(trained), options.seed, step * count, count)][share]
    mirrored = torch.rand(count, generator=random) < (0.5 if options.mirror else 0)
    h, w = (side // factor for side in images.shape[1:])
    eps = torch.randn(count, channels, h, w, generator=random)
    return coloured(images.batch(places, mirrored[share])[0]), eps[share]
