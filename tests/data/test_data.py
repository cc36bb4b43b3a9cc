"""Data sets: what opens, what is decoded when, and one sentence for each that does not fit."""

import io
import os
import subprocess
import sys

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from shared import ROOT

from dit_lab.data import DataError, open_data
from dit_lab.data import images as data
from dit_lab.data.pictures import Encoded, most_broken


def png(seed=0, size=(6, 8), mode="RGB"):
    shape = size[::-1] if mode in ("L", "I;16") else (*size[::-1], len(mode))
    kind = np.uint16 if mode == "I;16" else np.uint8
    pixels = np.random.default_rng(seed).integers(0, np.iinfo(kind).max, shape, dtype=kind, endpoint=True)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue(), pixels


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Write a parquet folder from columns, and give its path."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def write(names=("cat", "dog"), **columns):
        features = {name: datasets.Value("int64") for name in columns}
        if names and "label" in columns:
            features["label"] = datasets.ClassLabel(names=list(names))
        if not all(isinstance(item, int) for item in columns.get("image", [0])):
            features["image"] = datasets.Image()
            columns["image"] = [item and {"bytes": item, "path": None} for item in columns["image"]]
        made = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
        (tmp_path / "set").mkdir(exist_ok=True)
        made.to_parquet(tmp_path / "set" / "train-00000-of-00001.parquet")
        return tmp_path / "set"

    return write


def test_digits_are_there_without_a_network():
    train, test = open_data("digits"), open_data("digits", split="test")
    assert len(train) + len(test) == 1797 and train.shape == (1, 8, 8) and train.names == list("0123456789")
    x, y = train.batch([3, 5])
    assert x.shape == (2, 1, 8, 8) and x.dtype == torch.float32 and x.min() == -1 and x.max() == 1
    assert y.dtype == torch.int64
    assert open_data("digits", size=16).shape == (1, 16, 16)


@pytest.mark.parametrize(
    ("name", "shape", "first"), [("mnist", (1, 28, 28), "0"), ("cifar10", (3, 32, 32), "airplane")]
)
def test_real_parquet_opens_with_its_class_names(name, shape, first, real_data):
    images = open_data(real_data(name), split="test")
    assert len(images) == 10_000 and images.shape == shape and images.names[0] == first and len(images.names) == 10
    assert np.bincount(images.labels).min() > 800


def test_pictures_and_labels_come_as_stored(folder):
    stored = [png(seed) for seed in range(5)]
    images = open_data(folder(image=[item for item, _ in stored], label=[0, 1, 1, 0, 1]))
    assert images.names == ["cat", "dog"] and images.labels.tolist() == [0, 1, 1, 0, 1]
    assert (images.pixels == np.stack([pixels.transpose(2, 0, 1) for _, pixels in stored])).all()


def test_a_large_set_is_decoded_when_asked_for_and_gives_the_same(folder, monkeypatch):
    where = folder(image=[png(seed)[0] for seed in range(5)], label=[0, 1, 1, 0, 1])
    whole = open_data(where)
    monkeypatch.setattr(data, "MEMORY_LIMIT", 5 * 3 * 8 * 6 - 1)
    lazy = open_data(where)
    assert isinstance(lazy.pixels, Encoded) and isinstance(whole.pixels, np.ndarray)
    assert lazy.shape == whole.shape and len(lazy) == len(whole) and lazy.fingerprint == whole.fingerprint
    for ours, theirs in zip(lazy.batch(np.array([4, 0, 4])), whole.batch(np.array([4, 0, 4])), strict=True):
        assert torch.equal(ours, theirs)


