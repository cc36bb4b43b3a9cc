"""Squares made of pictures: both crops beside their definitions in numpy, what is upright, and what a file keeps."""

import io

import datasets
import numpy as np
import pytest
from PIL import Image

from dit_lab.data import DataError, Images, encoded, open_data
from dit_lab.data.pixels import as_pixels

SIDES = [(50, 37), (37, 50), (64, 64), (63, 200), (31, 31), (333, 129), (16, 16), (17, 90), (128, 65)]


def weights(before: int, after: int, kernel, reach: float, start=0.0, length=None):
    """What each new pixel takes of each old one along a side: `after before`, as PIL has it, in 22 bits."""
    scale = (length or before) / after
    wide = max(scale, 1.0)
    centres = start + (np.arange(after)[:, None] + 0.5) * scale
    first, last = (
        np.trunc(centres - reach * wide + 0.5).clip(0),
        np.trunc(centres + reach * wide + 0.5).clip(max=before),
    )
    places = np.arange(before)[None]
    table = np.where((places >= first) & (places < last), kernel((places - centres + 0.5) / wide), 0.0)
    return np.floor(table / table.sum(1, keepdims=True) * 2**22 + 0.5).astype(np.int64)


def cubic(x):
    """Keys's cubic convolution, a = -1/2."""
    x = np.abs(x)
    return np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))


def box(x):
    return ((x > -0.5) & (x <= 0.5)).astype(float)


def filtered(pixels, rows, columns):
    """A picture, `h w c` in uint8, through both tables of weights, rounded to whole values after each."""
    rounded = lambda x: ((x + 2**21) >> 22).clip(0, 255)
    across = rounded(np.einsum("ij,hjc->hic", columns, pixels.astype(np.int64)))
    return rounded(np.einsum("ij,jwc->iwc", rows, across)).astype(np.uint8)


