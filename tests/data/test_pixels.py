"""One stored picture to pixels: what is transparent, of many bits, or on its side, and where the middle is."""

import io
import struct
import zlib

import datasets
import numpy as np
import pytest
from PIL import Image

from dit_lab.data import DataError, open_data
from dit_lab.data import images as data


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Open a folder of stored pictures, by their suffix."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def opened(*stored, suffix="png", **given):
        (tmp_path / "set").mkdir()
        for number, content in enumerate(stored):
            (tmp_path / "set" / f"{number:02}.{suffix}").write_bytes(content)
        return open_data(tmp_path / "set", labelled=False, **given)

    return opened


def stored(picture, kind="PNG", **options):
    """A picture, or an array of one, as the bytes of a file."""
    picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    picture.save(buffer := io.BytesIO(), format=kind, **options)
    return buffer.getvalue()


def png(depth, colour, row, transparent):
    """A PNG of two pixels in a kind that PIL does not write."""
    chunk = lambda name, body: struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    header = struct.pack(">IIBBBBB", 2, 1, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"tRNS", transparent) * bool(transparent)
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")


def plain(mode, colour):
    return Image.new(mode, (2, 1), colour)


def palette(*colours):
    picture = Image.new("P", (2, 1))
    picture.putpalette([value for colour in colours for value in colour])
    return picture


ORANGE = (200, 100, 0)
HALF, WHITE = (227, 177, 127), (255, 255, 255)


@pytest.mark.parametrize(
    ("content", "right"),
    [
        (stored(plain("RGBA", (*ORANGE, 128))), HALF),
        (stored(plain("RGBA", (*ORANGE, 128)), "WEBP", lossless=True), HALF),
        (stored(plain("RGBA", (*ORANGE, 128)), "TIFF"), HALF),
        (stored(palette(ORANGE), transparency=bytes([128])), HALF),
        (stored(palette(ORANGE), transparency=0), WHITE),
        (stored(palette(ORANGE), "GIF", transparency=0), WHITE),
        (stored(plain("PA", (0, 0)), "TIFF"), WHITE),
        (stored(plain("RGB", ORANGE), transparency=ORANGE), WHITE),
        (png(16, 2, struct.pack(">6H", 1000, 0, 0, 1000, 0, 0), struct.pack(">3H", 1000, 0, 0)), WHITE),
    ],
    ids=["RGBA", "WebP", "TIFF", "P of alphas", "P of one", "GIF", "PA", "RGB", "RGB of 16 bits"],
)
def test_transparent_colours_are_laid_on_white(content, right, opened):
    assert (opened(content).pixels[0, :, 0] == np.array(right)[:, None]).all()


@pytest.mark.parametrize(
    ("content", "right"),
    [
        (stored(plain("LA", (0, 0))), [255, 255]),
        (stored(plain("LA", (100, 128))), [177, 177]),
        (stored(plain("L", 7), transparency=7), [255, 255]),
        (stored(plain("1", 0), transparency=0), [255, 255]),
        (png(2, 0, bytes([0b00010000]), struct.pack(">H", 1)), [0, 255]),
        (png(4, 0, bytes([0x07]), struct.pack(">H", 7)), [0, 255]),
        (png(16, 0, struct.pack(">2H", 257, 1000), struct.pack(">H", 1000)), [1, 255]),
        (png(16, 4, struct.pack(">4H", 0, 0, 0, 65535), b""), [255, 0]),
    ],
    ids=["LA", "half", "8 bits", "1 bit", "2 bits", "4 bits", "16 bits", "LA of 16 bits"],
)
def test_grey_on_white_stays_grey(content, right, opened):
    assert opened(content).pixels.tolist() == [[[right]]]


def test_a_black_glyph_on_nothing_is_black_on_white(opened):
    glyph = np.zeros((8, 8, 4), np.uint8)
    glyph[2:6, 3:5, 3] = 255
    assert (opened(stored(glyph)).pixels[0] == 255 - glyph[..., 3]).all()


