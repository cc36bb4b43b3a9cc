"""A figure that stands without its spread says why, and with how many samples it would have one."""

from pathlib import Path

import numpy as np
import pytest

from dit_lab.commands.evaluate import table
from dit_lab.evaluation.features import Network, Seen
from dit_lab.evaluation.judging import Reference
from dit_lab.evaluation.measuring import measure

WIDTH, SPATIAL = 37, 3


def look(pixels):
    """As many features as `WIDTH`, three classes and three spatial features of a picture."""
    values = pixels.float().flatten(1)
    return Seen(values[:, :WIDTH], values[:, :3], values[:, 40 : 40 + SPATIAL])


def measured(samples, network="small", accuracy=0.9, look=look):
    """What is measured of so many samples."""
    pixels = lambda count, seed: np.random.default_rng(seed).integers(0, 256, (count, 3, 4, 4)).astype(np.uint8)
    asked = np.zeros(samples, np.int64), list("abc")
    network = Network(look, WIDTH, {"network": network, "accuracy": accuracy}, list("abc"))
    seen = network.see([pixels(samples, 1)], samples, "samples")
    return measure(network, seen, asked, Reference(pixels(50, 2), None, None, {}), 7, 0)


@pytest.mark.parametrize(("samples", "whole"), [(20, False), (39, False), (40, True)])
def test_of_fewer_samples_than_a_spread_takes_it_is_said_once_that_none_has_one(samples, whole):
    _, spreads, left_out = measured(samples, accuracy=0.9)
    assert bool(spreads) == whole == ("spreads" not in left_out)
    if not whole:
        told = f"{samples} samples are too few, it takes 40: figures are taken again without each twentieth"
        assert left_out["spreads"] == told
        assert not any(name.startswith("spread of") for name in left_out)


@pytest.mark.parametrize(("width", "network", "name"), [(38, "small", "frechet"), (38, "inception", "fid"),
    (37, "small", None)])  # fmt: skip
def test_a_distance_says_from_how_many_samples_on_it_has_a_spread(width, network, name):
    """Of 40 samples without a group of two, 38 are left; of 41 without one of three also, of 42 without three 39."""
    wide = lambda pixels: look(pixels)._replace(features=pixels.float().flatten(1)[:, :width])
    figures, spreads, left_out = measured(40, network, look=wide)
    told = "40 samples are too few, it takes 42: without a twentieth the covariance of 38 features is singular"
    missing = {f"spread of {name}": told} if name else {}
    assert {name: why for name, why in left_out.items() if name.startswith("spread")} == missing
    if name:
        assert name in figures and name not in spreads
        assert name in measured(42, network, look=wide).spread and name not in measured(41, network, look=wide).spread


def test_a_spatial_distance_says_it_too():
    same = lambda pixels: Seen(*[pixels.float().flatten(1)[:, :38]] * 3)
    assert {"spread of frechet", "spread of spatial_frechet"} == measured(40, look=same).left_out.keys()


def test_where_nothing_was_measured_no_spread_is_missed():
    assert not any(name.startswith("spread") for name in measured(39, accuracy=0.1).left_out)


def test_the_command_prints_why_a_spread_is_missing():
    found = measured(39)
    groups = dict.fromkeys(("samples", "checkpoint", "features", "reference", "versions"), {})
    printed = table(found._asdict() | groups, Path("out"))
    assert "\nspreads                              -  39 samples are too few, it takes 40" in printed
    assert "\nfrechet " in f"\n{printed}" and "+-" not in printed
