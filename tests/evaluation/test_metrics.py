"""Distances between features against closed forms, brute force, and implementations of their own."""

import warnings

import pytest
import torch

from dit_lab.evaluation import frechet_distance, inception_score, kernel_distance, metrics, precision_recall
from dit_lab.evaluation.inception import without_init


def features(*, mean, std, count=200_000, seed=0):
    """Samples of a Gaussian with independent coordinates."""
    noise = torch.randn(count, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return noise * torch.tensor(std) + torch.tensor(mean)


def correlated(count, seed, shift=0.0):
    """`count` features of 8 correlated coordinates."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, 8, generator=random).double() @ torch.randn(8, 8, generator=random).double() + shift


def torchmetrics_fid(a, b):
    """The distance as torchmetrics computes it."""
    with without_init("torch_fidelity"):
        from torchmetrics.image.fid import FrechetInceptionDistance
    same = torch.nn.Identity()
    same.num_features = a.shape[1]
    metric = FrechetInceptionDistance(same)
    metric.update(a, real=True)
    metric.update(b, real=False)
    return metric.compute().item()


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
    a, b = correlated(500, 0), correlated(400, 1, shift=0.3)
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    root = torch.from_numpy(linalg.sqrtm((cov_a @ cov_b).numpy()).real)
    expected = (a.mean(0) - b.mean(0)).square().sum() + (cov_a + cov_b - 2 * root).trace()
    assert frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-6)


def test_it_is_the_same_both_ways_and_survives_features_that_never_change():
    a = torch.cat([features(mean=[0.0, 1.0], std=[1.0, 3.0], count=500), torch.zeros(500, 1)], dim=1)
    b = torch.cat([features(mean=[1.0, 0.0], std=[2.0, 1.0], count=500, seed=1), torch.zeros(500, 1)], dim=1)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)


def test_it_is_torchmetrics_fid_and_more_exact_where_the_mean_is_far_from_zero():
    a, b = correlated(300, 0), correlated(200, 1, shift=0.5)
    exact = frechet_distance(a, b)
    assert torchmetrics_fid(a, b) == pytest.approx(exact, rel=1e-9)
    ours, theirs = frechet_distance(a + 1e6, b + 1e6), torchmetrics_fid(a + 1e6, b + 1e6)
    assert ours == pytest.approx(exact, rel=1e-6)
    assert abs(theirs - exact) > 100 * abs(ours - exact)


def test_the_kernel_distance_of_whole_sets_is_the_unbiased_estimator_written_out(monkeypatch):
    monkeypatch.setattr(metrics, "subset_size", min)
    real, drawn = correlated(12, 0), correlated(12, 1, shift=1.0)
    kernel = lambda x, y: (x @ y / 8 + 1) ** 3
    within = lambda s: sum(kernel(s[i], s[j]) for i in range(12) for j in range(12) if i != j) / (12 * 11)
    between = sum(kernel(x, y) for x in real for y in drawn) / 144
    mean, deviation = kernel_distance(real, drawn)
    expected = (within(real) + within(drawn) - 2 * between).item()
    assert mean == pytest.approx(expected, rel=1e-9)
    assert metrics.kernel_distance_of_all(real, drawn) == pytest.approx(expected, rel=1e-9)
    assert deviation == pytest.approx(0, abs=1e-6)


def test_few_pictures_have_a_deviation_too_from_subsets_of_half_of_them():
    real, drawn = correlated(60, 0), correlated(40, 1)
    assert metrics.subset_size(60, 40) == 20 and metrics.subset_size(5000, 50_000) == metrics.SUBSET_SIZE
    assert [metrics.subset_size(count, 100) for count in (1, 2, 3, 4, 5)] == [1, 1, 1, 2, 2]
    mean, deviation = kernel_distance(real, drawn)
    assert deviation > 0.1 * abs(mean) > 0


def test_a_seed_fixes_the_subsets_and_the_random_state_outside_stays(monkeypatch):
    monkeypatch.setattr(metrics, "SUBSET_SIZE", 20)
    real, drawn = correlated(100, 0), correlated(80, 1)
    before = torch.get_rng_state()
    first, again, other = (kernel_distance(real, drawn, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), before)


def test_precision_and_recall_are_the_papers_definition_written_out():
    """1904.06991, equations 1 and 2, as loops over all pairs."""
    real, drawn = correlated(40, 0)[:, :2], correlated(30, 1, shift=0.7)[:, :2]
    distance = lambda x, y: (x - y).norm().item()

    def within(points, by):
        radii = [sorted(distance(x, y) for j, y in enumerate(by) if j != i)[2] for i, x in enumerate(by)]
        return sum(any(distance(p, x) <= r for x, r in zip(by, radii, strict=True)) for p in points) / len(points)

    found = precision_recall(real, drawn, k=3)
    assert found == pytest.approx((within(drawn, real), within(real, drawn)))
    assert 0 < found[0] < 1 and 0 < found[1] < 1


def test_precision_is_lost_by_strangers_and_recall_by_a_collapse():
    real = correlated(60, 0)
    assert precision_recall(real, real) == (1, 1)
    assert precision_recall(real, real + 1e3) == (0, 0)
    collapsed = real[:1] + 1e-3 * correlated(60, 1)
    precision, recall = precision_recall(real, collapsed)
    assert precision == 1 and recall <= 1 / 60


def test_distances_held_in_parts_change_nothing(monkeypatch):
    real, drawn = correlated(50, 0), correlated(45, 1, shift=0.5)
    whole = precision_recall(real, drawn)
    monkeypatch.setattr(metrics, "BLOCK", 7 * 50)
    assert precision_recall(real, drawn) == whole


def test_the_inception_score_is_1_without_an_opinion_and_the_number_of_classes_at_best():
    assert inception_score(torch.zeros(200, 5)) == pytest.approx(1)
    certain = 1000 * torch.nn.functional.one_hot(torch.arange(5).repeat(400), 6).double()
    assert inception_score(certain) == pytest.approx(5)


@pytest.mark.parametrize(
    "measure", [frechet_distance, kernel_distance, metrics.kernel_distance_of_all, precision_recall]
)
def test_features_in_fp32_are_measured_in_float64_and_figures_are_plain_numbers(measure):
    real, drawn = (correlated(60, seed, shift=seed + 100.0).float() for seed in (0, 1))
    found = measure(real, drawn)
    assert found == measure(real.double(), drawn.double())
    assert all(type(figure) is float for figure in (found if isinstance(found, tuple) else [found]))


def test_the_inception_score_of_fp32_logits_is_taken_in_float64():
    logits = correlated(300, 0).float()
    assert inception_score(logits) == inception_score(logits.double()) and type(inception_score(logits)) is float
    share = metrics.agreement(logits.argmax(1), torch.zeros(300))
    assert share == (logits.argmax(1) == 0).sum().item() / 300 and type(share) is float


def test_rounding_below_zero_leaves_a_distance_a_number():
    """Of fewer pictures than features most eigenvalues are zero, and rounding makes some of them negative."""
    few = [torch.randn(5, 40, generator=torch.Generator().manual_seed(seed)).double() for seed in range(4)]
    covariances = [torch.cov(x.T) for x in few]
    assert all(torch.linalg.eigvalsh(covariance).min() < 0 for covariance in covariances)
    for a in few:
        assert abs(frechet_distance(a, a)) < 1e-5
        for b in few:
            assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-6, abs=1e-5)


def test_a_kernel_distance_warns_of_nothing():
    """torchmetrics warns of the memory that its features take; here they are all there already."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kernel_distance(correlated(20, 0), correlated(20, 1))


def test_a_point_as_far_as_the_neighbour_is_within_the_manifold():
    """1904.06991, equation 1: a distance of at most the radius."""
    line = torch.arange(5.0)[:, None]
    points = torch.tensor([[-1.0], [-1.01], [5.0], [5.01], [2.5]])
    assert metrics.covered(points, line, k=1).tolist() == [True, False, True, False, True]
    alike = torch.zeros(6, 3)
    assert precision_recall(alike, alike) == (1, 1)


def test_one_of_several_processes_measures_its_own_pictures_and_asks_no_other(monkeypatch):
    alone = kernel_distance(correlated(20, 0), correlated(20, 1))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)  # nobody is there to be asked
    assert kernel_distance(correlated(20, 0), correlated(20, 1)) == alone