def test_a_folder_of_pictures_has_its_subfolders_as_classes(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for number, kind in enumerate(["zebra", "ant", "zebra"]):
        place = tmp_path / "zoo" / kind
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.png").write_bytes(png(number)[0])
    images = open_data(tmp_path / "zoo")
    assert images.names == ["ant", "zebra"] and sorted(images.labels) == [0, 1, 1] and images.shape == (3, 8, 6)


def test_mixed_sizes_need_a_size_which_crops_the_middle(folder):
    where = folder(image=[png(0)[0], png(1, size=(10, 10))[0]], label=[0, 1])
    with pytest.raises(DataError, match=r"picture 1 is 10 x 10 where the first is 6 x 8; give a size \(--size\)"):
        open_data(where)
    assert open_data(where, size=4).pixels.shape == (2, 3, 4, 4)


def test_grey_pictures_among_coloured_ones_become_coloured(folder):
    (grey, pixels), (coloured, _) = png(0, mode="L"), png(1)
    images = open_data(folder(image=[grey, coloured], label=[0, 1]))
    assert images.shape == (3, 8, 6) and (images.pixels[0] == pixels).all()


def test_sixteen_bits_are_scaled_and_transparency_is_laid_on_white(folder):
    wide, pixels = png(0, mode="I;16")
    images = open_data(folder(image=[wide], label=[0]))
    assert images.shape == (1, 8, 6) and (images.pixels[0, 0] == pixels // 257).all()
    glass, pixels = png(0, mode="RGBA")
    colours, alpha = np.split(pixels.transpose(2, 0, 1) / 255, [3])
    seen = open_data(folder(image=[glass], label=[0])).pixels[0]
    assert (seen == np.rint(255 * (colours * alpha + 1 - alpha))).all()


def test_a_set_without_labels_is_for_unconditional_training(folder):
    where = folder(image=[png(0)[0]])
    with pytest.raises(DataError, match="no column with a label .*which has image; to train without classes"):
        open_data(where)
    assert open_data(where, labelled=False).names == []


def test_plain_numbers_are_classes_of_their_own(folder):
    images = open_data(folder(image=[png(s)[0] for s in range(3)], label=[2, 0, 1], names=None))
    assert images.names == ["0", "1", "2"]


def test_numbers_with_gaps_are_as_many_classes_as_there_are_with_their_names(folder):
    images = open_data(folder(image=[png(s)[0] for s in range(4)], label=[7, 3, 7, 3], names=None))
    assert images.names == ["3", "7"] and images.labels.tolist() == [1, 0, 1, 0]


def test_a_split_that_lacks_a_class_of_another_numbers_them_alike(folder):
    where = folder(image=[png(s)[0] for s in range(3)], label=[3, 5, 7], names=None)
    (where / "train-00000-of-00001.parquet").rename(where / "test-00000-of-00001.parquet")
    folder(image=[png(s)[0] for s in range(3)], label=[7, 9, 3], names=None)
    test = open_data(where, split="test")
    assert test.names == ["3", "5", "7", "9"] and test.labels.tolist() == [0, 1, 2]
    assert open_data(where).labels.tolist() == [2, 3, 0]


@pytest.mark.parametrize(
    ("labels", "names", "told"),
    [
        ([0, -1, 1], ("a", "b"), "label -1 of picture 1 is not one of 0 to 1"),
        ([0, 1, None], ("a", "b"), "picture 2 has no label"),
        ([0, -4, 1], None, "label -4 of picture 1"),
    ],
)
def test_a_label_that_cannot_be_is_named_with_its_picture(labels, names, told, folder):
    with pytest.raises(DataError, match=told):
        open_data(folder(image=[png(s)[0] for s in range(3)], label=labels, names=names))


@pytest.mark.parametrize("broken", [b"no picture", "truncated", None])
def test_a_picture_that_does_not_decode_is_named_by_its_number(broken, folder):
    whole = png(0)[0]
    broken = whole[: len(whole) // 2] if broken == "truncated" else broken
    with pytest.raises(DataError, match="picture 1 does not decode"):
        open_data(folder(image=[whole, broken, whole], label=[0, 0, 1]))


@pytest.mark.parametrize("lazy", [False, True])
def test_a_few_pictures_that_do_not_decode_are_named_once_and_the_next_ones_stand_in(lazy, folder, monkeypatch, capsys):
    stored = [png(seed) for seed in range(30)]
    broken = {0: b"no picture", 7: stored[7][0][:60], 8: None}
    where = folder(image=[broken.get(k, item) for k, (item, _) in enumerate(stored)], label=[k % 2 for k in range(30)])
    if lazy:
        monkeypatch.setattr(data, "MEMORY_LIMIT", 0)
    images = open_data(where)
    x, y = images.batch([7, 0, 6, 8, 7, 29])
    shown = [9, 1, 6, 9, 9, 29]
    assert y.tolist() == [k % 2 for k in shown] and len(images) == 30
    for ours, place in zip(x, shown, strict=True):
        assert (ours == torch.from_numpy(stored[place][1].transpose(2, 0, 1)) / 127.5 - 1).all()
    assert [images.labels_shown[place] for place in (6, 7, 8, 0)] == [0, 1, 1, 1]
    told = [line for line in capsys.readouterr().err.splitlines() if "does not decode" in line]
    assert len(told) == 3 and all(sum(f"picture {place} " in line for line in told) == 1 for place in broken)


def test_the_last_picture_that_does_not_decode_is_replaced_by_the_first(folder):
    stored = [png(seed) for seed in range(12)]
    images = open_data(folder(image=[item for item, _ in stored[:11]] + [b""], label=[1] + [0] * 11))
    assert (images.pixels[11] == images.pixels[0]).all() and images.labels[11] == 1


def test_too_many_pictures_that_do_not_decode_are_an_error_with_their_number_and_the_first_of_them(folder):
    where = folder(image=[b"" if k % 5 == 2 else png(k)[0] for k in range(40)], label=[0] * 40)
    with pytest.raises(
        DataError, match=r"5 of 40 pictures do not decode \(numbers 2, 7, 12, 17, 22\), where 4 are let"
    ):
        open_data(where)


def test_the_limit_is_one_in_a_thousand_but_ten_of_a_small_set_and_never_over_a_tenth():
    assert [most_broken(total) for total in (5, 50, 500, 5_000, 50_000)] == [0, 5, 10, 10, 50]


def test_a_broken_file_of_a_folder_is_named_by_its_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "zoo" / "ant").mkdir(parents=True)
    for number in range(12):
        (tmp_path / "zoo" / "ant" / f"{number:02d}.png").write_bytes(png(number)[0] if number != 3 else b"broken")
    assert len(open_data(tmp_path / "zoo", labelled=False)) == 12
    assert "ant/03.png) does not decode" in capsys.readouterr().err


def test_mirrored_pictures_are_flipped_left_to_right_and_only_those():
    images = open_data("digits")
    x, y = images.batch([1, 2, 3])
    flipped, same = images.batch([1, 2, 3], mirrored=torch.tensor([True, False, True]), noise=torch.randn(x.shape))
    assert torch.equal(flipped, torch.stack([x[0].flip(-1), x[1], x[2].flip(-1)])) and torch.equal(y, same)
    assert images.codec == "pixels"


def test_other_columns_are_named(folder):
    with pytest.raises(DataError, match="no column with a picture .*which has x, label"):
        open_data(folder(x=[1, 2], label=[0, 1]))
    with pytest.raises(DataError, match="the column image holds .*not pictures"):
        open_data(folder(image=[1, 2], label=[0, 1]))


def test_an_empty_set_says_so():
    with pytest.raises(DataError, match="empty"):
        data.from_dataset(datasets.Dataset.from_dict({"image": [], "label": []}))


def test_an_unknown_split_names_those_there_are(folder):
    with pytest.raises(DataError, match="split.*train"):
        open_data(folder(image=[png(0)[0]], label=[0]), split="validation")
    with pytest.raises(DataError, match="it has train and test"):
        open_data("digits", split="validation")


@pytest.mark.parametrize("path", ["/no/such/place", "./nothing", "a/b/c", "somewhere/", "~/no_such_place"])
def test_what_looks_like_a_path_is_never_asked_of_the_hub(path, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("the hub was asked"))
    with pytest.raises(DataError, match=f"there is no folder {path}$"):
        open_data(path)


def test_a_broken_folder_is_one_sentence(tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match="does not open as a data set") as caught:
        open_data(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="is a file; give the folder"):
        open_data(tmp_path / "train.parquet")


def test_without_the_hub_a_local_folder_is_offered(tmp_path):
    ask = "from dit_lab.data.images import open_data; open_data('nobody/nothing')"
    here = dict(os.environ, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path), PYTHONPATH=str(ROOT))
    said = subprocess.run([sys.executable, "-c", ask], env=here, capture_output=True, text=True).stderr
    last = said.strip().splitlines()[-1]
    assert "DataError: there is no folder nobody/nothing, and as a hub id it does not open" in last
    assert "give a local folder of parquet files" in last


def test_importing_needs_only_torch_and_numpy():
    ask = (
        "import sys, dit_lab.data.images; sys.exit(any(name in sys.modules for name in ('datasets', 'sklearn', 'PIL')))"
    )
    here = dict(os.environ, PYTHONPATH=str(ROOT))
    assert subprocess.run([sys.executable, "-c", ask], env=here).returncode == 0