def adm_crop(pixels, size):
    """ADM's crop, by its description: halve by boxes, bicubic to the size along the smaller side, whole pixels."""
    while min(pixels.shape[:2]) >= 2 * size:
        h, w, _ = pixels.shape
        pixels = filtered(pixels, weights(h, h // 2, box, 0.5), weights(w, w // 2, box, 0.5))
    h, w, _ = pixels.shape
    high, wide = (round(side * (size / min(h, w))) for side in (h, w))
    if (high, wide) != (h, w):
        pixels = filtered(pixels, weights(h, high, cubic, 2.0), weights(w, wide, cubic, 2.0))
    top, left = (high - size) // 2, (wide - size) // 2
    return pixels[top : top + size, left : left + size]


def middle_crop(pixels, size):
    """The middle square, cropped at whole pixels and then resized, bicubic; at its edge the filter sees beyond it."""
    h, w, _ = pixels.shape
    side = min(h, w)
    top, left = (h - side) // 2, (w - side) // 2
    if side == size:
        return pixels[top : top + side, left : left + side]
    rows, columns = (weights(n, size, cubic, 2.0, start, side) for n, start in ((h, top), (w, left)))
    return filtered(pixels, rows, columns)


RIGHT = {"adm": adm_crop, "middle": middle_crop}


def noise(sides, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*sides, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of pictures, from arrays or the bytes of files."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()

    def write(*pictures, suffix="png"):
        for number, picture in enumerate(pictures):
            place = tmp_path / "set" / f"{number:02}.{suffix}"
            place.write_bytes(picture) if isinstance(picture, bytes) else Image.fromarray(picture).save(place)
        return tmp_path / "set"

    return write


@pytest.mark.parametrize("crop", ["adm", "middle"])
@pytest.mark.parametrize("size", [1, 16, 31, 48])
def test_a_crop_is_its_definition_in_numpy_to_the_last_bit_whatever_the_sides(crop, size, folder):
    pictures = [noise(sides, seed) for seed, sides in enumerate(SIDES)]
    images = open_data(folder(*pictures), size=size, crop=crop, labelled=False)
    for ours, picture in zip(images.pixels, pictures, strict=True):
        assert np.array_equal(ours.transpose(1, 2, 0), RIGHT[crop](picture, size))


@pytest.mark.parametrize("crop", ["adm", "middle"])
def test_a_crop_of_real_photographs_is_its_definition(crop, real_data):
    where = real_data("imagenet_sample")
    [table] = datasets.Dataset.from_parquet(str(next(where.glob("*.parquet")))).data.to_batches()[:1]
    images = open_data(where, size=64, crop=crop, split="train[:12]", labelled=False)
    column = "image" if "image" in table.schema.names else "jpg"
    for ours, record in zip(images.pixels, table[column].to_pylist(), strict=False):
        pixels = np.asarray(Image.open(io.BytesIO(record["bytes"])).convert("RGB"))
        assert np.array_equal(ours.transpose(1, 2, 0), RIGHT[crop](pixels, 64))


def test_the_usual_crop_is_the_middle_square_with_nothing_squashed(folder):
    half = np.zeros((20, 60, 3), np.uint8)
    half[:, 20:40] = noise((20, 20))
    assert (open_data(folder(half), size=20, labelled=False).pixels[0] == half[:, 20:40].transpose(2, 0, 1)).all()
    striped = np.zeros((20, 60, 3), np.uint8)
    striped[:, :20], striped[:, 40:] = 255, 255
    for crop in ("middle", "adm"):
        edge = as_pixels(Image.fromarray(striped), False, 10, crop=crop)[:, :, 2:8]
        assert edge.max() == 0  # what lies left and right of the middle is not in it


def test_the_crops_differ_where_a_picture_is_more_than_halved_and_adm_reduces_what_lies_beside_too():
    picture = Image.fromarray(noise((64, 100)))
    one, other = (as_pixels(picture, False, 16, crop=crop) for crop in ("middle", "adm"))
    assert 1 < np.abs(one.astype(int) - other).mean() < 20


TURNED = {
    2: lambda x: x[:, ::-1], 3: lambda x: x[::-1, ::-1], 4: lambda x: x[::-1], 5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1), 7: lambda x: np.rot90(x, 2).swapaxes(0, 1), 8: lambda x: np.rot90(x, 1),
}  # fmt: skip


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize(("size", "crop"), [(None, "middle"), (5, "middle"), (5, "adm")])
def test_a_picture_is_turned_as_the_camera_was_held_before_it_is_cropped(orientation, size, crop, folder):
    pixels, held = noise((7, 12)), Image.Exif()
    held[0x0112] = orientation
    Image.fromarray(pixels).save(buffer := io.BytesIO(), format="PNG", exif=held)
    [ours] = open_data(folder(buffer.getvalue()), size=size, crop=crop, labelled=False).pixels
    right = TURNED[orientation](pixels)
    assert np.array_equal(ours.transpose(1, 2, 0), right if size is None else RIGHT[crop](right, size))


def test_a_strip_that_would_fill_the_memory_between_resizing_and_cropping_does_not_decode():
    with pytest.raises(ValueError, match="resized it would be 15360000 x 256"):
        as_pixels(Image.new("RGB", (60_000, 1)), False, 256, crop="adm")


def test_what_is_not_the_usual_crop_stands_in_the_fingerprint_of_pictures_and_of_their_latents():
    usual, adm = (open_data("digits", split="test", size=3, crop=crop) for crop in ("middle", "adm"))
    assert "crop" not in usual.fingerprint and adm.fingerprint["crop"] == "adm"
    assert not np.array_equal(usual.pixels, adm.pixels)
    few = Images(adm.pixels[:4], adm.labels[:4], adm.names, "adm")
    assert encoded(few, lambda x: x).fingerprint["crop"] == "adm"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"crop": "adm"}, "the crop adm resizes pictures: say with --size to which side"),
        ({"crop": "ADM", "size": 8}, "crop must be middle or adm, not 'ADM'"),
    ],
)
def test_a_crop_that_cannot_be_is_refused(options, told):
    with pytest.raises(DataError, match=told):
        open_data("digits", **options)
