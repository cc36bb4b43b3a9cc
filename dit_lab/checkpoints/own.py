"""Our own format: a folder with `model.safetensors` and `config.json`; the tensors' file alone is enough too."""

from pathlib import Path

import torch

from dit_lab.checkpoints.reading import CheckpointError, first_line
from dit_lab.files import atomic, blank, make_folder, store, write_json
from dit_lab.models import Config
from dit_lab.models import config_of as config_of_fields
from dit_lab.program import quoted

NAME = "dit_lab"
VERSION = 1
TENSORS, JSON = "model.safetensors", "config.json"


def save(path, model, *, labels=None, codec_hint=None, dtype=None, extra=None, tensors=None) -> Path:
    """Write a model to the folder `path`: both files appear whole or not at all. Returns the folder.

    `labels` are class names, `codec_hint` says what the channels are ("pixels", or a VAE's hub id or folder), `dtype`
    casts floating-point tensors (torch.float16 halves the file), `extra` joins the JSON (a recipe, figures). `tensors`
    take the place of the model's own, such as an average of its weights.
    """
    folder = Path(path)
    make_folder(folder)
    about = json_of(model.config, labels, codec_hint) | (extra or {})
    with atomic(folder / TENSORS) as partial:
        store(partial, cast(tensors or model.state_dict(), dtype), about)
        # The tensors' file says all that config.json does: killed from here on, what is there is still one checkpoint.
        blank(folder / JSON)
    write_json(folder / JSON, about)
    return folder


def json_of(config: Config, labels, codec_hint) -> dict:
    """What `config.json` says of a model, and its tensors' file too."""
    return {"format": NAME, "version": VERSION, "model": config.as_json(), "labels": labels, "codec": codec_hint}


def cast(tensors: dict[str, torch.Tensor], dtype) -> dict[str, torch.Tensor]:
    """Floating-point tensors in `dtype` (None: as they are)."""
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def matches(tensors: dict) -> bool:
    """Whether these are our own names."""
    return "out.weight" in tensors and ("patch_embedding.weight" in tensors or "stem.weight" in tensors)


def to_ours(tensors: dict, config: Config) -> dict[str, torch.Tensor]:
    """Nothing to change."""
    return dict(tensors)


to_theirs = to_ours


def config_of(about: dict) -> Config:
    """The config in our JSON. Raises CheckpointError when it is not one, or of a version that is not known."""
    fields = about.get("model")
    if about.get("version", VERSION) != VERSION:
        version = quoted(about["version"])
        raise CheckpointError(f"it is written in version {version} of the format, this dit_lab reads {VERSION}")
    if not isinstance(fields, dict):
        raise CheckpointError("nothing says what model it is: neither its metadata nor a config.json beside it")
    try:
        return config_of_fields(fields)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"its config makes no model: {first_line(error)}") from error
