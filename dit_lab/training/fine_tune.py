"""Going on from a checkpoint with other classes or another input size: what fits is carried over, the rest begins anew.

A DiT's weights know no size but its position table's, which is computed, and no classes but its label table's rows.
"""

from dataclasses import replace

import torch
from torch import nn

from dit_lab.checkpoints import Loaded
from dit_lab.data import Autoencoder
from dit_lab.data.vaes import open_named_vae
from dit_lab.models import build

TABLE = "label_embedding.weight"


def adapted(loaded: Loaded, images) -> tuple[nn.Module, list[str]]:
    """The checkpoint's model for a data set, on the CPU, and a sentence on each thing that is not as it was.

    Classes of the same name keep their row of the label table, and so does the null label; new ones are drawn afresh.
    Raises ValueError on pictures with other channels than the model's, or latents of another VAE.
    """
    (channels, *size), old = images.shape, loaded.config
    if channels != old.in_channels:
        raise ValueError(f"{loaded.source} takes {old.in_channels} channels, the data has {channels}")
    check_codec(loaded, images)
    config = replace(old, input_size=tuple(size), num_classes=len(images.names))
    model = build(config)
    rows = kept_rows(loaded.labels, images.names, old.null_label)
    tensors = loaded.model.state_dict()
    for name, tensor in model.state_dict().items():
        if name.endswith(TABLE):
            with torch.no_grad():
                tensor[list(rows)] = tensors[name][list(rows.values())].to(tensor)
        elif tensor.shape == tensors[name].shape and name != "positions":
            with torch.no_grad():
                tensor.copy_(tensors[name])
    return model, list(told(old, config, rows))


def check_codec(loaded: Loaded, images) -> None:
    """Raise ValueError where the data's channels are not what the model was trained on, whatever their VAE's name."""
    hint, there = loaded.codec_hint, getattr(images, "encoder", None)
    if hint is None or hint == images.codec == "pixels":
        return
    known = loaded.made.get("encoder_checksum")
    if known is None and there is not None and hint != images.codec:
        known = encoder_named(hint)
    if not (known == there if known and there else hint == images.codec):
        # Each name once: they may be long paths.
        maker = "a VAE of that name with other weights" if hint == images.codec else images.codec
        advice = "give it pictures" if hint == "pixels" else "encode the pictures with the one that it was trained on"
        raise ValueError(
            f"{loaded.source} was trained on what {hint} makes of pictures, the data is made by {maker}; {advice}"
        )


def encoder_named(hint: str) -> str | None:
    """What tells the encoder of a VAE from others, None where it does not open."""
    try:
        return Autoencoder(open_named_vae(hint)).encoder_checksum
    except ValueError:
        return None


def kept_rows(before: list[str], now: list[str], null: bool = True) -> dict[int, int]:
    """Which row of the old label table each row of the new one takes, by the classes' names; the last is `null`'s.

    Of classes that share a name, as two of ImageNet's do twice, the first takes the first's row, and so on.
    """
    places = {name: row for row, name in enumerate(numbered(before))}
    kept = {row: places[name] for row, name in enumerate(numbered(now)) if name in places}
    return kept | {len(now): len(before)} if null else kept


def numbered(names: list[str]) -> list[tuple[str, int]]:
    """Each name, and how often it was there before."""
    return [(name, names[:place].count(name)) for place, name in enumerate(names)]


def told(old, config, rows: dict[int, int]):
    """What was changed, in sentences."""
    kept = len(rows) - config.null_label  # classes
    if (old.num_classes, kept) != (config.num_classes, config.num_classes):
        yield (
            f"label table: {old.num_classes} classes before, {config.num_classes} now; "
            f"{kept} keep their row by name, {config.num_classes - kept} start at random"
        )
    if old.size != config.size:
        sides = " x ".join(map(str, old.size)), " x ".join(map(str, config.size))
        yield f"input size: {sides[0]} before, {sides[1]} now; position tables are computed for it"
