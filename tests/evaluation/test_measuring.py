"""Which figures can be had of how many pictures, to the last one, and what their spreads are made of."""

import math

import numpy as np
import pytest
import torch

from dit_lab.evaluation import spread
from dit_lab.evaluation.features import Network, Seen
from dit_lab.evaluation.judging import Reference
from dit_lab.evaluation.measuring import batches, blindness, measure, same_classes
from dit_lab.evaluation.metrics import covered, kernel_distance


def look(pixels):
    """Three features, as many classes, and two spatial features of a picture."""
    values = pixels.float().flatten(1)
    return Seen(values[:, :3], values[:, 3:6], values[:, 6:8])


NETWORK = Network(look, 3, {"network": "small"})


def pictures(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 4, 4)).astype(np.uint8)


def measured(drawn, real):
    """The figures of so many samples against so many real pictures without labels."""
    seen = NETWORK.see([pictures(drawn, 1)], drawn, "samples")
    return measure(NETWORK, seen, None, Reference(pictures(real), None, None, {}), 7, 0), seen


@pytest.mark.parametrize(("drawn", "real"), [(4, 50), (50, 4), (3, 50), (50, 3), (2, 50), (50, 2)])
def test_a_distance_takes_one_picture_more_than_features_and_a_manifold_its_neighbours(drawn, real):
    (figures, _, left_out), _ = measured(drawn, real)
    fewest = min(drawn, real)
    assert ("frechet" in figures) == (fewest > 3) and ("spatial_frechet" in figures) == (fewest > 2)
    assert {"precision", "recall"} <= figures.keys() if fewest > 3 else "precision" not in figures
    assert ("kernel_distance" in figures) == (fewest > 3)
    for name, least in ("frechet", 4), ("spatial_frechet", 3), ("precision and recall", 4):
        told = f"{fewest} pictures are too few, it takes {least}: "
        assert left_out[name].startswith(told) if fewest < least else name not in left_out


def test_a_spread_takes_forty_samples_and_a_distances_as_many_without_a_group_as_it_has_features():
    assert not measured(39, 50)[0].spread
    names = {"frechet", "spatial_frechet", "kernel_distance", "precision", "recall"}
    assert set(measured(40, 50)[0].spread) == names
    for features, told in (37, True), (38, False):  # of 40 samples without a group of two, 38 are left
        wide = Network(lambda pixels, n=features: Seen(*[pixels.float().flatten(1)[:, :n]] * 2), features, {})
        wide = Network(wide.look, features, {"network": "small"})
        seen = wide.see([pictures(40, 1)], 40, "samples")
        figures, moved, _ = measure(wide, seen, None, Reference(pictures(50), None, None, {}), 7, 0)
        assert "frechet" in figures and ("frechet" in moved) == told


def test_figures_and_spreads_are_those_of_what_was_seen_in_parts():
    (figures, moved, left_out), drawn = measured(60, 50)
    real = look(torch.from_numpy(pictures(50)))
    mean, deviation = kernel_distance(real.features, drawn.features, 0)
    assert (figures["kernel_distance"], figures["kernel_distance_deviation"]) == (mean, deviation)
    assert figures["kernel_distance_subset"] == 25 and not left_out
    # A hundred subsets were drawn: their mean moves by a tenth of what each does.
    expected = math.hypot(spread.of_kernel(real.features, drawn.features), deviation / 10)
    assert moved["kernel_distance"] == pytest.approx(expected, rel=1e-9)
    inside = covered(drawn.features, real.features).double().mean().item()
    assert figures["precision"] == inside and 0 < inside < 1
    assert figures["recall"] == covered(real.features, drawn.features).double().mean().item()
    assert all(type(figure) in (float, int) for figure in (*figures.values(), *moved.values()))


@pytest.mark.parametrize(("accuracy", "classes", "worth"), [(0.55, 10, True), (0.549, 10, False), (0.75, 2, True),
    (0.749, 2, False), (0.0, 1, True), (0.0, 0, True)])  # fmt: skip
def test_a_network_is_worth_asking_from_half_the_way_between_chance_and_all_on(accuracy, classes, worth):
    assert (blindness(accuracy, classes) is None) == worth


def test_class_numbers_mean_the_same_by_equal_names_or_by_none():
    assert same_classes(["a", "b"], ["a", "b"]) and same_classes(["0", "1"], ["a", "b"])
    assert same_classes(["a", "b"], ["0", "1"]) and not same_classes(["a", "b"], ["b", "a"])
    assert not same_classes(["1", "0"], ["a", "b"])


@pytest.mark.parametrize(("count", "sizes"), [(6, [3, 3]), (7, [3, 3, 1]), (2, [2])])
def test_pictures_come_in_order_in_parts_of_at_most_a_size(count, sizes):
    parts = list(batches(pictures(count), 3))
    assert [len(part) for part in parts] == sizes and np.array_equal(np.concatenate(parts), pictures(count))
