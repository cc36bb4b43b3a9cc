"""`python -m dit_lab convert`: a checkpoint from any format that `load` takes to ours, an original's or diffusers'."""

import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from dit_lab.checkpoints import (
    CheckpointError,
    Loaded,
    Told,
    diffusers_dit,
    diffusers_schedulers,
    load,
    meta_dit,
    own,
    save,
    udit,
)
from dit_lab.checkpoints.describing import QUALITIES
from dit_lab.checkpoints.meta_run import content_of
from dit_lab.files import atomic, blank, make_folder, store, store_pickled, writable, write_json
from dit_lab.models import fold as folded
from dit_lab.training.others import saved_run

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# What is written into a folder.
WRITTEN = {
    "dit_lab": (own.TENSORS, own.JSON),
    "diffusers": (
        "model_index.json", "transformer/config.json", "transformer/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
    ),
}  # fmt: skip
# Files that would be read instead of what is written beside them, or belong to a run that goes on.
RIVALS = {
    "dit_lab": ("model_index.json", "state.safetensors", "diffusion_pytorch_model.safetensors"),
    "diffusers": ("model.safetensors", "config.json"),
}


def convert_command(
    source: str,
    destination: Path,
    /,
    told: Annotated[Told, tyro.conf.arg(name="")] = Told(),  # noqa: B008
    *,
    to: Literal["dit_lab", "meta_dit", "udit", "diffusers"],
    vae: str | None = None,
    weights: Literal["ema", "model"] = "ema",
    dtype: Literal["keep", "float32", "float16", "bfloat16"] = "keep",
    fold: bool = False,
    overwrite: bool = False,
    allow_nonfinite: bool = False,
    training: bool = False,
) -> None:
    """Convert a checkpoint; the tensors' values stay exactly as they are, unless they are folded.

    Args:
        source: A zoo name such as mnist, a checkpoint's folder or file, or a hub id.
        destination: A folder for dit_lab and diffusers, a .pt file for meta_dit and udit.
        told: What the checkpoint's file may not say of its model.
        to: The format: dit_lab (safetensors and JSON), meta_dit (facebookresearch/DiT), udit (YuchuanTian/U-DiT),
            diffusers (DiTPipeline).
        vae: Folder or hub id of the VAE that goes into a diffusers pipeline, or that our config will name.
        weights: Which weights of a training checkpoint that holds both.
        dtype: Number format of the result; keep leaves the source's.
        fold: Fold a U-DiT's re-parameterised MLPs into single layers, for a smaller model that computes the same.
        overwrite: Replace a checkpoint that is there.
        allow_nonfinite: Convert weights that hold NaN or Inf.
        training: Of a run's folder, write all that the original's script keeps (model, ema, opt, args), for a script
            that goes on from it; as trained, so without --dtype and --weights.
    """
    kept = DTYPES.get(dtype)
    check_destination(destination, to, overwrite)
    if training:
        check_training(to, vae, weights, dtype, fold, allow_nonfinite, told)
        run = saved_run(Path(source))
        write_pickled(destination, content_of(run), run.loaded, None)
        print(f"{destination}: {to}, after {run.step} steps, with its average and its optimiser's moments")
        return
    loaded = load(source, weights=weights, dtype=kept, allow_nonfinite=allow_nonfinite, **asdict(told))
    if loaded.note:
        print(f"dit_lab: {loaded.note}", file=sys.stderr)
    if fold:
        loaded = with_folded(loaded)
    WRITERS[to](destination, loaded, vae)
    print(f"{destination}: {to}, {sum(p.numel() for p in loaded.model.parameters()):,} parameters")


def check_destination(path: Path, to: str, overwrite: bool) -> None:
    """Raise CheckpointError, before any work, when the result has no place to go."""
    one_file = to in BARE
    if one_file and path.suffix != ".pt":
        raise CheckpointError(f"the original's format is one file: give a name that ends in .pt, not {path}")
    if not one_file and path.is_file():
        raise CheckpointError(f"{path} is a file; {to} wants a folder")
    if one_file and path.is_dir():
        raise CheckpointError(f"{path} is a folder; {to} wants a file")
    if rivals := [name for name in RIVALS.get(to, ()) if (path / name).is_file()]:
        raise CheckpointError(f"{path} holds something else ({rivals[0]}); give {to} a folder of its own")
    beside = path.with_suffix(".json") if one_file else path
    there = [p for p in (path, beside) if p.is_file() or (p.is_dir() and any(p.iterdir()))]
    if there and not overwrite:
        raise CheckpointError(f"{there[0]} is there already; choose another name or add --overwrite")
    writable(*((path, beside) if one_file else (path / name for name in WRITTEN[to])))


