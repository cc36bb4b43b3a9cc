"""Decoded sets that are kept: the same pictures and sentences at the next start, and nothing that is out of date."""

import io
import os
import subprocess
import sys

import datasets
import numpy as np
import pytest
from PIL import Image
from shared import ROOT

from dit_lab.data import images as data
from dit_lab.data import kept, open_data
from dit_lab.data.pictures import Encoded


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, in which all is kept however quickly it was decoded."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setenv("DIT_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kept, "WORTH", 0.0)
    return tmp_path / "cache" / "decoded"


@pytest.fixture
def decodings(monkeypatch):
    """How often a set was decoded: a list that grows."""
    times, all_of = [], Encoded.all
    monkeypatch.setattr(Encoded, "all", lambda self: times.append(len(self)) or all_of(self))
    return times


def fill(folder, count=12, seed=0, mode="RGB"):
    """A folder of pictures, of which each is another."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        pixels = np.random.default_rng(seed + number).integers(0, 256, (6, 9, len(mode)), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return folder


def table(folder, count=12, seed=0):
    """A parquet file of pictures."""
    pictures = [np.random.default_rng(seed + k).integers(0, 256, (6, 9, 3), dtype=np.uint8) for k in range(count)]
    stored = []
    for picture in pictures:
        Image.fromarray(picture).save(buffer := io.BytesIO(), format="PNG")
        stored.append({"bytes": buffer.getvalue(), "path": None})
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    folder.mkdir(exist_ok=True)
    made = datasets.Dataset.from_dict({"image": stored, "label": [k % 3 for k in range(count)]}, features=features)
    made.to_parquet(folder / "train-00000-of-00001.parquet")
    return folder


def opened(where, **options):
    return open_data(where, labelled=False, **options)


@pytest.mark.parametrize("make", [fill, table])
@pytest.mark.parametrize("options", [{}, {"size": 4}, {"size": 3, "crop": "adm"}])
def test_the_second_start_decodes_nothing_and_has_the_same_pictures(make, options, tmp_path, decodings):
    first, second = (
        opened(make(tmp_path / "set"), **options) if not k else opened(tmp_path / "set", **options) for k in range(2)
    )
    assert decodings == [12] and np.array_equal(first.pixels, second.pixels) and first.fingerprint == second.fingerprint
    assert isinstance(second.pixels.base, np.memmap)  # not in memory until it is looked at
    for ours, theirs in zip(first.batch([3, 0, 3]), second.batch([3, 0, 3]), strict=True):
        assert (ours == theirs).all()


def test_labels_are_not_kept_so_that_a_set_without_them_shares_its_pictures(tmp_path, decodings):
    where = table(tmp_path / "set")
    assert open_data(where).names == ["0", "1", "2"] and opened(where).names == [] and decodings == [12]


def test_another_size_crop_cut_or_order_is_decoded_by_itself(tmp_path, decodings):
    where = table(tmp_path / "set")
    asked = [{}, {"size": 3}, {"size": 3, "crop": "adm"}, {"split": "train[1:]"}, {"split": "train[6:]+train[:6]"}]
    seen = [opened(where, **each).pixels for each in asked]
    assert decodings == [12, 12, 12, 11, 12]
    assert np.array_equal(seen[4], np.roll(seen[0], 6, axis=0)) and not np.array_equal(seen[1], seen[2])


def test_a_picture_that_changed_is_decoded_again_though_its_name_and_size_are_what_they_were(tmp_path, decodings):
    where = fill(tmp_path / "set")
    opened(where)
    stored, before = (where / "05.png"), os.stat(where / "05.png")
    other = Image.fromarray(np.zeros((6, 9, 3), np.uint8))
    other.save(stored)
    stored.write_bytes(stored.read_bytes() + bytes(before.st_size - stored.stat().st_size))
    assert stored.stat().st_size == before.st_size
    assert opened(where).pixels[5].max() == 0 and decodings == [12, 12]


def test_what_was_said_when_a_set_was_decoded_is_said_again_and_labels_follow_what_is_shown(
    tmp_path, decodings, capsys
):
    fill(tmp_path / "set" / "ant" if (tmp_path / "set").mkdir() is None else None, 10, mode="RGBA")
    fill(tmp_path / "set" / "bee", 10, seed=50)
    whole = (tmp_path / "set" / "ant" / "09.png").read_bytes()
    (tmp_path / "set" / "ant" / "09.png").write_bytes(whole[: len(whole) - 40])  # its header is fine
    told, labels = [], []
    for _ in range(2):
        labels.append(open_data(tmp_path / "set").labels.tolist())
        told.append([line for line in capsys.readouterr().err.splitlines() if "dit_lab" in line])
    assert decodings == [20] and told[0] == told[1] and len(told[0]) == 2
    assert labels[0] == labels[1] == [0] * 9 + [1] * 11


@pytest.mark.parametrize("damage", ["short", "flipped", "empty", "header", "other"])
def test_a_damaged_file_is_said_and_made_again(damage, tmp_path, cache, decodings, capsys):
    where = fill(tmp_path / "set")
    right = opened(where).pixels
    [path] = cache.iterdir()
    whole = path.read_bytes()
    middle = len(whole) - 200
    broken = {
        "short": whole[:-9], "empty": b"", "header": b"\xff" * 8 + whole[8:], "other": whole.replace(b'"U8"', b'"I8"'),
        "flipped": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
    }  # fmt: skip
    path.write_bytes(broken[damage])
    assert np.array_equal(opened(where).pixels, right) and decodings == [12, 12]
    assert f"kept in {path} are damaged" in capsys.readouterr().err
    assert np.array_equal(opened(where).pixels, right) and decodings == [12, 12]
    assert capsys.readouterr().err == ""


def test_the_least_used_go_first_and_only_files_that_are_ours(tmp_path, cache, monkeypatch):
    sets = [fill(tmp_path / f"set{k}", seed=100 * k) for k in range(3)]
    for each in sets[:2]:
        opened(each)
    first, second = sorted(cache.iterdir(), key=os.path.getmtime)
    for place, age in ((first, 50), (second, 90)):
        os.utime(place, (place.stat().st_mtime - age,) * 2)
    others = [
        cache / "decoded-mine.safetensors",
        cache / f"x{first.name}",
        cache / f"{first.name}.npy",
        cache / "notes",
    ]
    for each in others:
        each.write_bytes(bytes(10_000))
        os.utime(each, (0, 0))
    opened(sets[1])  # now the first is the one that was longest out of use
    monkeypatch.setattr(kept, "LIMIT", 2 * first.stat().st_size)
    opened(sets[2])
    assert second.exists() and not first.exists() and all(each.exists() for each in others)
    assert len([each for each in cache.iterdir() if kept.NAME.fullmatch(each.name)]) == 2


def test_a_set_over_the_limit_or_one_that_is_decoded_at_once_is_not_kept(tmp_path, cache, decodings, monkeypatch):
    where = fill(tmp_path / "set")
    monkeypatch.setattr(kept, "LIMIT", 12 * 3 * 6 * 9 - 1)
    opened(where)
    monkeypatch.setattr(kept, "LIMIT", 10**6)
    monkeypatch.setattr(kept, "WORTH", 60.0)
    opened(where)
    assert decodings == [12, 12] and not cache.exists()


def test_a_set_too_large_for_memory_stays_encoded_whatever_is_kept(tmp_path, monkeypatch):
    where = fill(tmp_path / "set")
    opened(where)
    monkeypatch.setattr(data, "MEMORY_LIMIT", 0)
    assert isinstance(opened(where).pixels, Encoded)


@pytest.mark.parametrize("told", ["off", "a file"])
def test_switched_off_or_where_nothing_can_be_written_it_goes_on_without(
    told, tmp_path, decodings, monkeypatch, capsys
):
    (tmp_path / "taken").write_text("mine")
    monkeypatch.setenv("DIT_LAB_CACHE", "off" if told == "off" else str(tmp_path / "taken"))
    where = fill(tmp_path / "set")
    assert np.array_equal(opened(where).pixels, opened(where).pixels) and decodings == [12, 12]
    assert capsys.readouterr().err == "" and (tmp_path / "taken").read_text() == "mine"
    assert not (tmp_path / "cache").exists()


def test_who_may_read_only_what_lies_in_a_set_gets_nothing_that_was_kept_for_others(tmp_path):
    paths = {"image": [str(each) for each in fill(tmp_path / "private", 3).iterdir()]}
    named = datasets.Dataset.from_dict(paths, features=datasets.Features({"image": datasets.Image()}))
    keys = {kept.key(Encoded(named.with_format("arrow"), homes=homes)) for homes in (None, [tmp_path])}
    assert len(keys) == 2


def test_two_processes_at_once_keep_one_whole_file(tmp_path, cache):
    where = fill(tmp_path / "set", 40)
    ask = (
        "import sys\nfrom dit_lab.data import kept, open_data\nkept.WORTH = 0.0\n"
        "print(open_data(sys.argv[1], labelled=False).fingerprint)"
    )
    here = dict(os.environ, PYTHONPATH=str(ROOT))
    command = [sys.executable, "-c", ask, str(where)]
    both = [subprocess.Popen(command, env=here, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = {each.communicate()[0] for each in both}
    assert said == {f"{opened(where).fingerprint}\n"}
    assert [each.name for each in cache.iterdir() if not kept.NAME.fullmatch(each.name)] == []
    assert len(list(cache.iterdir())) == 1


def test_the_folder_is_the_users_cache_unless_another_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("DIT_LAB_CACHE", "")
    assert kept.place() == tmp_path / "dit_lab" / "decoded"
    monkeypatch.setenv("DIT_LAB_CACHE", str(tmp_path / "other"))
    assert kept.place() == tmp_path / "other" / "decoded"
