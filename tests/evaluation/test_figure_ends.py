"""What looks at pictures, at its ends: very small sides, packages that are there already, files of other names."""

import json
import sys

import numpy as np
import pytest
import torch
from torch import nn

from dit_lab.data import Images
from dit_lab.evaluation import Classifier, train_classifier
from dit_lab.evaluation.inception import without_init


@pytest.mark.parametrize(
    ("channels", "size", "maps"),
    [(3, (2, 2), (32, 1, 1)), (3, (8, 8), (128, 1, 1)), (3, (40, 9), (128, 5, 1)), (3, (16, 16), (256, 1, 1)),
     (3, (64, 64), (256, 4, 4)), (1, (3, 20), (32, 1, 10)), (1, (28, 28), (64, 7, 7))],
)  # fmt: skip
def test_a_classifier_halves_the_sides_once_for_each_width_as_long_as_the_shorter_lasts(channels, size, maps):
    model = Classifier(channels, size, 2)
    convolutions = [layer for layer in model.features if isinstance(layer, nn.Conv2d)]
    assert [each.out_channels for each in convolutions] == [32, 64, 128, 256][: len(convolutions)]
    left = [side >> len(convolutions) for side in size]
    assert (convolutions[-1].out_channels, *left) == maps and model.features[-2].in_features == maps[0] * left[
        0
    ] * left[1]


def noise(count=8, channels=3, size=(8, 8)):
    """Pictures of noise in two classes."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, channels, *size)).astype(np.uint8)
    return Images(pixels, np.arange(count) % 2, ["one", "two"])


def test_a_seed_fixes_what_a_classifier_becomes():
    first, again, other = (train_classifier(noise(), epochs=3, seed=seed).head.weight for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_package_that_is_imported_already_stays_the_one_that_it_was(monkeypatch):
    monkeypatch.setitem(sys.modules, "json", json)  # whatever happens, it is there again afterwards
    with without_init("json"):
        assert sys.modules["json"] is json
    assert sys.modules["json"] is json


def test_a_package_that_is_not_there_is_no_failure():
    with without_init("no_such_package"):
        assert "no_such_package" not in sys.modules
