"""One stored picture (png, jpeg, ...) to a uint8 array: upright, on white, 8 bits a value, a middle square of it."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from dit_lab.program import quoted

# What PIL may take a file for, whatever its name: pictures, and nothing that another program draws (EPS, WMF).
FORMATS = (
    "PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "QOI", "TGA", "ICO", "PCX",
)  # fmt: skip
ORIENTATION = 0x0112
SAMPLE_FORMAT = 339
MOST_BETWEEN = 2**28  # pixels of a picture that is resized before it is cropped
# What PIL leaves of a transparent colour as a file spells it, by how its values are packed, on the scale of the pixels.
KEYS = {
    "L;2": lambda key: key * 85,
    "L;4": lambda key: key * 17,
    "RGB;16B": lambda key: tuple(value >> 8 for value in key),
}


class DataError(ValueError):
    """A data set that cannot be used, with the `reason` in one sentence, which may end with advice for a training."""

    def __init__(self, reason: str, advice: str = ""):
        super().__init__(f"{reason}; {advice}" if advice else reason)
        self.reason = reason


@dataclass
class Seen:
    """What came to light as pictures were decoded: the highest 16-bit value, and whether white shines through any."""

    highest: int | None = None
    transparent: bool = False


def shown(text) -> str:
    """A name of a file, a column or a class as a sentence shows it: on one line, cut, without quotes."""
    return quoted(str(text))[1:-1]


@cache
def formats() -> list[str]:
    """Those of `FORMATS` that this PIL reads."""
    from PIL import Image

    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def opened(file):
    """A PIL picture from a path or an open file; only its header is read."""
    from PIL import Image

    picture = Image.open(file, formats=formats())
    if "transparency" in picture.info and (rescaled := KEYS.get(packing(picture))):
        picture.info["transparency"] = rescaled(picture.info["transparency"])
    return picture


def packing(picture) -> str | None:
    """How a PNG's values are packed, in PIL's words, while it is not decoded yet."""
    return picture.tile[0][3] if picture.format == "PNG" and picture.tile else None


def kind(picture) -> str:
    """A picture's mode before it is decoded, where 16 bits of grey with alpha, which PIL makes colours, are grey."""
    return "LA" if packing(picture) == "LA;16B" else picture.mode


def grey(kind: str) -> bool:
    """Whether a kind of picture has no colours: black and white, 8 or 16 bits of grey, with or without alpha."""
    return kind in ("1", "L", "LA", "La") or kind.startswith("I")


def telling(picture) -> bool:
    """Whether decoding a picture may bring to light what `Seen` notes."""
    return picture.has_transparency_data or picture.mode.startswith("I")


def numbers(picture) -> str | None:
    """What a picture's values are where nothing says which is black and which white; None where they are known.

    0 to 255 and 0 to 65535 are known. Of 32 bits only PGM's are, which names its highest value.
    """
    if picture.mode == "F":
        return "32-bit floats"
    signed = picture.format == "TIFF" and 2 in np.ravel(picture.tag_v2.get(SAMPLE_FORMAT, 1))
    return "signed or 32-bit integers" if signed or (picture.mode == "I" and picture.format != "PPM") else None


def as_pixels(picture, to_grey: bool, size: int | None = None, seen: Seen | None = None, crop="middle") -> np.ndarray:
    """A PIL picture as `c h w` in uint8, c = 1 `to_grey`, else 3.

    Transparency is laid on white. `size` makes it a square of that side, in the way that `crop` names. `seen` is told
    what came to light.
    """
    seen = Seen() if seen is None else seen
    picture = upright(picture)
    if picture.mode.startswith("I"):
        picture = narrowed(picture, seen)
    if picture.has_transparency_data:
        picture = on_white(picture, to_grey, seen)
    picture = picture.convert("L" if to_grey else "RGB")
    if size is not None and picture.size != (size, size):
        picture = CROPS[crop](picture, size)
    pixels = np.asarray(picture)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def upright(picture):
    """A decoded picture as the camera was held; where what it says of that is damaged, as it is stored."""
    from PIL import ImageOps

    picture.load()
    try:
        turned = picture.getexif().get(ORIENTATION, 1) != 1
    except Exception:  # PIL raises almost anything, SyntaxError among it; the picture itself is whole
        return picture
    return ImageOps.exif_transpose(picture) if turned else picture


def narrowed(picture, seen: Seen):
    """A picture of 16 bits a value scaled to 8, which PIL would cut off; the transparent grey becomes alpha."""
    from PIL import Image

    wide, key = np.asarray(picture), picture.info.get("transparency")
    seen.highest = max(seen.highest or 0, int(wide.max()))
    narrow = Image.fromarray((wide // 257).astype(np.uint8))
    if key is not None:
        narrow.putalpha(Image.fromarray(np.where(wide == key, 0, 255).astype(np.uint8)))
    return narrow


def on_white(picture, to_grey: bool, seen: Seen):
    """A picture with alpha, or a transparent colour, on white: colour * alpha + 255 * (1 - alpha), rounded."""
    from PIL import Image

    pixels = np.asarray(picture.convert("LA" if to_grey else "RGBA")).astype(np.uint32)
    colours, alpha = pixels[..., :-1], pixels[..., -1:]
    seen.transparent |= bool((alpha < 255).any())
    laid = (colours * alpha + 255 * (255 - alpha) + 127) // 255
    return Image.fromarray(laid.astype(np.uint8).squeeze(-1) if to_grey else laid.astype(np.uint8))


def middle(picture, size: int):
    """The middle square of a picture, cropped at whole pixels, which are resized only where the side differs."""
    from PIL import Image

    side = min(picture.size)
    left, top = ((whole - side) // 2 for whole in picture.size)
    box = (left, top, left + side, top + side)
    if side == size:
        return picture.crop(box)
    return picture.resize((size, size), Image.Resampling.BICUBIC, box=box)


def adm(picture, size: int):
    """A picture as ADM prepares those of ImageNet, DiT and SiT after it: resized first, and then cropped.

    Its sides are halved by a box filter while the smaller is at least twice the size, then resized by a bicubic one
    that brings the smaller to the size, the other rounded; the middle is cropped at whole pixels. Raises ValueError on
    a strip that would fill the memory in between.
    """
    from PIL.Image import Resampling

    while min(picture.size) >= 2 * size:
        picture = picture.resize(tuple(side // 2 for side in picture.size), Resampling.BOX)
    scale = size / min(picture.size)
    width, height = (round(side * scale) for side in picture.size)
    if width * height > MOST_BETWEEN:
        raise ValueError(f"resized it would be {width} x {height}")
    picture = picture.resize((width, height), Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return picture.crop((left, top, left + size, top + size))


# What makes a square of a picture, by name.
CROPS = {"middle": middle, "adm": adm}
