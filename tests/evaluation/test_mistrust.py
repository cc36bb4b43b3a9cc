"""A network that does not read real pictures gives no figures, whatever samples are compared with, and says why."""

import numpy as np
import pytest
import torch

from dit_lab.evaluation.features import Network, Seen
from dit_lab.evaluation.judging import Reference
from dit_lab.evaluation.measuring import measure


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
