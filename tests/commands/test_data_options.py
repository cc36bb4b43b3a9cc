"""--crop and the splits `rest` and `tenth` from the command line: what they do, and what keeps them."""

import json
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
from PIL import Image

from dit_lab.data import open_data
from dit_lab.data.latents import open_latents
from dit_lab.evaluation import Judging, judging

TRAINING = ["--preset", "DiT-nano/4", "--size", "8", "--device", "cpu", "--batch-size", "4", "--steps", "1"]

JUDGE = SimpleNamespace(classes=["disc", "ring"])  # in the place of one that would be trained


@pytest.fixture
def shapes(tmp_path, monkeypatch):
    """40 pictures of two shapes, larger than they are asked for, in a folder a class."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for kind in ("disc", "ring"):
        (tmp_path / "shapes" / kind).mkdir(parents=True)
        for number in range(20):
            y, x = np.mgrid[:20, :26] - np.array([10, 13])[:, None, None]
            far = np.hypot(x, y)
            drawn = (far < 5 + number / 5) if kind == "disc" else (far < 5 + number / 5) & (far > 3)
            Image.fromarray(drawn.astype(np.uint8) * 255).save(tmp_path / "shapes" / kind / f"{number:02}.png")
    return tmp_path / "shapes"


def test_a_run_keeps_its_crop_and_goes_on_with_no_other(shapes, tmp_path, command):
    train = ["train", "--data", shapes, "--split", "rest", *TRAINING, "--out", tmp_path / "run"]
    assert command(*train, "--crop", "adm")[0] == 0
    code, _, said = command(*train, "--resume")
    assert code == 2 and "data pictures_checksum" in said
    assert command(*train, "--crop", "adm", "--steps", "2", "--resume")[0] == 0
    assert command(*train[:-1], tmp_path / "usual")[0] == 0
    code, _, said = command(*train[:-1], tmp_path / "usual", "--crop", "adm", "--resume")
    assert code == 2 and "data crop middle (now adm)" in said


def test_latents_keep_the_crop_of_their_pictures_and_are_not_mixed_with_others(shapes, tmp_path, command):
    encode = ["encode", "--data", shapes, "--size", "8", "--vae", "cifar10_vae", "--device", "cpu"]
    assert command(*encode, "--crop", "adm", "--out", tmp_path / "adm")[0] == 0
    assert open_latents(tmp_path / "adm").fingerprint["crop"] == "adm"
    code, _, said = command(*encode, "--out", tmp_path / "adm")
    assert code == 2 and "holds latents made with" in said and "crop adm (now None)" in said
    assert command(*encode, "--out", tmp_path / "usual")[0] == 0
    assert "crop" not in json.loads((tmp_path / "usual" / "latents.json").read_text())["about"]


def test_samples_are_judged_by_the_tenth_that_nobody_learnt_from_and_it_is_said(shapes, tmp_path, capsys, monkeypatch):
    learnt = {}
    small = lambda images, split, open_train, *_: learnt.update(split=split, train=open_train()) or JUDGE
    monkeypatch.setattr(judging, "small_network", small)
    asked = Judging(data=str(shapes), size=8, crop="adm")
    _, reference = judging.open_judge(asked, (1, 8, 8), 2, tmp_path, "cpu")
    assert "has no split test: samples are compared with a tenth" in capsys.readouterr().err
    assert reference.about == {"data": str(shapes), "split": "tenth", "size": 8, "pictures": 4, "crop": "adm"}
    rest = open_data(shapes, split="rest", size=8, crop="adm")
    assert learnt["split"] == "tenth" and learnt["train"].fingerprint == rest.fingerprint
    tenth = open_data(shapes, split="tenth", size=8, crop="adm")
    assert np.array_equal(reference.pixels, tenth.pixels)


def test_the_usual_crop_stands_nowhere_in_the_results(shapes, tmp_path, monkeypatch):
    monkeypatch.setattr(judging, "small_network", lambda *_: JUDGE)
    asked = Judging(data=str(shapes), size=8, split="train")
    assert "crop" not in judging.open_judge(asked, (1, 8, 8), 2, tmp_path, "cpu")[1].about