def check_training(to: str, *others) -> None:
    """Raise CheckpointError where a run as a whole is asked for in another format, or with what changes its weights."""
    if to != meta_dit.NAME or others != (None, "ema", "keep", False, False, Told()):
        raise CheckpointError(f"--training writes a run as it is, and in the format {meta_dit.NAME} alone")


def with_folded(loaded: Loaded) -> Loaded:
    """The same checkpoint, its re-parameterised MLPs folded. Raises CheckpointError when it has none."""
    if getattr(loaded.config, "mlp", None) != "reparameterised":
        raise CheckpointError(
            f"{loaded.source}: there is nothing to fold, only a U-DiT's re-parameterised MLPs can be; leave --fold out"
        )
    model = folded(loaded.model)
    return replace(loaded, model=model, config=model.config)


def to_dit_lab(path: Path, loaded: Loaded, vae: str | None) -> None:
    """Our folder."""
    save(path, loaded.model, labels=loaded.labels, codec_hint=vae or loaded.codec_hint, extra=known(loaded))


def known(loaded: Loaded) -> dict:
    """What our JSON says of a checkpoint besides its model and names."""
    return loaded.made | ({QUALITIES: loaded.qualities} if loaded.qualities else {})


def to_bare(form, path: Path, loaded: Loaded, vae: str | None) -> None:
    """A flat `.pt`, and beside it a JSON with what its tensors cannot say (heads, input size, class names, VAE)."""
    tensors = form.to_theirs(loaded.model.state_dict(), loaded.config)
    write_pickled(path, {name: tensor.contiguous().clone() for name, tensor in tensors.items()}, loaded, vae)


def write_pickled(path: Path, content: dict, loaded: Loaded, vae: str | None) -> None:
    """A `.pt` with its JSON beside it."""
    make_folder(path.parent)
    sidecar = path.with_suffix(".json")
    with atomic(path) as partial:
        store_pickled(partial, content)
        blank(sidecar)
    write_json(sidecar, own.json_of(loaded.config, loaded.labels, vae or loaded.codec_hint) | known(loaded))


def to_diffusers(path: Path, loaded: Loaded, vae: str | None) -> None:
    """A folder that `DiTPipeline.from_pretrained` opens; without a VAE, it wants one given as `vae=`."""
    config = loaded.config
    tensors = diffusers_dit.to_theirs(loaded.model.state_dict(), config)
    diffusers_dit.check_positions(loaded.model.positions, config)
    scheduler = diffusers_schedulers.scheduler_json(config)
    codec = open_kl(vae, config.in_channels) if vae else None
    index = path / "model_index.json"
    for folder in ("transformer", "scheduler"):
        make_folder(path / folder)
    with atomic(path / "transformer" / "diffusion_pytorch_model.safetensors") as partial:
        store(partial, tensors, {})
        # Until its index is written, last of all, the folder is no pipeline; shards' index would win over one file.
        for stale in (index, *(path / "transformer").glob("*.index.json")):
            stale.unlink(missing_ok=True)
    write_json(path / "transformer" / "config.json", diffusers_dit.transformer_json(config))
    write_json(path / "scheduler" / "scheduler_config.json", scheduler)
    if codec:
        codec.save_pretrained(path / "vae")
    write_json(index, diffusers_dit.index_json(loaded.labels))
    if config.num_classes != 1000:
        print(f"DiTPipeline's null label is 1000: with {config.num_classes} classes, leave its guidance_scale at 1.")


def open_kl(source: str, channels: int):
    """The VAE for a pipeline. Raises CheckpointError when it is not of DiTPipeline's kind, or of other latents."""
    from dit_lab.data import open_vae

    vae = open_vae(source, channels)
    if type(vae).__name__ != "AutoencoderKL":
        raise CheckpointError(f"{source}: DiTPipeline takes an AutoencoderKL, this is {type(vae).__name__}")
    # It knows the scaling factor alone: its pictures would be wrong without a word.
    unread = [name for name in ("shift_factor", "latents_mean", "latents_std") if getattr(vae.config, name, None)]
    if unread:
        raise CheckpointError(f"{source}: DiTPipeline does not read a VAE's {', '.join(unread)}; leave --vae out")
    return vae


BARE = {form.NAME: partial(to_bare, form) for form in (meta_dit, udit)}
WRITERS = {"dit_lab": to_dit_lab, **BARE, "diffusers": to_diffusers}
