"""Judging samples: the Fréchet distance against closed forms, and a classifier that learns real digits."""

import pytest
import torch

from dit_lab.data import open_data
from dit_lab.evaluate import Classifier, frechet_distance, judge, train_classifier


def features(*, mean, std, count=200_000, seed=0):
    """Samples of a Gaussian with independent coordinates."""
    noise = torch.randn(count, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return noise * torch.tensor(std) + torch.tensor(mean)


def test_the_distance_of_a_set_to_itself_is_zero():
    x = features(mean=[0.0, 1.0, -2.0], std=[1.0, 2.0, 0.5], count=1_000)
    assert abs(frechet_distance(x, x)) < 1e-9


def test_between_gaussians_it_is_the_closed_form():
    """||mu_a - mu_b||^2 + sum (std_a - std_b)^2 for independent coordinates."""
    a = features(mean=[0.0, 1.0], std=[1.0, 3.0])
    b = features(mean=[2.0, 1.0], std=[2.0, 1.0], seed=1)
    assert frechet_distance(a, b) == pytest.approx(4 + 1 + 4, rel=0.01)


def test_it_is_the_published_formula_with_scipys_matrix_root():
    """An implementation of its own: symmetric root of the covariances' product by scipy, correlated coordinates."""
    linalg = pytest.importorskip("scipy.linalg")
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(500, 8, generator=generator) @ torch.randn(8, 8, generator=generator)
    b = torch.randn(400, 8, generator=generator) @ torch.randn(8, 8, generator=generator) + 0.3
    cov_a, cov_b = torch.cov(a.T.double()), torch.cov(b.T.double())
    root = torch.from_numpy(linalg.sqrtm((cov_a @ cov_b).numpy()).real)
    expected = (a.double().mean(0) - b.double().mean(0)).square().sum() + (cov_a + cov_b - 2 * root).trace()
    assert frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-6)


def test_it_is_the_same_both_ways_and_survives_features_that_never_change():
    a = torch.cat([features(mean=[0.0, 1.0], std=[1.0, 3.0], count=500), torch.zeros(500, 1)], dim=1)
    b = torch.cat([features(mean=[1.0, 0.0], std=[2.0, 1.0], count=500, seed=1), torch.zeros(500, 1)], dim=1)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)


def test_a_classifier_learns_digits_it_then_recognises():
    digits = open_data("digits")
    model = train_classifier(digits, epochs=6, batch_size=64)
    x, y = digits.batch(range(500))
    seen, found = judge(model, x, batch_size=200)
    assert found.shape == (500, 128)
    assert (seen == y).double().mean() > 0.95


def test_judging_in_batches_changes_nothing():
    torch.manual_seed(0)
    model = Classifier(1, (8, 8), 10).eval()
    x = torch.randn(30, 1, 8, 8)
    seen, found = judge(model, x, batch_size=7)
    torch.testing.assert_close(found, judge(model, x)[1])
    assert torch.equal(seen, model(x).argmax(-1))
