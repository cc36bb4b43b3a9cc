"""The small data sets that ship: what they hold, that they are cut from the real ones, and how they are made again."""

import json
import shutil

import numpy as np
import pytest
import torch

from dit_lab.data import DataError, Images, Latents, open_codec, open_data
from dit_lab.data.shipped import ABOUT, SETS, folder_of, ship_pictures, shipped_pictures
from dit_lab.zoo.data import first, ship_latents

LATENTS = "cifar10-latents-small"


@pytest.mark.parametrize("split, count", [("train", 500), ("test", 100)])
def test_the_small_digits_are_as_many_of_each_class_and_labelled(split, count):
    images = open_data("mnist-small", split=split)
    assert isinstance(images, Images) and images.shape == (1, 28, 28) and images.names == list("0123456789")
    assert np.bincount(images.labels).tolist() == [count] * 10 and images.codec == "pixels"
    x, y = images.batch([0, 1, 2])
    assert x.min() == -1 and x.max() > 0.9 and y.tolist() == images.labels[:3].tolist()


def test_they_are_read_as_what_they_are_labelled():
    from dit_lab.evaluation import zoo_judge

    images = open_data("mnist-small", split="test")
    judge = zoo_judge("mnist28")
    assert judge.agreement(images.batch(range(1000))[0], images.labels) > 0.98


def test_they_are_the_first_of_mnist_pixel_for_pixel(real_data):
    real, small = first(open_data(real_data("mnist"), split="test"), 100), open_data("mnist-small", split="test")
    assert np.array_equal(real.pixels, small.pixels) and np.array_equal(real.labels, small.labels)


def test_another_size_and_no_classes_are_as_of_any_pictures():
    small = open_data("mnist-small", split="test", size=14, labelled=False)
    assert small.shape == (1, 14, 14) and small.names == [] and not small.labels.any()


def test_the_small_latents_are_a_cache_as_any_and_decode_to_pictures():
    latents = open_data(LATENTS)
    assert isinstance(latents, Latents) and latents.shape == (4, 8, 8) and latents.codec == "cifar10_vae"
    assert np.bincount(latents.labels).tolist() == [300] * 10 and latents.names[3] == "cat"
    x, y = latents.batch(range(500))
    assert x.mean(dim=(0, 2, 3)).abs().max() < 0.2 and (x.std(dim=(0, 2, 3)) - 1).abs().max() < 0.2
    mirrored, _ = latents.batch(range(500), mirrored=torch.ones(500, dtype=torch.bool))
    assert not torch.equal(mirrored, x)
    codec = open_codec("cifar10_vae", channels=4)
    pictures, flipped = codec.decode(x[:8]), codec.decode(mirrored[:8])
    assert pictures.shape == (8, 3, 32, 32) and (pictures.flip(-1) - flipped).square().mean() < 0.02
    assert codec.encoder_checksum == latents.encoder
    assert open_data(LATENTS, labelled=False).names == []


def test_they_are_the_latents_of_the_first_of_cifar10(real_data, tmp_path):
    images = first(open_data(real_data("cifar10"), split="train[:200]"), 3)
    ship_latents(tmp_path / "latents", images, "cifar10_vae")
    made, shipped = open_data(tmp_path / "latents"), open_data(LATENTS)
    places = np.sort(np.concatenate([np.flatnonzero(shipped.labels == label)[:3] for label in range(10)]))
    assert np.array_equal(shipped.labels[places], made.labels)
    torch.testing.assert_close(shipped.batch(places)[0], made.batch(range(30))[0], rtol=0, atol=5e-3)


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("mnist-small", dict(split="all"), "mnist_small has no split all; it has train, test"),
        (LATENTS, dict(split="test"), "holds the latents of the split train, not test"),
        (LATENTS, dict(size=16), "holds latents, which have no other size"),
    ],
)
def test_what_they_have_not_is_refused(name, options, told):
    with pytest.raises(DataError, match=told):
        open_data(name, **options)


def test_pictures_that_are_written_come_back_as_they_were(tmp_path):
    random = np.random.default_rng(0)
    sets = {}
    for split, count in ("train", 53), ("test", 50):
        pixels = random.integers(0, 256, (count, 1, 3, 5), dtype=np.uint8)
        sets[split] = Images(pixels, random.integers(0, 3, count), ["a", "b", "c"])
    ship_pictures(tmp_path, sets, {"source": "nobody"})
    assert json.loads((tmp_path / ABOUT).read_text())["source"] == "nobody"
    for split, images in sets.items():
        pixels, labels, names = shipped_pictures(tmp_path, split)
        assert np.array_equal(pixels, images.pixels) and np.array_equal(labels, images.labels)
        assert names == images.names and labels.dtype == np.int64


@pytest.mark.parametrize("damage", ["gone", "cut", "labels", "json", "names"])
def test_a_damaged_set_is_named_in_a_sentence(damage, tmp_path):
    folder = tmp_path / "small"
    shutil.copytree(folder_of("mnist-small"), folder)
    about = json.loads((folder / ABOUT).read_text())
    if damage == "gone":
        (folder / "test.png").unlink()
    elif damage == "cut":
        (folder / "test.png").write_bytes((folder / "test.png").read_bytes()[:5000])
    elif damage == "json":
        (folder / ABOUT).write_text("{")
    elif damage == "labels":
        about["splits"]["test"] += "1" * 60
    else:
        about["names"] = about["names"][:5]
    if damage in ("labels", "names"):
        (folder / ABOUT).write_text(json.dumps(about))
    with pytest.raises(DataError, match="is not whole .*install the package anew"):
        shipped_pictures(folder, "test")


def test_they_are_small_and_say_whose_they_are():
    for folder in map(folder_of, SETS):
        assert sum(path.stat().st_size for path in folder.iterdir()) < 3.5e6
        told = (folder / "README.md").read_text(encoding="utf-8")
        assert "https://huggingface.co/datasets/" in told and "python -m dit_lab.zoo.data" in told
    about = json.loads((folder_of("mnist-small") / ABOUT).read_text())
    assert "Yann LeCun" in about["source"] and "CC BY-SA 3.0" in about["licence"]
