"""Who judges an experiment: refused before a model is trained where its figures would say nothing, told where not."""

import json
from dataclasses import replace
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
from PIL import Image

from dit_lab.data import Images, open_data
from dit_lab.evaluation import features
from dit_lab.evaluation.features import KEPT, Classifier, keep
from dit_lab.experiments import FourBlocks, Kept, Plan, carry_out, decoders
from dit_lab.experiments import judge as judge_file
from dit_lab.experiments.experiment import opened
from dit_lab.experiments.judge import Judge
from dit_lab.experiments.kept import read_results
from dit_lab.experiments.page import told

PLAN = Plan(data="digits", seeds=(0,), steps=(1,), batch_size=4, samples=129, sample_steps=1)


def bars(count, classes=2, seed=0):
    """Grey pictures of 8 x 8, each of a class by the row that is white."""
    labels = np.arange(count) % classes
    pixels = np.random.default_rng(seed).integers(0, 64, (count, 1, 8, 8)).astype(np.uint8)
    pixels[np.arange(count), 0, labels] = 255
    return Images(pixels, labels, [f"row {number}" for number in range(classes)])


def noise(count, classes=2, seed=0):
    """The same, whose classes nothing tells."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 1, 8, 8)).astype(np.uint8)
    return replace(bars(count, classes), pixels=pixels)


@pytest.fixture
def given(monkeypatch):
    """`given(train, test)`: these are the pictures of any data set, and its classifier is soon trained."""
    monkeypatch.setattr(features, "LEAST_STEPS", 20)

    def give(train, test):
        monkeypatch.setattr(judge_file, "open_data", lambda data, split, size: dict(train=train, test=test)[split])

    return give


def test_a_judge_that_does_not_read_real_pictures_is_refused_before_a_model_is_trained(given, tmp_path):
    given(noise(150), noise(140, seed=1))
    with pytest.raises(
        ValueError, match=r"^models of digits cannot be judged: the network reads only \d+% of .* of 15\), "
    ):
        carry_out(FourBlocks(), PLAN, Kept(tmp_path / "runs", tmp_path / "blocks.json"))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [KEPT]


def test_pictures_of_one_class_are_refused_before_a_judge_is_trained(given, tmp_path, monkeypatch):
    given(bars(150, 1), bars(140, 1, seed=1))
    monkeypatch.setattr(judge_file, "judge_for", lambda *_: pytest.fail("a judge was trained"))
    with pytest.raises(ValueError, match="digits cannot be judged: .* all of one class: sort them into a folder"):
        Judge(PLAN, None, tmp_path)


@pytest.mark.parametrize(("few", "advice"), [("samples", "ask for more --samples"), ("train", "give --data whose split "
    "train has more"), ("test", "give --data whose split test has more")])  # fmt: skip
def test_too_few_pictures_for_a_distance_are_refused_before_a_judge_is_trained(few, advice, given, tmp_path):
    counts = {**dict.fromkeys(("samples", "train", "test"), 129)}
    for count in 128, 129:
        counts[few] = count
        given(bars(counts["train"]), bars(counts["test"], seed=1))
        plan = replace(PLAN, samples=counts["samples"])
        if count == 129:
            assert Judge(plan, None, tmp_path).distance_of_real() > 0
            continue
        with pytest.raises(ValueError, match=f"^128 pictures are too few, it takes 129: .* singular; {advice}$"):
            Judge(plan, None, tmp_path)
        assert not list(tmp_path.iterdir())


def test_what_a_judge_reads_of_pictures_held_back_stands_in_the_results_and_on_the_page(given, tmp_path):
    given(bars(150), bars(140, seed=1))
    judge = Judge(PLAN, None, tmp_path)
    settings = opened(tmp_path / "none.json", PLAN.settings, judge)["settings"]
    assert settings["judge_accuracy"] == judge.classifier.about["accuracy"] >= 0.75
    assert settings["judge_held_back"] == 15
    table = {"settings": settings | {"judge_accuracy": 14 / 15}, "runs": [dict(seed=0)]}
    page = told(table)
    assert "training pictures only and reads 93.3% of 15 that were held back; between real" in page
    assert "judge_" not in page


def test_results_that_do_not_say_what_their_judge_reads_are_gone_on_with_and_told_without(tmp_path):
    settings = PLAN.settings | {"train_to_test_frechet": 1.0}
    (tmp_path / "old.json").write_text(json.dumps({"settings": settings, "runs": []}))
    table = opened(tmp_path / "old.json", PLAN.settings, judge=None)
    assert table["settings"] == settings
    assert "saw real training pictures only; between real" in told(table)
    wrongs = [{"judge_accuracy": "x", "judge_held_back": 5}, {"judge_accuracy": 0.5, "judge_held_back": None}]
    for wrong in [*wrongs, {"splits": "rest"}, {"splits": ["rest"]}, {"splits": ["rest", 5]}]:
        (tmp_path / "old.json").write_text(json.dumps({"settings": settings | wrong, "runs": []}))
        with pytest.raises(ValueError, match="holds no results of an experiment"):
            read_results(tmp_path / "old.json")


def test_a_judge_of_an_earlier_version_is_known_by_the_test_pictures_that_it_reads(given, tmp_path):
    train, test = bars(150), bars(140, seed=1)
    given(train, test)
    untrained = Classifier(1, (8, 8), 2)
    untrained.head.bias.data.copy_(untrained.head.bias.new_tensor([100.0, 0.0]))  # whatever it sees, the first class
    about = {"shape": [1, 8, 8], "classes": train.names, "fingerprint": train.fingerprint}
    keep(tmp_path / KEPT, untrained, about)
    with pytest.raises(ValueError, match="reads only 50% of real pictures"):
        Judge(PLAN, None, tmp_path)


def test_a_judge_that_ships_reads_what_it_was_made_to_know_of_its_test_pictures():
    test = open_data("mnist-small", split="test")
    shipped = Classifier(1, (28, 28), 10)
    shipped.about = {"accuracy": 0.99, "splits": {"test": {"pictures": 10_000}}}
    assert judge_file.reading(shipped, None, test) == (0.99, 10_000, None)


@pytest.fixture
def single(tmp_path, monkeypatch):
    """A folder of 1,290 pictures in two classes, a single split; its classifier is soon trained."""
    monkeypatch.setattr(features, "LEAST_STEPS", 20)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    images = bars(1290)
    for number, (pixels, label) in enumerate(zip(images.pixels, images.labels, strict=True)):
        place = tmp_path / "bars" / images.names[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[0]).save(place / f"{number:04}.png")
    return tmp_path / "bars"


def test_of_a_set_with_a_single_split_a_tenth_is_held_back_to_judge_by_and_it_is_said(single, tmp_path, capsys):
    judge = Judge(replace(PLAN, data=str(single)), None, tmp_path / "runs")
    assert "bars has a single split: a tenth of its pictures" in (said := capsys.readouterr().err)
    assert "--split" not in said  # which an experiment does not have
    parts = [open_data(single, split=split) for split in ("rest", "tenth")]
    assert [part.fingerprint for part in (judge.train, judge.test)] == [part.fingerprint for part in parts]
    assert (len(judge.train), len(judge.test)) == (1161, 129)
    assert judge.classifier.about["fingerprint"] == parts[0].fingerprint
    settings = PLAN.settings | judge.about()
    assert "; splits rest, tenth." in told({"settings": settings, "runs": [dict(seed=0)]})


def test_a_set_with_a_test_split_is_judged_by_it_and_nothing_is_said(tmp_path, capsys):
    assert judge_file.splits_of("digits") == judge_file.splits_of("mnist-small") == ("train", "test")
    for split in "train", "test":
        (tmp_path / "two" / split / "cat").mkdir(parents=True)
        Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "two" / split / "cat" / "0.png")
    assert judge_file.splits_of(str(tmp_path / "two")) == ("train", "test") and not capsys.readouterr().err


def test_a_decoder_learns_from_what_models_learn_from_and_the_page_says_so(tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(decoders, "train_vae_command", lambda *_, **given: asked.update(given))
    monkeypatch.setattr(decoders, "open_codec", lambda *_, **__: "codec")
    judge = SimpleNamespace(splits=("rest", "tenth"), size=8)
    assert decoders.Decoder("l1", "l1", 5).open(replace(PLAN, vae="some/vae"), judge, tmp_path) == "codec"
    assert (asked["split"], asked["size"], asked["data"]) == ("rest", 8, "digits")
    settings = dict(vae="vae", size=8)
    assert " --steps 5 --size 8 --out" in decoders.command_of(dict(loss="l1", steps=5), settings)
    halved = decoders.command_of(dict(loss="l1", steps=5), settings | {"splits": ["rest", "tenth"]})
    assert " --steps 5 --split rest --size 8 --out" in halved
