"""Pictures of parts for the browser, small enough to be sent at every step; and the lens, a picture a block."""

from base64 import b64encode
from collections.abc import Generator

import torch
from einops import rearrange, reduce

from dit_lab.data import Autoencoder
from dit_lab.data.previews import FALSE_COLOURS
from dit_lab.inside import Part
from dit_lab.inside.plots.base import spread
from dit_lab.panels.opened import Opened
from dit_lab.panels.packing import atlas, pack
from dit_lab.panels.panel import Progress

MOST_VALUES = 2**21  # of the pictures of all parts in an answer; with more they are drawn coarser
DECODED = 12  # blocks of the lens that a VAE decodes


def mixing(opened: Opened) -> list[list[float]]:
    """How channels become red, green and blue, `c 3`: as `Pixels().decode` does, latents in false colours."""
    channels = opened.config.in_channels
    fixed = {1: torch.ones(1, 3), 3: torch.eye(3)}.get(channels)
    if fixed is None:
        fixed = torch.cat([FALSE_COLOURS[:channels], torch.zeros(max(0, channels - len(FALSE_COLOURS)), 3)])
    return fixed.tolist()


def drawn(parts: list[Part], pictures: torch.Tensor) -> dict:
    """What the parts gave, `pictures: part c h w`, those outside blocks exactly, those of blocks in 8 bits a value.

    Outside parts are many times larger than their sum, and cancel: no rounding is small beside that. `fine: part` is
    what 1 of a block's part in 8 bits stands for. `coarse` pixels each way are drawn as one.
    """
    inner = torch.tensor([part.block is not None for part in parts])
    coarse = coarseness(pictures.shape)
    if coarse > 1:
        pictures = reduce(pictures, "part c (h p) (w q) -> part c h w", "mean", p=coarse, q=coarse)
    mine = pictures[inner].float()
    fine = (reduce(mine.abs(), "part c h w -> part", "max") / 127).clamp(min=torch.finfo(torch.float32).tiny)
    bytes_ = (mine / rearrange(fine, "part -> part 1 1 1")).round().to(torch.int8)
    return {
        "shape": list(pictures.shape[1:]), "coarse": coarse, "fine": pack(fine),
        "inner": b64encode(bytes_.numpy().tobytes()).decode(), "outer": pack(pictures[~inner].float().contiguous()),
    }  # fmt: skip


def coarseness(shape: torch.Size) -> int:
    """The least number of pixels each way to draw as one so that pictures `part c h w` are not too many values."""
    _, _, h, w = shape
    fits = (side for side in range(1, min(h, w) + 1) if h % side == 0 and w % side == 0)
    return next((side for side in fits if shape.numel() <= MOST_VALUES * side**2), min(h, w))


def lenses(opened: Opened, step: int, sample: int, half: str) -> Generator[Progress, None, dict]:
    """The x0 that would be predicted after each block, as pictures, and its correlation with the last: the prediction.

    Of many blocks those that a VAE would have to decode are some, evenly spread, the last among them.
    """
    run, codec = opened.trajectory, opened.codec
    yield Progress(0, 1, f"Reading step {step + 1} after every block")
    found = run.lens(opened.model, step, sample=sample, half=half)
    dear = isinstance(codec, Autoencoder)
    shown, pictures = spread(len(found), DECODED) if dear else list(range(len(found))), []
    for number, latents in enumerate(found[shown].split(1 if dear else len(shown))):
        if dear:
            yield Progress(number, len(shown), f"Decoding what block {shown[number]} would have predicted")
        pictures.append(codec.decode(latents))
    return {"half": half, "step": step, "blocks": shown, "atlas": atlas(torch.cat(pictures)),
            "alike": [told(value) for value in alike(found).tolist()]}  # fmt: skip


def alike(found: torch.Tensor) -> torch.Tensor:
    """The correlation of each block's x0 with the last one's, over all values: `block c h w -> block`."""
    values = rearrange(found, "block c h w -> block (c h w)").double()
    return torch.corrcoef(values)[-1] if len(values) > 1 else torch.ones(1)


def told(value: float) -> float | None:
    """A correlation, or None where one of both is the same everywhere."""
    return value if value == value else None
