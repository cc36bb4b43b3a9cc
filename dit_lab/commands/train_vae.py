"""`python -m dit_lab train-vae`: a small VAE on pictures of one's own, or a given one's decoder trained on."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from torch import nn

from dit_lab.data import CROPS, Images, open_data, open_vae
from dit_lab.data.vaes import FILES
from dit_lab.files import writable
from dit_lab.program import quoted, stop
from dit_lab.training import NonFiniteLoss, VaeOptions, device_of, new_vae, processes, train_vae
from dit_lab.training.folder import LOG, check_folder
from dit_lab.training.following import follow, leave_if
from dit_lab.training.lock import check_free
from dit_lab.training.rebuilding import FIGURES, GRID


@dataclass(frozen=True)
class VaeModel:
    """What is trained: a new VAE, or one that is gone on from."""

    factor: Literal[2, 4, 8] | None = None
    """Pixels that a latent has along each side (default: the largest that leaves 8 latents along each side of the
    pictures, so 8 from 64 pixels on, 4 for 32, 2 for less)."""
    width: int | None = None
    """Channels at the pictures' size, a multiple of 8; they double with each halving, up to four times as many
    (default: 32)."""
    latent_channels: int | None = None
    """Channels of the latents (default: 4)."""
    init: str | None = None
    """Go on from this VAE, an AutoencoderKL in diffusers' format: a folder, a hub id, or a name of the zoo."""
    decoder_only: bool = False
    """With --init: train the decoder alone. The encoder and its scaling stay to the bit, so latents that were made
    before, and models trained on them, stay right."""

    def __post_init__(self):
        """Raise ValueError, in one sentence, on options that do not go together."""
        if self.decoder_only and self.init is None:
            raise ValueError("--decoder-only trains the decoder of a given VAE: say which with --init")
        if self.init is not None and self.given:
            told = ", ".join("--" + name.replace("_", "-") for name in self.given)
            raise ValueError(f"--init brings its own VAE; leave out {told}")

    @property
    def given(self) -> dict:
        """What a new VAE is asked to have."""
        asked = {name: getattr(self, name) for name in ("factor", "width", "latent_channels")}
        return {name: value for name, value in asked.items() if value is not None}

    def model(self, images: Images) -> nn.Module:
        """The VAE for a data set, on the CPU. Raises ValueError where there cannot be one."""
        return new_vae(images.shape, **self.given) if self.init is None else open_vae(self.init)


def train_vae_command(
    options: Annotated[VaeOptions, tyro.conf.arg(name="")] = VaeOptions(),  # noqa: B008
    model: Annotated[VaeModel, tyro.conf.arg(name="")] = VaeModel(),  # noqa: B008
    *,
    data: str,
    out: Path,
    split: str = "train",
    size: int | None = None,
    crop: Literal[tuple(CROPS)] = "middle",
    device: str = "auto",
    resume: bool = False,
) -> None:
    """Train a small VAE (KL) on pictures, for `encode`. Ctrl-C (or SIGTERM) saves and stops; --resume continues.

    On a CPU it continues bit by bit, from wherever it was killed. OUT is then a VAE in diffusers' format, which
    `encode --vae`, `sample --vae` and diffusers' `from_pretrained` take, with its scaling factor measured; figures of
    held-back pictures are in figures.json, pairs of them (real, rebuilt) in rebuilt.png, losses in log.jsonl. Several
    GPUs: accelerate launch --multi_gpu --num_processes 8 -m dit_lab train-vae with the same options. Exit codes: 0
    done, 1 the loss turned NaN or memory ran out, 2 bad input, 130 stopped by Ctrl-C and 143 by SIGTERM, both saved.

    Args:
        options: The run.
        model: What is trained.
        data: `digits`, a hub id such as uoft-cs/cifar10, or a local folder of parquet files or pictures.
        out: Folder for the VAE, its figures, the state to resume from, and the loss log.
        split: Which part of the data to train on; a share of it is held back for the figures.
        size: Make pictures squares of this side (default: as they are).
        crop: How: the middle square, resized, or as ADM, DiT and SiT prepare ImageNet (adm).
        device: cpu, cuda, mps, or auto.
        resume: Continue the run in `out`.
    """
    crew = processes()
    device = device_of(crew, device)
    check_free(out)
    check_folder(out, resume)
    writable(*(out / name for name in (*FILES, FIGURES, GRID)))
    with crew.main_process_first():  # the others then find what it has put into the cache
        images = open_data(data, split=split, size=size, labelled=False, crop=crop)
    if not isinstance(images, Images):
        raise ValueError(f"{quoted(data)} holds latents already; a VAE is trained on pictures")
    if options.lr is None:
        options = replace(options, lr=1e-3 if model.init is None else 1e-4)
    torch.manual_seed(options.seed)
    try:
        vae = model.model(images).to(device)
        given = dict(out=out, decoder_only=model.decoder_only, resume=resume)
        stopped = follow(train_vae(vae, images, options, **given), options.steps, options.lr_decay)
    except NonFiniteLoss as error:
        stop(str(error), 1)
    leave_if(stopped, out)
    if crew.is_main_process:
        print(told(json.loads((out / FIGURES).read_text()), out))


def told(figures: dict, out: Path) -> str:
    """What a VAE came to, for a reader."""
    psnr, spread, trained = (figures[name] for name in ("psnr", "psnr_deviation", "psnr_of_pictures_trained_on"))
    return (
        f"{figures['pictures_held_back']} pictures held back come back at {psnr:.1f} dB (PSNR; between pictures "
        f"± {spread:.1f}), {figures['mean_absolute_error'] * 255:.1f} of 255 levels off; pictures trained on at "
        f"{trained:.1f} dB\nscaling factor {figures['scaling_factor']:g}, {figures['kl']:.2f} nats a number of the "
        f"latent, {figures['parameters']:,} parameters\nlook at {out / GRID} (left real, right rebuilt); next: "
        f"python -m dit_lab encode --vae {out} with the same --data and --size; figures in {out / FIGURES}, losses "
        f"in {out / LOG}"
    )
