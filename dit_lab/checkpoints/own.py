"""Our own format: a folder with `model.safetensors` and `config.json`; the tensors' file alone is enough too."""

from dataclasses import asdict
from pathlib import Path

import torch

from dit_lab.files import write_json, write_tensors

VERSION = 1


def save(path, model, *, labels=None, codec_hint=None, dtype=None, extra=None) -> Path:
    """Write a model to the folder `path`: both files appear whole or not at all. Returns the folder.

    `labels` are class names, `codec_hint` says what the channels are ("pixels", or a VAE's hub id or folder), `dtype`
    casts floating-point tensors (torch.float16 halves the file), `extra` joins the JSON (a recipe, figures).
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    about = {"format": "dit_lab", "version": VERSION, "model": asdict(model.config)}
    about |= {"labels": labels, "codec": codec_hint, **(extra or {})}
    write_tensors(folder / "model.safetensors", cast(model.state_dict(), dtype), about)
    write_json(folder / "config.json", about)
    return folder


def cast(tensors: dict[str, torch.Tensor], dtype) -> dict[str, torch.Tensor]:
    """Floating-point tensors in `dtype` (None: as they are)."""
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
