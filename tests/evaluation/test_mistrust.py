"""A network that does not read real pictures gives no figures, whatever samples are compared with, and says why."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dit_lab.commands.evaluate import table
from dit_lab.data import Images
from dit_lab.evaluation import Judging, features, judging, open_judge
from dit_lab.evaluation.features import Network, Seen
from dit_lab.evaluation.judging import Reference
from dit_lab.evaluation.measuring import measure
from dit_lab.evaluation.reading import Reading, reading_in, reading_of


def look(pixels):
    """Three features, as many classes, and two spatial features of a picture."""
    values = pixels.float().flatten(1)
    return Seen(values[:, :3], values[:, 3:6], values[:, 6:8])


def pictures(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 4, 4)).astype(np.uint8)


def measured(reference, classes="abc", samples=60, network="small", **about):
    """What is measured of so many samples in a network of these classes, of which `about` is known."""
    network = Network(look, 3, {"network": network} | about, list(classes))
    seen = network.see([pictures(samples, 1)], samples, "samples")
    return measure(network, seen, (np.zeros(samples, np.int64), list(classes)), reference, 7, 0)


STATISTICS = Reference(None, (torch.zeros(3).double(), torch.eye(3).double()), None, {})
ALL = {"frechet", "spatial_frechet", "kernel_distance", "precision and recall", "agreement"}


@pytest.mark.parametrize("reference", [STATISTICS, Reference(pictures(50), None, None, {})])
def test_a_network_at_chance_gives_no_figures_against_a_file_either(reference):
    figures, spreads, left_out = measured(reference, accuracy=0.35)
    assert not figures and not spreads and set(left_out) == ALL
    assert all("reads only 35% of real pictures" in reason for reason in left_out.values())
    figures, spreads, left_out = measured(reference, accuracy=0.67)
    assert {"frechet", "agreement"} <= figures.keys() & spreads.keys() and "reads only" not in str(left_out)


def test_of_one_that_kept_no_accuracy_a_file_without_labels_says_nothing():
    assert "frechet" in measured(STATISTICS).figures


@pytest.mark.parametrize("images", [False, True])
def test_a_network_of_one_class_has_learnt_nothing_whatever_it_reads_and_says_what_to_do(images):
    labelled = Images(pictures(50), np.zeros(50, np.int64), ["a"]) if images else None
    for about in {"accuracy": 1.0}, {}:  # an older network kept none
        figures, spreads, left_out = measured(Reference(pictures(50), None, labelled, {}), "a", **about)
        assert not figures and not spreads and set(left_out) == ALL
        for reason in left_out.values():
            assert "learns nothing of real pictures that are all of one class" in reason
            assert reason.endswith("sort them into a folder a class, or take --features inception")
    assert "fid" in measured(Reference(pictures(50), None, labelled, {}), "a", network="inception").figures


@pytest.mark.parametrize("names", [["a"], ["a", "b"]])
def test_a_network_of_one_class_is_certified_no_accuracy(names, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "LEAST_STEPS", 1)
    images = Images(pictures(20), np.arange(20) % len(names), names)
    monkeypatch.setattr(judging, "open_data", lambda *_, **__: images)
    network, _ = open_judge(Judging(data="digits"), (3, 4, 4), 0, tmp_path, torch.device("cpu"))
    assert network.about.keys() & {"accuracy", "held_back"} == ({"accuracy", "held_back"} if len(names) > 1 else set())
    assert network.about["network"] == "small"


def test_what_is_read_is_the_share_seen_as_they_are_and_chance_that_of_the_largest_class():
    reading = reading_in(torch.tensor([0, 1, 1, 2, 2]), np.array([0, 1, 2, 2, 2]))
    assert reading == (0.8, 5, 0.6) and reading.known == dict(accuracy=0.8, held_back=5, chance=0.6)


def test_of_a_network_that_ships_with_what_it_reads_the_test_pictures_of_its_set_were_held_back():
    splits = {"splits": {"test": {"pictures": 40}}}
    for about, reading in (
        ({}, Reading()),
        (splits, Reading()),
        (dict(accuracy=0.9), Reading(0.9)),
        (dict(accuracy=0.9) | splits, Reading(0.9, 40)),
        (dict(accuracy=0.9, held_back=5, chance=0.2) | splits, Reading(0.9, 5, 0.2)),
    ):
        assert reading_of(about) == reading
    assert Reading(0.9).known == {"accuracy": 0.9} and Reading().known == {}


def test_how_many_pictures_an_accuracy_rests_on_is_said_with_it():
    one = Reference(pictures(50), None, None, {})
    labels = (look(torch.from_numpy(pictures(50))).logits.argmax(1).numpy() + (np.arange(50) >= 20)) % 3
    for reference, about, told in (
        (one, dict(accuracy=0.4, held_back=5), "40% of real pictures that it has not seen (2 of 5), chance 33%"),
        (one, dict(accuracy=5 / 14, held_back=14), "36% of real pictures that it has not seen (5 of 14), chance 33%"),
        (one, dict(accuracy=0.4), "40% of real pictures that it has not seen, chance 33%"),
        (one._replace(images=Images(pictures(50), labels, list("abc"))), {}, "not seen (20 of 50), chance 38%"),
    ):
        assert all(told in reason for reason in measured(reference, **about).left_out.values())


def test_a_network_that_always_names_the_largest_class_is_mistrusted_however_large_that_is():
    one = Reference(pictures(50), None, None, {})
    for about, told in (
        (dict(accuracy=0.9, held_back=20, chance=0.9), "only 90% of real pictures that it has not seen (18 of 20), "),
        (dict(accuracy=0.9, held_back=20, chance=0.9), "chance 90%, and below 95%"),
        (dict(accuracy=0.94, held_back=50, chance=0.9), "and below 95% its figures say nothing"),
        (dict(accuracy=1.0, held_back=2, chance=1.0), "has not seen (2) are all of one class"),
    ):
        _, _, left_out = measured(one, **about)
        assert set(left_out) == ALL and all(told in reason for reason in left_out.values())
    assert "frechet" in measured(one, accuracy=0.95, held_back=40, chance=0.9).figures


def test_one_that_kept_no_accuracy_is_compared_with_the_largest_class_of_what_it_is_shown():
    always = lambda pixels: look(pixels)._replace(logits=torch.eye(3)[[0] * len(pixels)])
    network = Network(always, 3, {"network": "small"}, list("abc"))
    images = Images(pictures(50), np.where(np.arange(50) < 45, 0, 1), list("abc"))
    seen, reference = network.see([pictures(60, 1)], 60, "samples"), Reference(images.pixels, None, images, {})
    figures, _, left_out = measure(network, seen, None, reference, 7, 0)
    assert figures == {"agreement_of_real": 0.9} and "(45 of 50), chance 90%" in left_out["frechet"]


def test_a_network_keeps_the_share_of_the_largest_class_among_the_pictures_held_back(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "LEAST_STEPS", 1)
    images = Images(pictures(100), np.where(np.arange(100) % 5 == 0, 1, 0), ["a", "b"])
    network = features.small_network(images, "train", lambda: images, tmp_path, torch.device("cpu"))
    unseen = features.parted(100)[1]
    assert network.about["chance"] == 1 - images.labels[unseen].mean() > 0.5
    assert network.about["held_back"] == 10


def test_a_certified_accuracy_is_printed_to_four_places_and_other_numbers_as_they_are():
    groups = dict.fromkeys(("samples", "checkpoint", "reference", "versions"), {})
    result = measured(STATISTICS, accuracy=5 / 14)._asdict() | groups
    about = dict(accuracy=5 / 14, held_back=14, chance=1 / 3, scaling_factor=0.182151)
    printed = table(result | {"features": about}, Path("out"))
    assert "\nfeatures: accuracy 0.3571, held_back 14, chance 0.3333, scaling_factor 0.182151\n" in printed
