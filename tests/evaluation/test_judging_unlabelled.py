"""Real pictures whose classes nobody says: Inception compares with them, the small network cannot learn from them."""

import inspect
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from dit_lab.commands.encode import encode_command
from dit_lab.commands.train import train_command
from dit_lab.data import DataError, open_data
from dit_lab.evaluation import Judging, judging, open_judge
from dit_lab.evaluation.features import Network


@pytest.fixture
def flat(tmp_path, monkeypatch) -> Path:
    """A folder of 20 pictures without classes; Inception is a stand-in."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(judging, "inception", lambda *_: Network(None, 2, {"network": "inception"}))
    (tmp_path / "flat").mkdir()
    for number in range(20):
        Image.fromarray(np.full((4, 4), number, np.uint8)).save(tmp_path / "flat" / f"{number:02}.png")
    return tmp_path / "flat"


@pytest.mark.parametrize("classes", [0, 10])
def test_inception_compares_with_pictures_without_classes(classes, flat, tmp_path):
    asked = Judging(data=str(flat), features="inception")
    _, reference = open_judge(asked, (1, 4, 4), classes, tmp_path, "cpu")
    assert len(reference.pixels) == 20 and reference.images.names == []
    with pytest.raises(ValueError, match="the model makes pictures of 8 x 8, the data's are 4 x 4"):
        open_judge(asked, (1, 8, 8), classes, tmp_path, "cpu")


def test_where_classes_are_said_they_still_have_to_be_the_models(tmp_path, flat):
    with pytest.raises(ValueError, match="the model has 7 classes, the data 10"):
        open_judge(Judging(data="digits", features="inception"), (1, 8, 8), 7, tmp_path, "cpu")


@pytest.mark.parametrize("reference", [None, "some.npz"])
def test_the_small_network_asks_for_classes_in_a_sentence_that_is_true_of_evaluate(reference, flat, tmp_path):
    np.savez(tmp_path / "some.npz", mu=np.zeros(128), sigma=np.eye(128))
    asked = Judging(data=str(flat), reference=reference and tmp_path / reference)
    with pytest.raises(ValueError, match=r"learns from classes, and .*flat does not say them \(no column with") as told:
        open_judge(asked, (1, 4, 4), 0, tmp_path, "cpu")
    assert str(told.value).endswith("): take --features inception, or sort the pictures into a folder a class")
    assert "--no-labelled" not in str(told.value)


def test_the_reason_is_told_whole_whatever_stands_in_it_and_without_advice_for_who_trains(monkeypatch, tmp_path):
    def unsaid(data, *, labelled=True, **how):
        if labelled:
            raise DataError("no column with labels in this data set, which has 'a; b'", "train without them")

    monkeypatch.setattr(judging, "open_data", unsaid)
    with pytest.raises(
        ValueError, match=r"does not say them \(no column with labels .* which has 'a; b'\): take"
    ) as told:
        open_judge(Judging(data="digits"), (1, 4, 4), 0, tmp_path, "cpu")
    assert "train without them" not in str(told.value)
    assert str(DataError("why", "advice")) == "why; advice" and str(DataError("why")) == "why"


@pytest.mark.parametrize("features", ["small", "inception"])
def test_data_that_does_not_open_for_another_reason_is_told_by_that_reason(features, flat, tmp_path):
    for asked in Judging(data=str(flat), split="nosuch", features=features), Judging(str(tmp_path / "nosuch")):
        with pytest.raises(DataError, match="has no split nosuch|there is no folder"):
            open_judge(asked, (1, 4, 4), 0, tmp_path, "cpu")


def test_who_opens_pictures_without_classes_is_told_which_commands_do_without(flat):
    with pytest.raises(DataError, match="to train without classes, give train or encode --no-labelled$"):
        open_data(flat)
    assert all("labelled" in inspect.signature(each).parameters for each in (train_command, encode_command))
