"""Fewer steps: forecasts are exact where they can be, searched timesteps are never worse, and results go on."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from shared import random_model, random_udit

from dit_lab.checkpoints import load
from dit_lab.commands.bench.contestants import diffusers_model
from dit_lab.data import Images
from dit_lab.diffusion import generate, objective, process_of, samplers_for
from dit_lab.evaluation import Classifier
from dit_lab.experiments import fewer_steps, fewer_steps_page, reuse
from dit_lab.experiments.fewer_steps import fewer_steps_command, opened, real, ways_of
from dit_lab.experiments.reuse import Reusing, branches_of, computed, forecast
from dit_lab.experiments.ways import Way, ways
from dit_lab.models import BLOCKS, fast


@pytest.mark.parametrize("order", [0, 1, 2])
def test_a_forecast_is_exact_for_polynomials_of_its_order(order):
    value = lambda number, scale: scale * sum((number / 3) ** power for power in range(order + 1))
    curves = lambda number: [torch.full((1, 1, 2, 2), float(value(number, scale))) for scale in (1, -2)]
    seen = [(number, curves(number)) for number in (9, 7, 4)[: order + 1]]
    torch.testing.assert_close(forecast(seen, 11), curves(11))
    if order:
        assert not torch.allclose(forecast(seen[:order], 11)[0], curves(11)[0])


def test_with_every_step_computed_nothing_changes_but_that_it_is_counted():
    model = random_model()
    counting = Reusing(model)
    options = dict(steps=5, sampler="unipc", cfg_scale=2.0)
    assert torch.equal(generate(counting, [1, 2], **options), generate(model, [1, 2], **options))
    assert counting.asked == 5 * 2 * 2


def test_skipped_steps_do_not_ask_the_network():
    model, calls = random_model(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    generate(Reusing(model, every=3, order=1), [1], steps=12)
    assert len(calls) == sum(computed(number, 12, 3, 1) for number in range(12)) == 6


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("block", [*BLOCKS, "udit"])
def test_branches_are_not_run_where_they_are_forecast_and_all_else_is(block, precision):
    quick = fast(random_udit() if block == "udit" else random_model(block=block), precision=precision)
    calls = []
    for branch in branches_of(quick):
        for module in branch.children():
            module.register_forward_hook(lambda module, *_: calls.append(module))
    plain, all_of = generate(quick, [1], steps=12), Counter(calls)
    calls.clear()
    reusing = Reusing(quick, every=3, order=1, branches=True)
    forecasts = generate(reusing, [1], steps=12)
    assert reusing.asked == 6 and calls and {module: 2 * count for module, count in Counter(calls).items()} == all_of
    assert (forecasts - plain).abs().max() > 0
    assert torch.equal(generate(Reusing(quick, branches=True), [1], steps=12), plain)


@torch.no_grad()
def test_branches_are_forecast_as_diffusers_taylorseer_does(monkeypatch):
    """Of order 1 both draw a line; which steps are computed is theirs: the first three, then each third but one."""
    from diffusers.hooks import TaylorSeerCacheConfig

    model, count = random_model(input_size=8), 14
    cache = TaylorSeerCacheConfig(
        cache_interval=3, max_order=1, taylor_factors_dtype=torch.float32,
        cache_identifiers=[r"transformer_blocks\.\d+\.(attn1|ff)"],
    )  # fmt: skip
    theirs = diffusers_model(model, cache)
    monkeypatch.setattr(reuse, "computed", lambda number, *_: number < 3 or (number - 4) % 3 == 0)
    y, noise = torch.tensor([0, 2]), torch.Generator().manual_seed(0)
    reusing = Reusing(model, every=3, order=1, branches=True)
    ask = reusing.ahead(torch.arange(count), y)
    with theirs.cache_context("run"):
        for step in range(count):
            x, t = torch.randn(2, 3, 8, 8, generator=noise), torch.full((2,), 990 - 60 * step)
            torch.testing.assert_close(ask(x, t, y), theirs(x, t, y).sample, atol=2e-5, rtol=1e-4)
    assert reusing.asked == 2 * (3 + 4)


def test_an_error_on_the_way_leaves_the_branches_as_they_were():
    model = random_model()
    ask = Reusing(model, every=2, order=1, branches=True).ahead(torch.arange(4), torch.tensor([1]))
    with pytest.raises((RuntimeError, ValueError)):
        ask(torch.zeros(1, 7, 3, 3), torch.tensor([5]), torch.tensor([1]))
    assert not any("forward" in vars(branch) for branch in branches_of(model))


def test_where_guidance_begins_or_ends_the_network_is_asked_anew():
    model = random_model()
    reusing = Reusing(model, every=5, order=0)
    generate(reusing, [1, 2], steps=10, cfg_scale=2.0, cfg_interval=(300, 700))
    assert reusing.asked > 0


def test_every_way_has_a_name_of_its_own():
    found = ways((4, 14, 20))
    assert len({str(way) for way in found}) == len(found)
    assert str(Way("dpmpp", 14, every=2, order=1)) == "dpmpp 14, every 2, order 1"


def test_a_flow_is_walked_by_samplers_that_it_has_and_forecasts_are_left_out_where_they_are_not_asked_for():
    flow = process_of(random_model(**objective("flow")).config)
    assert {way.sampler for way in ways((4, 14), flow=True)} <= set(samplers_for(flow)) - {"ddim"}
    assert any(way.every > 1 for way in ways((4, 14))) and not any(way.every > 1 for way in ways((4, 14), False, False))
    assert {way.sampler for way in ways_of("cifar10_pixels", (4,), True)} >= {"euler", "unipc"}
    assert {way.sampler for way in ways_of("mnist", (4,), True)} >= {"ddim", "ddpm"}


def few(monkeypatch, tmp_path, **options):
    """A run of two ways on noise that stands for test pictures."""
    chosen = [Way("ddim", 3), Way("dpmpp", 4, searched=True)]
    monkeypatch.setattr(fewer_steps, "ways", lambda *_: chosen)
    monkeypatch.setattr(fewer_steps, "HELD_OUT", 130)
    monkeypatch.setattr(fewer_steps, "searched", lambda *_, **__: ([999, 700, 300, 50], 0.1, 0.2))
    pixels = np.random.default_rng(0).integers(0, 256, (300, 1, 28, 28), dtype=np.uint8)
    images = Images(pixels, np.arange(300) % 10, [str(number) for number in range(10)])
    monkeypatch.setattr(fewer_steps, "real", lambda *_: images)
    monkeypatch.setattr(fewer_steps, "judge_for", lambda *_: (classifier(), ""))
    monkeypatch.setattr(Classifier, "WIDTH", 8)  # of which 20 samples have a covariance
    about = dict(models=("mnist",), seeds=(1,), samples=20, batch_size=10, turns=1, device="cpu")
    fewer_steps_command(**about | options, out=tmp_path / "runs", results=tmp_path / "fewer.json")
    return json.loads((tmp_path / "fewer.json").read_text())


def classifier():
    """A judge of no training."""
    torch.manual_seed(0)
    return Classifier(1, (28, 28), 10).eval()


def test_results_are_kept_told_and_gone_on_with(monkeypatch, tmp_path):
    first = few(monkeypatch, tmp_path)
    assert [row["way"] for row in first["rows"]] == ["ddim 3", "dpmpp 4, searched"]
    assert [row["passes"] for row in first["rows"]] == [6, 8] and len(first["times"]) == 1
    page = (tmp_path / "fewer.md").read_text()
    assert "| ddim 3 | 6 |" in page and "| dpmpp 4, searched | 8 |" in page and (tmp_path / "fewer.png").is_file()
    assert "guided pictures on one core (" in page and "1 thread," in page
    more = few(monkeypatch, tmp_path, seeds=(1, 2))
    assert more["rows"][:2] == first["rows"] and len(more["rows"]) == 4
    with pytest.raises(ValueError, match="was made with another samples"):
        few(monkeypatch, tmp_path, samples=30)


def test_results_that_are_none_and_unknown_models_are_refused(tmp_path):
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ValueError, match="holds no results of this"):
        opened(tmp_path / "other.json", {})
    with pytest.raises(ValueError, match="models must be of mnist, cifar10, mnist_udit, cifar10_pixels, not sheep"):
        fewer_steps_command(models=("sheep",), results=tmp_path / "new.json")
    (tmp_path / "mnist.npz").write_bytes(b"no pictures")
    with pytest.raises(ValueError, match="holds no test pictures"):
        real("mnist", tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--samples", 0], "--samples must be at least 1, not 0"),
        (["--samples", -4], "--samples must be at least 1, not -4"),
        (["--samples", 1], "1 picture is too few, it takes 129: below that the covariance of 128 features is"),
        (["--samples", 128], "128 pictures are too few, it takes 129"),
        (["--batch-size", 0], "--batch-size must be at least 1, not 0"),
        (["--turns", -1], "--turns must be at least 0, not -1"),
    ],
)
def test_numbers_of_nothing_are_refused_before_any_work(options, told, command, monkeypatch, tmp_path):
    for name in "load", "real":
        monkeypatch.setattr(fewer_steps, name, lambda *_, **__: pytest.fail("work began"))
    places = ["--data", tmp_path, "--out", tmp_path / "out", "--results", tmp_path / "fewer.json"]
    code, _, complaint = command("experiment", "fewer-steps", *places, *options)
    assert code == 2 and told in complaint and complaint.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--only", "dpmpp 20, evry 3"], "--only: 'dpmpp 20, evry 3' is none of the ways of mnist with --budgets 4 20"),
        (["--only", "ddim 4", "--models", "mnist", "cifar10_pixels"], "--only names no way of cifar10_pixels"),
    ],
)
def test_ways_that_are_not_there_are_refused_before_any_work(options, told, command, tmp_path):
    places = ["--data", tmp_path, "--out", tmp_path / "out", "--results", tmp_path / "fewer.json"]
    begun = ["experiment", "fewer-steps", "--models", "mnist", "--budgets", "4", "20"]
    code, _, complaint = command(*begun, *places, *options)
    assert code == 2 and told in complaint and complaint.count("\n") == 1 and not list(tmp_path.iterdir())


def test_only_the_ways_that_are_named_are_compared(monkeypatch, tmp_path):
    monkeypatch.setattr(fewer_steps, "errors", lambda *_: pytest.fail("none but the ways that were named"))
    own = {"good": {"sampler": "unipc", "steps": [999, 500]}}
    monkeypatch.setattr(fewer_steps, "load", lambda *name, **how: replace(load(*name, **how), qualities=own))
    table = few(monkeypatch, tmp_path, only=("ddim 3",))
    assert [row["way"] for row in table["rows"]] == ["ddim 3"]
    page = (tmp_path / "fewer.md").read_text()
    assert "a seed, seed 1; precision" in page and "An interval" not in page


def test_no_turns_leave_the_timing_to_another_run(monkeypatch, tmp_path):
    assert few(monkeypatch, tmp_path, turns=0)["times"] == []


def test_a_model_of_fewer_seeds_is_said_to_be_one_and_a_flow_has_a_panel_of_its_own():
    row = lambda model, way, seed: dict(model=model, way=way, seed=seed, frechet=9.0, agreement=0.5, passes=8)
    rows = [row("a", way, seed) for way in ("ddim 4", "unipc 4, searched") for seed in (1, 2)]
    rows += [row(name, "euler 4", 1) for name in "bcd"]
    settings = dict(samples=20, cfg_scale=2.0, precision="bf16")
    table = dict(settings=settings, floors=dict.fromkeys("abcde", 1.0), rows=rows, times=[])
    assert "seeds 1, 2, of b 1 alone, of c 1 alone, of d 1 alone (mean" in fewer_steps_page.page(table)
    drawn = fewer_steps_page.figure(table)
    assert [axis.get_title() for axis in drawn.axes] == [f"{name} (real pictures: 1.0)" for name in "abcd"]
