"""ADM's files from strangers: pictures or statistics, or one sentence, soon and in bounded memory."""

import io
import os
import resource
import struct
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from shared import in_child

from dit_lab.evaluation import adm

PICTURES = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)


def packed(path, header, body=b"", *, name="arr_0.npy", version=1, how=zipfile.ZIP_STORED):
    """A file whose array has a header of one's own."""
    text = header if isinstance(header, bytes) else header.encode()
    length = struct.pack("<H", len(text)) if version == 1 else struct.pack("<I", len(text))
    with zipfile.ZipFile(path, "w", how) as archive:
        archive.writestr(name, b"\x93NUMPY" + bytes([version, 0]) + length + text + body)
    return path


def about(descr, shape):
    return f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}\n"


def refused(path, told):
    """Refused soon in one sentence with these words."""
    began = time.monotonic()
    with pytest.raises(ValueError, match=told) as caught:
        adm.read(path)
    said = str(caught.value).replace(str(path), "")
    assert time.monotonic() - began < 2 and len(said) < 250 and said.isprintable()


@pytest.mark.parametrize(
    "header",
    ["{" * 60_000, "{" * 900, "[" * 900, "-" * 900 + "1", "(" * 100 + ")" * 100, "{}", "", "5", "\n" * 900,
     b"\xff" * 64,
     "{'descr': 5, 'fortran_order': False, 'shape': (1,)}", "{'descr': '|u1', 'fortran_order': 0, 'shape': (1,)}",
     "{'descr': '|u1', 'fortran_order': False, 'shape': 'x'}", "{'descr': '|u1', 'fortran_order': False}",
     "__import__('os').mkdir('ran')", "{'descr': '" + "(1,)" * 200 + "u1', 'fortran_order': False, 'shape': (1,)}"],
)  # fmt: skip
def test_a_header_that_is_none_is_refused(header, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for version in 1, 2:
        if version == 2 or len(header) < 2**16:
            refused(packed(tmp_path / "a.npz", header, b"\0", version=version), "arr_0 has a header that is none")
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("descr", "shape", "told"),
    [
        ("|u1", (10**12, 256, 256, 3), "by its header, which its [0-9]+ bytes are not"),
        ("|u1", (2**62, 2**62, 4, 3), "by its header"),
        ("|u1", (-2, -4, 5, 3), "no readable"),
        ("|u1", (2, 4, 5, 3, *[1] * 100), "no readable"),
        ("|u1", (2, 4, 5, 3, *[1] * 60), "uint8 of n x h x w x 3|no readable"),  # 64 sides, or NumPy 1 has 32 at most
        ("|V1000000000", (2, 4, 5, 3), "by its header"),
        ("<f8", (2, 4, 5, 3), "by its header"),
        ("|O", (15,), "holds Python's objects"),
        ([("a", "|O")], (15,), "holds Python's objects"),
        ([("a", "|u1"), ("b", "<u2")], (40,), "uint8 of n x h x w x 3, not void24 of 40"),
        ("|S0", (10**15,), "by its header"),
        ("<U30", (1,), "uint8 of n x h x w x 3, not str960 of 1"),
        ("<f8", (15,), "uint8 of n x h x w x 3, not float64 of 15"),
    ],
)
def test_a_header_that_promises_what_is_not_there_or_no_pictures_is_refused(descr, shape, told, tmp_path):
    refused(packed(tmp_path / "a.npz", about(descr, shape), PICTURES.tobytes()), told)


def test_empty_arrays_and_versions_that_no_file_of_pictures_has_are_refused(tmp_path):
    refused(packed(tmp_path / "a.npz", about("|S0", (10**15,))), "uint8 of n x h x w x 3")
    refused(packed(tmp_path / "a.npz", about("|u1", (0, 4, 5, 3))), "uint8 of n x h x w x 3")
    for version in 0, 3, 255:
        refused(packed(tmp_path / "a.npz", about("|u1", (1,)), b"\0", version=version), "arr_0 is no plain array")


def growth(path):
    """What is said of a file, and the megabytes that this process grows by and the seconds that it takes to read it."""
    adm.read(path.parent / "sound.npz")
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    try:
        adm.read(path)
        said = "it opens"
    except ValueError as error:
        said = str(error)
    seconds = time.monotonic() - began
    return said, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, seconds


def test_a_small_file_that_would_unpack_to_very_much_is_refused(tmp_path):
    np.savez(tmp_path / "sound.npz", arr_0=PICTURES)
    path = packed(
        tmp_path / "bomb.npz", about("|u1", (100, 1024, 1024, 3)), bytes(300 * 2**20), how=zipfile.ZIP_DEFLATED
    )
    said, megabytes, _ = in_child(growth, path)
    assert "unpack to" in said and "write it without compression" in said and megabytes < 50
    packed(path, about("|u1", (10**10, 1, 1, 3)), bytes(100), how=zipfile.ZIP_DEFLATED)
    said, megabytes, _ = in_child(growth, path)
    assert "by its header" in said and megabytes < 50


