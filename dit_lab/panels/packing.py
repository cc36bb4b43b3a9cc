"""Tensors on their way to the browser: pictures as data URIs, all frames of a run in one atlas, numbers in base64."""

import io
import math
from base64 import b64encode

import numpy as np
import torch
from einops import rearrange
from PIL import Image

from dit_lab.inside.plots import as_pictures

# A browser holds 4 bytes a pixel of every atlas; larger ones are shrunk to this many pixels.
ATLAS_PIXELS = 2**24
# Up to this many pixels a side a picture is stored exactly; larger ones, decoded by a VAE, as JPEG.
EXACT_SIDE = 64


def data_uri(picture: np.ndarray, side: int) -> str:
    """`picture: h w 3` uint8 as a data URI; `side` is that of a single frame in it."""
    grey = (picture == picture[..., :1]).all()
    image, buffer = Image.fromarray(picture[..., 0] if grey else picture), io.BytesIO()
    kind = "png" if side <= EXACT_SIDE else "jpeg"
    image.save(buffer, kind, **({"compress_level": 6} if kind == "png" else {"quality": 90}))
    return f"data:image/{kind};base64,{b64encode(buffer.getvalue()).decode()}"


def atlas(images: torch.Tensor) -> dict:
    """All frames, `images: b 3 h w` in [-1, 1], laid out row by row in one picture, with what is needed to cut it."""
    b, _, h, w = images.shape
    shrink = max(1, math.ceil(math.sqrt(b * h * w / ATLAS_PIXELS)))
    if shrink > 1:
        images = torch.nn.functional.interpolate(images, scale_factor=1 / shrink, mode="area")
        h, w = images.shape[-2:]
    columns = math.ceil(math.sqrt(b * h / w))
    rows = math.ceil(b / columns)
    frames = as_pictures(torch.cat([images, images.new_full((rows * columns - b, 3, h, w), -1.0)]))
    picture = rearrange(frames, "(rows columns) h w c -> (rows h) (columns w) c", rows=rows)
    return {"uri": data_uri(picture, max(h, w)), "columns": columns, "width": w, "height": h}


def pack(values: torch.Tensor) -> dict:
    """A tensor as its shape and its little-endian fp32 bytes in base64: small, exact, and opaque to the page."""
    return {"shape": list(values.shape), "data": b64encode(values.numpy().astype("<f4").tobytes()).decode()}
