"""A set with a single split: its tenth and its rest, the same for everybody, and what the commands make of them."""

import subprocess
import sys

import datasets
import numpy as np
import pytest
from PIL import Image
from shared import ROOT

from dit_lab.data import DataError, judged_splits, open_data
from dit_lab.data.splits import tenth_of

KINDS = {"ant": 60, "bee": 25, "cow": 15}


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """100 pictures in three folders; each is of another grey, so that it can be told."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    shades = iter(range(100))
    for kind, count in KINDS.items():
        (tmp_path / "zoo" / kind).mkdir(parents=True)
        for number in range(count):
            Image.new("L", (4, 4), next(shades)).save(tmp_path / "zoo" / kind / f"{number:02}.png")
    return tmp_path / "zoo"


def shades(images):
    return images.pixels[:, 0, 0, 0].tolist()


def test_a_tenth_and_the_rest_are_the_whole_and_share_nothing(zoo):
    rest, tenth = (open_data(zoo, split=split) for split in ("rest", "tenth"))
    assert len(tenth) == 10 and sorted(shades(rest) + shades(tenth)) == list(range(100))
    assert shades(open_data(zoo, split="rest+tenth[:3]")) == shades(rest) + shades(tenth)[:3]


def test_each_class_has_its_share_in_the_tenth_and_its_name_and_number_in_both(zoo):
    rest, tenth = (open_data(zoo, split=split) for split in ("rest", "tenth"))
    assert np.bincount(tenth.labels).tolist() in ([6, 3, 1], [6, 2, 2]) and rest.names == tenth.names == list(KINDS)


def test_who_trains_without_labels_leaves_the_same_tenth_out(zoo):
    assert shades(open_data(zoo, split="tenth", labelled=False)) == shades(open_data(zoo, split="tenth"))


def test_the_tenth_is_the_same_on_every_machine_in_every_process_whatever_was_seeded():
    np.random.seed(1)
    here = tenth_of(["a"] * 30 + ["b"] * 30)
    assert here.tolist() == [16, 22, 23, 36, 40, 56]
    assert tenth_of([None] * 20).tolist() == [10, 16]
    ask = "from dit_lab.data.splits import tenth_of; print(tenth_of(['a'] * 30 + ['b'] * 30).tolist())"
    there = subprocess.run([sys.executable, "-c", ask], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert there.stdout.strip() == str(here.tolist())


@pytest.mark.parametrize("count", range(1, 45))
def test_a_tenth_of_few_is_at_least_one_and_never_more_than_one_over(count):
    assert max(1, count // 10) <= len(tenth_of([0] * count)) <= count // 10 + 1


def test_a_set_with_several_splits_has_no_tenth_and_one_with_its_own_of_that_name_keeps_it(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for split, shade in (("train", 1), ("test", 2)):
        (tmp_path / "two" / split / "a").mkdir(parents=True)
        Image.new("L", (4, 4), shade).save(tmp_path / "two" / split / "a" / "0.png")
    with pytest.raises(DataError, match="has no split tenth; it has test, train$"):
        open_data(tmp_path / "two", split="tenth")
    (tmp_path / "own" / "data").mkdir(parents=True)
    pictures = datasets.Dataset.from_dict({"image": [Image.new("L", (4, 4), 7)] * 3, "label": [0, 0, 0]})
    pictures.to_parquet(tmp_path / "own" / "data" / "tenth-00000-of-00001.parquet")
    assert len(open_data(tmp_path / "own", split="tenth")) == 3


def test_a_split_that_is_not_there_leads_to_the_tenth_and_the_rest(zoo):
    with pytest.raises(
        DataError, match="zoo has no split test; it has train; --split tenth is a tenth of it.*--split rest"
    ):
        open_data(zoo, split="test")


def test_what_samples_are_compared_with_where_there_is_no_test_split_is_the_tenth_and_it_is_said(zoo, capsys):
    assert judged_splits(zoo) == ("rest", "tenth")
    [said] = capsys.readouterr().err.splitlines()
    assert "has no split test: samples are compared with a tenth" in said and "train with --split rest" in said
    assert judged_splits(zoo, "train") == ("train", "train") and judged_splits(zoo, "tenth[:5]")[0] == "rest"
    assert judged_splits("digits") == judged_splits("mnist-small") == ("train", "test")
    assert capsys.readouterr().err == ""