def test_a_zip_of_a_million_entries_is_refused_by_its_table(tmp_path):
    np.savez(tmp_path / "sound.npz", arr_0=PICTURES)
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    table = entry * 1_000_000
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65535, 65535, len(table), 0, 0)
    (path := tmp_path / "many.npz").write_bytes(table + end)
    said, megabytes, seconds = in_child(growth, path)
    assert "no readable" in said and megabytes < 100 and seconds < 5


def test_what_numpy_does_not_write_is_refused(tmp_path):
    body = about("|u1", PICTURES.shape)
    for how in zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA:
        told = "compressed in a way that numpy does not write"
        refused(packed(tmp_path / "a.npz", body, PICTURES.tobytes(), how=how), told)
    content = bytearray(packed(tmp_path / "a.npz", body, PICTURES.tobytes()).read_bytes())
    for mark, place in (b"PK\3\4", 6), (b"PK\1\2", 8):
        content[content.index(mark) + place] |= 1  # encrypted
    (tmp_path / "a.npz").write_bytes(content)
    refused(tmp_path / "a.npz", "encrypted")


def test_pipes_devices_and_folders_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    for path in tmp_path / "pipe.npz", tmp_path, Path("/dev/zero"):
        refused(path, "no readable .npz of plain arrays: it is no file")


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"arr_0": PICTURES, "arr_1": np.zeros(3, int)}, "arr_1 should be 2 whole numbers, the labels, not int64 of 3"),
        ({"arr_0": PICTURES, "arr_1": np.zeros(2)}, "arr_1 should be 2 whole numbers"),
        ({"arr_0": PICTURES, "arr_1": np.array("x")}, "arr_1 should be 2 whole numbers"),
        ({"mu": np.zeros(2, np.longdouble), "sigma": np.eye(2)}, "mu and sigma should be"),
        ({"mu": np.zeros(2, complex), "sigma": np.eye(2)}, "mu and sigma should be"),
        ({"mu": np.zeros((2, 1)), "sigma": np.eye(2)}, "mu and sigma should be"),
        ({"mu": np.zeros(2)}, "neither pictures"),
        ({"mu_s": np.zeros(2), "sigma_s": np.eye(2)}, "neither pictures"),
        ({"arr_0": PICTURES, "mu_s": np.zeros(2), "sigma_s": np.eye(3)}, "mu_s and sigma_s should be a mean of d"),
        ({"arr_0": PICTURES, "mu_s": np.zeros(1), "sigma_s": np.full((1, 1), np.nan)}, "mu_s or sigma_s holds NaN"),
    ],
)
def test_labels_and_statistics_that_fit_nothing_are_refused(arrays, told, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    refused(tmp_path / "a.npz", told)


def test_honest_files_open_compressed_or_not_and_of_any_byte_order(tmp_path):
    np.savez(tmp_path / "a.npz", arr_0=PICTURES, arr_1=np.array([3, 1]))
    np.savez_compressed(tmp_path / "b.npz", PICTURES, np.array([3, 1]))
    np.savez(tmp_path / "c.npz", np.asfortranarray(PICTURES), np.array([3, 1], ">i2"), other=np.zeros(9))
    adm.write(tmp_path / "d.npz", 2, [(PICTURES, np.array([3, 1]))])
    for name in "abcd":
        arrays = adm.read(tmp_path / f"{name}.npz")
        assert np.array_equal(arrays["arr_0"], PICTURES) and arrays["arr_1"].tolist() == [3, 1]
        assert arrays.keys() == {"arr_0", "arr_1"}
    np.savez(tmp_path / "e.npz", mu=np.arange(2, dtype=">f8"), sigma=np.eye(2, dtype=">f4"))
    arrays = adm.read(tmp_path / "e.npz")
    assert arrays["mu"].tolist() == [0, 1] and arrays["mu"].dtype.isnative and arrays["sigma"].dtype.isnative


def test_black_pictures_that_compress_to_nothing_open(tmp_path):
    """As many small ones as an evaluation has: 150 MB beyond the file's own size."""
    content = io.BytesIO()
    np.savez_compressed(content, np.zeros((10_000, 32, 32, 3), np.uint8))
    (tmp_path / "a.npz").write_bytes(content.getvalue())
    assert adm.read(tmp_path / "a.npz")["arr_0"].shape == (10_000, 32, 32, 3)


def test_pictures_beyond_what_a_plain_zip_holds_are_written_and_read(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)  # 2 GiB is where an entry needs wider numbers for its size
    adm.write(tmp_path / "a.npz", 4, [(PICTURES, np.array([3, 1])), (PICTURES[::-1], np.array([1, 3]))])
    arrays = adm.read(tmp_path / "a.npz")
    assert np.array_equal(arrays["arr_0"], np.concatenate([PICTURES, PICTURES[::-1]]))
    assert arrays["arr_1"].tolist() == [3, 1, 1, 3]


def test_what_is_read_is_in_this_machines_byte_order(tmp_path):
    swapped = np.dtype(float).newbyteorder()
    np.savez(tmp_path / "a.npz", mu=np.arange(2, dtype=swapped), sigma=np.eye(2, dtype=swapped))
    arrays = adm.read(tmp_path / "a.npz")
    assert all(array.dtype == np.float64 and array.dtype.isnative for array in arrays.values())
    assert arrays["mu"].tolist() == [0, 1] and np.array_equal(arrays["sigma"], np.eye(2))


def test_a_single_array_is_refused_as_what_it_is(tmp_path):
    np.save(tmp_path / "a.npy", PICTURES)
    refused((tmp_path / "a.npy").rename(tmp_path / "a.npz"), "it is a single array")


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    def failing():
        yield PICTURES, np.array([3, 1])
        raise RuntimeError("the device is gone")

    with pytest.raises(RuntimeError, match="the device is gone"):
        adm.write(tmp_path / "a.npz", 4, failing())
    assert list(tmp_path.iterdir()) == []
    adm.write(tmp_path / "a.npz", 2, [(PICTURES, np.array([3, 1]))])
    with pytest.raises(RuntimeError, match="the device is gone"):
        adm.write(tmp_path / "a.npz", 4, failing())
    assert np.array_equal(adm.read(tmp_path / "a.npz")["arr_0"], PICTURES) and len(list(tmp_path.iterdir())) == 1


def test_labels_that_are_pythons_objects_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="allow_pickle"):
        adm.write(tmp_path / "a.npz", 2, [(PICTURES, np.array([None, 1]))])
    assert list(tmp_path.iterdir()) == []


