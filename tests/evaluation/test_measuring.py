"""Which figures can be had of how many pictures, to the last one, and what their spreads are made of."""

import math

import numpy as np
import pytest
import torch

from dit_lab.data import Images
from dit_lab.evaluation import spread
from dit_lab.evaluation.features import Network, Seen
from dit_lab.evaluation.judging import Reference
from dit_lab.evaluation.measuring import batches, measure, same_classes, scored
from dit_lab.evaluation.metrics import covered, frechet_of_moments, inception_score, kernel_distance, moments
from dit_lab.evaluation.reading import Reading, mistrust


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
        told = f"{fewest} picture{' is' if fewest == 1 else 's are'} too few, it takes {least}: "
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
    (0.749, 2, False), (0.0, 0, True), (None, 10, True)])  # fmt: skip
def test_a_network_is_worth_asking_from_half_the_way_between_chance_and_all_on(accuracy, classes, worth):
    assert (mistrust(Reading(accuracy), classes) is None) == worth


def test_class_numbers_mean_the_same_by_equal_names_or_by_none():
    assert same_classes(["a", "b"], ["a", "b"]) and same_classes(["0", "1"], ["a", "b"])
    assert same_classes(["a", "b"], ["0", "1"]) and not same_classes(["a", "b"], ["b", "a"])
    assert not same_classes(["1", "0"], ["a", "b"])


@pytest.mark.parametrize(("count", "sizes"), [(6, [3, 3]), (7, [3, 3, 1]), (2, [2])])
def test_pictures_come_in_order_in_parts_of_at_most_a_size(count, sizes):
    parts = list(batches(pictures(count), 3))
    assert [len(part) for part in parts] == sizes and np.array_equal(np.concatenate(parts), pictures(count))


def labelled(count, right, seed=0):
    """Labels for pictures: what the network reads in the first so many of them, and another class in the rest."""
    read = look(torch.from_numpy(pictures(count, seed))).logits.argmax(1).numpy()
    return (read + (np.arange(count) >= right)) % 3


def judged(asked, right=40, network="small", **about):
    """The figures of 60 samples against 50 labelled pictures, of which the network reads so many as they are."""
    network = Network(look, 3, {"network": network} | about, list("abc"))
    images = Images(pictures(50), labelled(50, right), list("abc"))
    seen = network.see([pictures(60, 1)], 60, "samples")
    return measure(network, seen, asked, Reference(images.pixels, None, images, {}), 7, 0)


def test_agreement_is_the_share_that_looks_like_what_was_asked_for_of_real_pictures_as_of_samples():
    figures, moved, left_out = judged((labelled(60, 45, 1), list("abc")))
    assert figures["agreement_of_real"] == 0.8 and figures["agreement"] == 0.75 and not left_out
    # Twenty times without a group of three: of 57 samples 42 or 45 are right, the former where the group is.
    assert moved["agreement"] == pytest.approx((19 * np.var([42 / 57] * 15 + [45 / 57] * 5)) ** 0.5)
    assert "agreement_of_real" not in moved
    figures, moved, left_out = judged(None)
    assert figures["agreement_of_real"] == 0.8 and "agreement" not in figures.keys() | moved.keys() | left_out.keys()


def test_agreement_is_left_out_where_the_models_classes_are_named_otherwise():
    figures, _, left_out = judged((labelled(60, 45, 1), list("bac")))
    assert "agreement" not in figures and set(left_out) == {"agreement"} and "other names" in left_out["agreement"]


@pytest.mark.parametrize(("right", "about", "told"), [(30, {}, "60%"), (50, dict(accuracy=0.6), "60%"),
    (40, {}, None), (10, dict(accuracy=0.7), None)])  # fmt: skip
def test_a_network_is_trusted_by_the_accuracy_that_it_came_with_or_else_by_what_it_reads_here(right, about, told):
    figures, spreads, left_out = judged((labelled(60, 45, 1), list("bac" if told else "abc")), right, **about)
    assert figures.pop("agreement_of_real") == right / 50
    names = {"frechet", "spatial_frechet", "kernel_distance", "precision and recall", "agreement"}
    assert set(left_out) == (names if told else set()) and bool(figures) == bool(spreads) == (told is None)
    assert all(reason.startswith(f"the network reads only {told} of real") for reason in left_out.values())


def test_inceptions_figures_are_the_published_ones_by_their_names_and_tell_nothing_of_classes():
    figures, moved, left_out = judged((labelled(60, 45, 1), list("abc")), 0, "inception")
    own, own_moved, _ = judged(None)
    for name, published in ("frechet", "fid"), ("spatial_frechet", "sfid"), ("kernel_distance", "kid"):
        assert (figures[published], moved[published]) == (own[name], own_moved[name])
    assert not left_out and figures.keys() - own.keys() == {
        "fid", "sfid", "kid", "kid_deviation", "kid_subset", "inception_score", "inception_score_part"
    }  # fmt: skip
    assert not {"agreement", "agreement_of_real", "frechet"} & figures.keys()
    logits = look(torch.from_numpy(pictures(60, 1))).logits
    assert figures["inception_score"] == inception_score(logits) and figures["inception_score_part"] == 60
    assert moved["inception_score"] == spread.of_inception_score(logits)


def test_parts_of_an_inception_score_have_five_thousand_samples_at_most():
    assert scored(torch.randn(5_003, 2, generator=torch.Generator().manual_seed(0)))[0]["inception_score_part"] == 5_000


@pytest.mark.parametrize(("width", "pixels"), [(2, None), (3, None), (3, pictures(50)), (None, pictures(50))])
def test_spatial_statistics_count_where_they_are_of_the_samples_own_spatial_features(width, pixels):
    seen, real = NETWORK.see([pictures(60, 1)], 60, "samples"), look(torch.from_numpy(pictures(50)))
    of = lambda d: (torch.arange(d).double(), torch.eye(d).double() * 2)
    reference = Reference(pixels, of(3), None, {}, None if width is None else of(width))
    figures, moved, left_out = measure(NETWORK, seen, None, reference, 7, 0)
    assert figures["frechet"] == frechet_of_moments(*moments(seen.features), *of(3)) and moved["frechet"] > 0
    goal = of(2) if width == 2 else moments(real.spatial)
    if width == 2 or pixels is not None:
        assert figures["spatial_frechet"] == pytest.approx(frechet_of_moments(*moments(seen.spatial), *goal))
    else:
        assert "no statistics of these spatial features" in left_out["spatial_frechet"]
    for name in "kernel_distance", "precision and recall":
        assert ("statistics only, no pictures" in left_out.get(name, "")) == (pixels is None)


def test_a_network_without_a_map_has_no_spatial_features():
    blind = Network(lambda pixels: look(pixels)._replace(spatial=None), 3, {"network": "small"})
    seen = blind.see([pictures(60, 1)], 60, "samples")
    spatial = (torch.zeros(2).double(), torch.eye(2).double())
    for known in None, spatial:
        figures, _, left_out = measure(blind, seen, None, Reference(pictures(50), None, None, {}, known), 7, 0)
        assert set(left_out) == {"spatial_frechet"} and "no map" in left_out["spatial_frechet"] and "recall" in figures
