"""How many pictures make a difference visible: the experiment end to end on features that cost nothing."""

import json
from statistics import mean, stdev

import numpy as np
import pytest
import torch

from dit_lab.evaluation.features import Seen
from dit_lab.evaluation.judging import Reference
from dit_lab.evaluation.metrics import frechet_distance, moments
from dit_lab.experiments import how_many
from dit_lab.experiments.how_many import Pool, gaussian, how_many_command, noised
from dit_lab.experiments.how_many_page import said, shows


def seen(count, seed, shift=0.0):
    random = torch.Generator().manual_seed(seed)
    return Seen(*(torch.randn(count, width, generator=random) + shift for width in (6, 3, 4)))


def pools(*_):
    real = seen(200, 0)
    goal = Reference(None, moments(real.features), None, {}, moments(real.spatial))
    for kind, shift in ("real", 0.0), ("noisy", 0.5):
        yield kind, Pool(seen(400, 1, shift), np.arange(400) % 3, real, goal)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    results = tmp_path_factory.mktemp("many") / "results" / "how_many.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(how_many, "pools", pools)
        patch.setattr(how_many, "DIMENSIONS", (8,))
        small(results)
    return results


def small(results):
    how_many_command(
        sets=("mnist",), counts=(5, 100), draws=3, pool=400, reference=200, gaussian_draws=3, results=results
    )


def test_sets_of_each_number_are_judged_as_evaluate_judges_and_told(done):
    table = json.loads(done.read_text())
    assert [(row["pool"], row["count"], row["draw"]) for row in table["rows"]] == [
        (pool, count, draw)
        for pool in ("real", "noisy")
        for count, draw in [*((n, k) for n in (5, 100) for k in range(3)), (how_many.MANY, 0)]
    ]
    few, many = table["rows"][0], table["rows"][3]
    assert "frechet" not in few["figures"] and not few["spread"]  # five pictures, six features
    assert many["spread"].keys() == many["figures"].keys() == how_many_figures()
    pool = next(iter(pools()))[1]
    chosen = np.random.default_rng([100, 0]).permutation(400)[:100]
    assert many["figures"]["frechet"] == pytest.approx(frechet_distance(pool.seen.features[chosen], pool.real.features))
    page = done.with_suffix(".md").read_text()
    assert page.count("\n## ") == 3 and "| 100 |" in page and "| 5 | – | " in page and "| 10,000 |" in page


def how_many_figures():
    return {"frechet", "spatial_frechet", "kernel_distance", "precision", "recall", "agreement"}


def test_what_is_there_is_not_judged_again_and_other_settings_are_refused(done, monkeypatch):
    monkeypatch.setattr(how_many, "pools", pools)
    monkeypatch.setattr(how_many, "DIMENSIONS", (8,))
    monkeypatch.setattr(how_many, "figures_of", lambda *_: pytest.fail("a set was judged again"))
    before = done.read_text()
    small(done)
    assert done.read_text() == before
    with pytest.raises(ValueError, match="was made with another pool; give --results another name"):
        how_many_command(sets=("mnist",), pool=300, reference=200, results=done)
    with pytest.raises(ValueError, match="sets must be of mnist, cifar10, not others"):
        how_many_command(sets=("others",), results=done)


def test_a_cell_is_mean_spread_found_and_spread_said_and_what_shows_is_two_deviations_of_a_difference():
    values, spreads = (3.0, 4.0, 8.0), (1.0, 2.0, 3.0)
    rows = [
        dict(count=75, figures={"frechet": value}, spread={"frechet": spread})
        for value, spread in zip(values, spreads, strict=True)
    ]
    table = {"settings": {"pool": 100}}
    found = stdev(values) / 0.25**0.5  # of a pool four thirds as large as the set
    root = mean(spread**2 for spread in spreads) ** 0.5
    assert said(table, rows, "frechet") == f"5.00 ± {found:.2f} ({root:.2f})"
    assert shows(table, rows, "frechet") == f"{2 * 2**0.5 * found:.2f}"
    assert said(table, [], "frechet") == shows(table, [], "frechet") == "–"


def test_gaussians_are_at_the_distance_that_is_told():
    row = gaussian(4, 4000, 2)
    assert row["mean"] == pytest.approx(row["distance"], rel=0.05) and row["draws"] == 2
    deviations = np.linspace(0.5, 2, 4)
    assert row["distance"] == pytest.approx(4 * 0.09 + ((deviations - 1) ** 2).sum())


def test_noise_is_the_same_every_time_and_none_changes_nothing():
    pictures = np.full((600, 1, 2, 2), 128, np.uint8)
    once, again = (np.concatenate(list(noised(pictures, 0.1))) for _ in range(2))
    assert np.array_equal(once, again) and once.std() == pytest.approx(12.75, rel=0.1)
    assert np.array_equal(np.concatenate(list(noised(pictures, 0))), pictures)


def test_another_set_than_the_judges_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(how_many, "open_data", lambda name, split: None)
    monkeypatch.setattr(how_many, "shipped", lambda images, split: None)
    with pytest.raises(ValueError, match="mnist is not the set that the zoo's judge of mnist knows"):
        how_many_command(data=tmp_path, results=tmp_path / "a.json")
