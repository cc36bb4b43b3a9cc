"""`python -m dit_lab sample`: draw pictures with a checkpoint and write them as one PNG."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tqdm.auto import tqdm

from dit_lab.checkpoints import Told, load
from dit_lab.data import Pixels, codec_of, write_grid
from dit_lab.diffusion import SAMPLERS, check_finite
from dit_lab.files import make_folder, writable
from dit_lab.inside import Recording
from dit_lab.models import PRECISION, fast, pick_device


def sample_command(
    source: str,
    /,
    told: Annotated[Told, tyro.conf.arg(name="")] = Told(),  # noqa: B008
    *,
    labels: tuple[int, ...],
    out: Path,
    size: int | tuple[int, int] | None = None,
    seed: int = 0,
    steps: int = 50,
    sampler: Literal[tuple(SAMPLERS)] = "ddim",
    eta: float = 0.0,
    cfg_scale: float = 1.0,
    cfg_channels: int | None = None,
    cfg_interval: tuple[float, float] | None = None,
    weights: Literal["ema", "model"] = "ema",
    vae: str | None = None,
    trace: Path | None = None,
    device: str = "auto",
    precision: PRECISION = "auto",
    compile: bool = False,
) -> None:
    """Draw one picture a label with a checkpoint and write them, side by side, as a PNG.

    Args:
        source: A zoo name such as mnist, a checkpoint's folder or file, or a hub id.
        told: What the checkpoint's file may not say of its model.
        labels: Class numbers, one a picture; the number of classes itself is the null label.
        out: The PNG to write.
        size: Side, or rows and columns, of what is drawn, in pixels of the model's own, latents or pictures, where that
            is not the trained size; a model of latents of 8 pixels takes 64 for pictures of 512.
        seed: Fixes the noise.
        steps: Denoising steps.
        sampler: How to step.
        eta: DDIM's noise, 0 (none) to 1 (as much as DDPM).
        cfg_scale: Guidance; 1 is none.
        cfg_channels: Guide only the first channels (the original: 3 of 4).
        cfg_interval: Guide only between these two timesteps.
        weights: Which weights of a training checkpoint that holds both.
        vae: Folder or hub id of the VAE of a latent model, instead of the one its config names.
        trace: Also write the trajectory to this file.
        device: cpu, cuda, mps, or auto.
        precision: What the blocks compute in: fp32, exactly as in Python; bf16 or fp16, sooner and a little off; or
            auto, what is faster for this model here, found out in a few steps and said.
        compile: Have the steps compiled; the first waits for it, a minute or so.
    """
    if out.suffix.lower() != ".png":
        raise ValueError(f"out must be the name of a .png file, not {out}")
    written = [path for path in (out, trace) if path is not None]
    writable(*written)
    device = pick_device(device)
    loaded = load(source, weights=weights, device=device, **asdict(told))
    if loaded.note:
        print(f"dit_lab: {loaded.note}", file=sys.stderr)
    codec = codec_of(loaded, vae, device)
    model = fast(
        loaded.model, precision=precision, compile=compile, batch=len(labels) * (1 + (cfg_scale != 1)), size=size
    )
    recording = Recording(
        model, list(labels), seed=seed, steps=steps, sampler=sampler, eta=eta, size=size,
        cfg_scale=cfg_scale, cfg_channels=cfg_channels, cfg_interval=cfg_interval,
        clip_x0=None if isinstance(codec, Pixels) else False,  # latents have no bounds
    )  # fmt: skip
    for step in tqdm(recording, total=steps, unit="step", mininterval=0.5, desc=str(model.speed)):
        sample = step.previous
    pictures = codec.decode(sample)
    check_finite("a picture", sample, pictures)
    if codec.note:
        print(codec.note)
    for path in written:
        make_folder(path.parent)
    write_grid(out, pictures)
    if trace is not None:
        recording.trajectory.save(trace)
    print(f"{', '.join(map(str, written))}: {len(labels)} {'pictures' if len(labels) > 1 else 'picture'}")
