"""What looks at pictures, at its ends: very small sides, seeds, folders, several that fit, packages already there."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from torch import nn

from dit_lab.data import Images
from dit_lab.evaluation import Classifier, features, train_classifier
from dit_lab.evaluation.features import Network, Seen, classifier_for, keep, opened, parted, shipped, small_network
from dit_lab.evaluation.inception import without_init
from dit_lab.files import checksum


@pytest.mark.parametrize(
    ("channels", "size", "maps"),
    [(3, (2, 2), (32, 1, 1)), (3, (8, 8), (128, 1, 1)), (3, (40, 9), (128, 5, 1)), (3, (16, 16), (256, 1, 1)),
     (3, (64, 64), (256, 4, 4)), (1, (3, 20), (32, 1, 10)), (1, (28, 28), (64, 7, 7))],
)  # fmt: skip
def test_a_classifier_halves_the_sides_once_for_each_width_as_long_as_the_shorter_lasts(channels, size, maps):
    model = Classifier(channels, size, 2)
    convolutions = [layer for layer in model.features if isinstance(layer, nn.Conv2d)]
    assert [each.out_channels for each in convolutions] == [32, 64, 128, 256][: len(convolutions)]
    assert maps == (convolutions[-1].out_channels, *(side >> len(convolutions) for side in size))
    assert model.features[-2].in_features == math.prod(maps)


def noise(count=8, channels=3, size=(8, 8)):
    """Pictures of noise in two classes."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, channels, *size)).astype(np.uint8)
    return Images(pixels, np.arange(count) % 2, ["one", "two"])


def test_a_seed_fixes_what_a_classifier_becomes():
    first, again, other = (train_classifier(noise(), epochs=3, seed=seed).head.weight for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_bar_says_that_a_classifier_is_trained_and_how_far(capsys):
    train_classifier(noise(), epochs=3, batch_size=4)
    assert "classifier" in (bar := capsys.readouterr().err) and "6/6" in bar


def test_both_parts_are_in_the_order_of_the_pictures():
    assert all(len(part) > 1 and (np.diff(part) > 0).all() for part in parted(50))


def test_a_classifier_is_kept_in_a_folder_that_was_not_there_and_a_network_says_which_it_is(monkeypatch, tmp_path):
    monkeypatch.setattr(features, "LEAST_STEPS", 1)
    path = tmp_path / "new" / "folder" / "classifier.safetensors"
    model = classifier_for(noise(), path)
    network = small_network(noise(), "train", noise, path.parent, torch.device("cpu"))
    assert path.is_file() and network.about["checksum"] == checksum(model.state_dict())


def test_a_classifier_of_other_pictures_is_refused_with_the_shape_that_was_asked_for(tmp_path):
    keep(tmp_path / "kept.safetensors", Classifier(1, (8, 8), 2), {})
    with pytest.raises(
        ValueError, match="kept.safetensors is no classifier of pictures of 3 x 6 x 8 in these 2 classes"
    ):
        opened(tmp_path / "kept.safetensors", noise(size=(6, 8)))


def test_of_several_that_ship_for_the_same_pictures_it_is_the_first_by_name(monkeypatch, tmp_path):
    monkeypatch.setattr(features, "JUDGES", tmp_path)
    about = {"shape": [3, 8, 8], "splits": {"train": noise().fingerprint}}
    for name in "hcfadgeb":
        keep(tmp_path / f"{name}.safetensors", Classifier(3, (8, 8), 2), about)
    assert shipped(noise(), "train") == tmp_path / "a.safetensors"


def test_what_a_network_in_half_precision_sees_is_handed_on_in_fp32():
    look = lambda pixels: Seen(pixels.flatten(1).half(), pixels.flatten(1).half())
    seen = Network(look, 192, {}).see([noise().pixels], 8, "noise")
    assert seen.features.dtype == seen.logits.dtype == torch.float32


def test_a_package_that_is_imported_already_stays_the_one_that_it_was(monkeypatch):
    monkeypatch.setitem(sys.modules, "json", json)  # whatever happens, it is there again afterwards
    with without_init("json"):
        assert sys.modules["json"] is json
    assert sys.modules["json"] is json


def test_a_package_that_is_not_there_is_no_failure():
    with without_init("no_such_package"):
        assert "no_such_package" not in sys.modules


def test_pictures_of_a_single_row_are_refused_by_the_small_judge_in_a_sentence():
    with pytest.raises(ValueError, match="of 1 x 8 pixels are too small for a small judge: take 2 or more"):
        Classifier(1, (1, 8), 3)
    assert Classifier(1, (2, 8), 3)(torch.zeros(1, 1, 2, 8)).shape == (1, 3)
