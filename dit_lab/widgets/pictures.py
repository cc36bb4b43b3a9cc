"""Frames of any kind as pictures of 8 bits: figures, arrays, tensors; small ones enlarged, encoded for the browser."""

import io

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from dit_lab.inside.plots import as_pictures
from dit_lab.widgets.shown import DPI, png

ROOM = 600, 320  # pixels, width and height, up to which small pictures are enlarged
MOST = 2**20  # bytes of all frames; photographs that take more lose what is hardly seen


def picture(frame, where: str) -> Image.Image:
    """A frame as a picture of 8 bits. Raises ValueError on what is no frame."""
    if isinstance(frame, Figure):
        return Image.open(io.BytesIO(png(frame))).convert("RGB")
    if isinstance(frame, torch.Tensor) and frame.ndim == 3:
        pixels = as_pictures(frame[None])[0]
    elif isinstance(frame, np.ndarray) and (frame.ndim == 2 or (frame.ndim == 3 and frame.shape[2] == 3)):
        whole = frame.dtype == np.uint8
        pixels = frame if whole else (np.nan_to_num(frame.astype(float), nan=0.5).clip(0, 1) * 255).round()
    else:
        shape = f" of shape {tuple(frame.shape)}" if hasattr(frame, "shape") else ""
        raise ValueError(
            f"the frame at {where} must be a Matplotlib figure, an array h w or h w 3, or a tensor c h w, "
            f"not a {type(frame).__name__}{shape}"
        )
    return Image.fromarray(pixels.astype(np.uint8)).convert("RGB")


def enlarged(image: Image.Image) -> Image.Image:
    """A small picture with each pixel as a square of several; a larger one as it is."""
    times = max(1, min(most // side for most, side in zip(ROOM, image.size, strict=True)))
    return image.resize([times * side for side in image.size], Image.Resampling.NEAREST)


def encode(images: list[Image.Image]) -> list[bytes]:
    """Pictures as WebP, which is smaller than PNG: without loss, unless they are many and large and as photographs are.

    Figures gain little by a loss, and are spared it.
    """
    exact = [webp(image, lossless=True) for image in images]
    if sum(map(len, exact)) <= MOST:
        return exact
    lossy = [webp(image, quality=90) for image in images]
    return lossy if 2 * sum(map(len, lossy)) < sum(map(len, exact)) else exact


def webp(image: Image.Image, **options) -> bytes:
    """A picture's bytes."""
    image.save(buffer := io.BytesIO(), "webp", **options)
    return buffer.getvalue()


def still_of(image: Image.Image, title: str, caption: str) -> bytes:
    """A frame on paper, its pixels as they are, with its label above."""
    above, (width, height) = 44, image.size
    wide = max(width, 360)
    figure = Figure(figsize=(wide / DPI, (height + above) / DPI))
    figure.figimage(np.asarray(image), 0, 0, origin="upper")
    top = lambda pixels: 1 - pixels / (height + above)
    figure.text(4 / wide, top(17), title, fontsize=9, weight="bold", parse_math=False)
    figure.text(4 / wide, top(36), caption, fontsize=8, color="#555555", parse_math=False)
    return png(figure)
