"""A picture that a walk begins with, and the mask of what is drawn anew, from files to what a model denoises."""

from pathlib import Path

import numpy as np
import torch
from einops import reduce

from dit_lab.data.codecs import Autoencoder, Pixels
from dit_lab.data.pixels import DataError, as_pixels, opened, shown
from dit_lab.data.previews import WAY_OUT


def given_picture(path: Path, mask: Path | None, codec, channels: int, size: tuple[int, int]):
    """The picture as a model of such `channels` and `size` (h, w) denoises it, and the mask: `-> 1 c h w, h w` or None.

    Both are cropped to the middle and resized as the pictures of a data set are. The mask's light parts are drawn anew;
    of latents each that has a light pixel. Raises DataError on files that do not fit, and where there is no encoder.
    """
    if not isinstance(codec, Pixels | Autoencoder):
        raise DataError(f"a picture is begun with where it can be encoded. {codec.missing}; {WAY_OUT}")
    if isinstance(codec, Pixels) and channels not in (1, 3):
        raise DataError(f"this model draws {channels} channels, which no picture has: there is none to begin with")
    sides = tuple(side * codec.factor for side in size)
    pixels, whole = read(path, isinstance(codec, Pixels) and channels == 1, sides)
    picture = codec.encode(torch.from_numpy(pixels.copy())[None].float() / 127.5 - 1)
    if mask is None:
        return picture, None
    light, of_mask = read(mask, True, sides)
    if of_mask != whole:
        (w, h), (w_mask, h_mask) = whole, of_mask
        raise DataError(f"the mask {shown(mask)} is {w_mask} x {h_mask} and the picture {w} x {h}: make them the same")
    light = torch.from_numpy(light.copy()) >= 128
    p = codec.factor
    return picture, reduce(light.byte(), "1 (h p) (w q) -> h w", "max", p=p, q=p).bool()


def read(path: Path, to_grey: bool, sides: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    """A file as `c h w` in uint8 with such `sides` (h, w), and how large it was, (width, height)."""
    square = sides[0] == sides[1]
    try:
        with opened(path) as picture:
            pixels = as_pixels(picture, to_grey, sides[0] if square else None)
            was = picture.size
    except FileNotFoundError as error:
        raise DataError(f"there is no file {shown(path)}") from error
    except Exception as error:  # PIL raises almost anything on a damaged file
        raise DataError(f"{shown(path)} cannot be read as a picture: {shown(error)}") from error
    if pixels.shape[1:] != sides:
        h, w = pixels.shape[1:]
        told = f"{shown(path)} is {w} x {h}; where the size is no square, it must be that size"
        raise DataError(f"{told}, {sides[1]} x {sides[0]}")
    return pixels, was