@pytest.mark.parametrize("lazy", [False, True])
def test_that_transparency_is_laid_on_white_is_said_once_and_only_where_there_is_any(
    lazy, opened, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(data, "MEMORY_LIMIT", 0 if lazy else 2**30)
    opened(*[stored(plain("RGBA", (*ORANGE, alpha))) for alpha in (255, 128, 0, 128)])
    [said] = [line for line in capsys.readouterr().err.splitlines() if "dit_lab" in line]
    assert said.endswith("dit_lab: picture 1 is transparent in places; it and all like it are laid on white")
    (tmp_path / "set").rename(tmp_path / "before")
    opened(*[stored(plain("RGBA", (*ORANGE, 255)))] * 4)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("kind", "values", "told"),
    [
        (np.float32, [[0.0, 1.0]], "holds 32-bit floats"),
        (np.int32, [[0, 255]], "holds signed or 32-bit integers"),
        (np.int32, [[-5, 70_000]], "holds signed or 32-bit integers"),
    ],
)
@pytest.mark.parametrize("lazy", [False, True])
def test_values_that_nothing_scales_are_refused(kind, values, told, lazy, opened, monkeypatch):
    monkeypatch.setattr(data, "MEMORY_LIMIT", 0 if lazy else 2**30)
    good = [stored(plain("L", 9), "TIFF")]
    with pytest.raises(DataError, match=rf"^picture 1 \(.*01.tiff\) {told}.*scale them to 0..255"):
        opened(*good, stored(np.array(values, kind), "TIFF"), suffix="tiff")


def tiff(bits, sample_format):
    """A TIFF of one grey pixel of 0, in a kind that PIL does not write."""
    tags = [(256, 1), (257, 1), (258, bits), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, bits // 8)]
    entries = [struct.pack("<HHII", tag, 3, 1, value) for tag, value in [*tags, (339, sample_format)]]
    return b"II*\0" + struct.pack("<I", 12) + bytes(4) + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_signed_integers_are_refused_whatever_their_size(bits, opened):
    with pytest.raises(DataError, match="holds signed or 32-bit integers"):
        opened(tiff(bits, 2), suffix="tiff")


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_of_grey_are_scaled_from_all_of_them(kind, opened, capsys):
    wide = np.array([[0, 257, 25_700, 65_535]], np.uint16)
    suffix = {"PPM": "pgm"}.get(kind, kind.lower())
    assert opened(stored(wide, kind), suffix=suffix).pixels.tolist() == [[[[0, 1, 100, 255]]]]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("lazy", [False, True])
def test_sixteen_bits_that_never_pass_twelve_get_a_warning(lazy, opened, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "MEMORY_LIMIT", 0 if lazy else 2**30)
    dark = [stored(np.full((2, 2), value, np.uint16)) for value in (5, 4_095, 17)]
    assert opened(*dark).pixels[[1]].max() == 15
    [said] = capsys.readouterr().err.splitlines()
    assert "16-bit pictures that never pass 4,095 (the highest here is 4,095)" in said
    (tmp_path / "set").rename(tmp_path / "before")
    opened(*dark, stored(np.full((2, 2), 4_096, np.uint16)))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_pictures_are_turned_as_the_camera_was_held(kind, opened):
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8] = 255
    held = Image.Exif()
    held[0x0112] = 6  # to be turned a quarter clockwise: what is left comes up
    upright = stored(np.rot90(pixels, -1).copy(), kind)
    images = opened(stored(pixels, kind, exif=held, quality=100), upright, suffix=kind.lower())
    assert images.shape == (3, 16, 8)
    assert images.pixels[0, :, :8].min() > 240 and images.pixels[0, :, 8:].max() < 15


def test_a_picture_on_its_side_that_nothing_turns_is_of_another_size(opened):
    turned = Image.Exif()
    turned[0x0112] = 8
    tall, wide = np.zeros((4, 2), np.uint8), np.zeros((2, 4), np.uint8)
    with pytest.raises(DataError, match="picture 2 is 4 x 2 where the first is 2 x 4"):
        opened(stored(tall), stored(wide, exif=turned), stored(wide))


def test_a_picture_whose_exif_is_damaged_stays_as_it_is_stored(opened):
    pixels = np.arange(8, dtype=np.uint8).reshape(2, 4)
    assert (opened(stored(pixels, exif=b"Exif\0\0nothing of the kind")).pixels[0, 0] == pixels).all()


def test_the_middle_crop_takes_whole_pixels(opened):
    stripes = np.tile((np.arange(33) % 2 * 255).astype(np.uint8), (32, 1))
    assert (opened(stored(stripes), size=32).pixels[0, 0] == stripes[:, :32]).all()


def test_the_middle_crop_is_the_middle(opened):
    wide = np.zeros((4, 12), np.uint8)
    wide[:, 4:8] = np.random.default_rng(0).integers(0, 256, (4, 4))
    images = opened(stored(wide), stored(wide.T.copy()), size=4)
    assert (images.pixels[0, 0] == wide[:, 4:8]).all() and (images.pixels[1, 0] == wide[:, 4:8].T).all()


def test_no_other_program_draws_a_picture(opened):
    drawing = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 2 2\n%%EndComments\nshowpage\n"
    with pytest.raises(DataError, match=r"picture 0 \(.*00.png\) does not decode \(UnidentifiedImageError\)"):
        opened(drawing)