def test_a_path_may_be_a_text_and_one_that_leads_nowhere_is_told_as_that(tmp_path):
    path = str(tmp_path / "a.npz")
    refused(path, "^there is no file .*a.npz$")
    adm.write(path, 2, [(PICTURES, np.array([3, 1]))])
    assert np.array_equal(adm.read(path)["arr_0"], PICTURES)


def test_an_array_of_python_2_opens_and_nothing_is_warned_of(tmp_path):
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (2L, 4L, 5L, 3L), }"
    path = packed(tmp_path / "a.npz", header, PICTURES.tobytes())
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert np.array_equal(adm.read(path)["arr_0"], PICTURES)
    assert warned == []


def test_a_header_of_more_letters_than_numpy_would_ever_write_is_refused(tmp_path):
    for blanks in 0, 900:
        path = packed(tmp_path / "a.npz", about("|u1", PICTURES.shape) + " " * blanks, PICTURES.tobytes())
        assert np.array_equal(adm.read(path)["arr_0"], PICTURES)
    for version in 1, 2:
        path = packed(
            tmp_path / "a.npz", about("|u1", PICTURES.shape) + " " * 1000, PICTURES.tobytes(), version=version
        )
        refused(path, "arr_0 has a header that is none")


def test_a_file_may_unpack_to_so_much_more_or_to_twice_its_size(tmp_path, monkeypatch):
    path = packed(tmp_path / "a.npz", about("|u1", (1000, 10, 10, 3)), bytes(300_000), how=zipfile.ZIP_DEFLATED)
    size, whole = path.stat().st_size, zipfile.ZipFile(path).getinfo("arr_0.npy").file_size
    monkeypatch.setattr(adm, "MORE", whole - size)
    assert adm.read(path)["arr_0"].shape == (1000, 10, 10, 3)
    monkeypatch.setattr(adm, "MORE", whole - size - 1)
    refused(path, f"its {size} bytes unpack to {whole}; write it without compression")
    monkeypatch.setattr(adm, "MORE", 0)
    for colours, fits in (12, True), (8, False):
        pixels = np.random.default_rng(0).integers(0, colours, (100, 10, 10, 3)).astype(np.uint8)
        np.savez_compressed(path, pixels)
        times = zipfile.ZipFile(path).getinfo("arr_0.npy").file_size / path.stat().st_size
        assert 1.5 < times < 2.5 and (times < 2) == fits
        assert np.array_equal(adm.read(path)["arr_0"], pixels) if fits else refused(path, "unpack to") is None


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_one_number_that_is_none_is_enough_to_refuse_statistics(wrong, tmp_path):
    for place in range(2):
        mean, covariance = np.zeros(2), np.eye(2)
        (mean, covariance)[place].flat[0] = wrong
        np.savez(tmp_path / "a.npz", mu=mean, sigma=covariance)
        refused(tmp_path / "a.npz", "mu or sigma holds NaN or Inf")


def test_a_name_as_long_as_a_zip_allows_is_told_in_a_short_sentence(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("b" * 60_000, b"")
        archive.infolist()[0].filename = "arr_0.npy"  # in the table; in the file itself the other stays
    refused(tmp_path / "a.npz", "no readable .npz of plain arrays: File name in directory")


def test_an_entry_that_reaches_beyond_the_file_is_refused_also_where_a_zips_reader_finds_no_words(tmp_path):
    path = packed(tmp_path / "a.npz", about("|u1", (1000, 10, 10, 3)))
    with zipfile.ZipFile(path, "a") as archive:
        entry = archive.infolist()[0]
        entry.file_size = entry.compress_size = entry.file_size + 300_000
        archive.writestr("other", b"")  # so that the table is written again
    refused(path, "no readable .npz of plain arrays: (EOFError|Overlapped entries)")  # as Python is
