"""`search-steps`: timesteps that come nearer than even ones are told, and kept where a checkpoint can keep them."""

import json

import pytest
import torch
from shared import ROOT, stirred

from dit_lab.checkpoints import CheckpointError, load, save
from dit_lab.diffusion import SAMPLERS, generate, process_of, quality, searching
from dit_lab.diffusion.stochastic import FRESH
from dit_lab.models import fast

SHAPE = dict(dim=32, depth=1, heads=2, input_size=8, in_channels=1, num_classes=10)
QUICK = ["--samples", 2, "--steps", 3, "--device", "cpu"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("dit_lab.diffusion.searching.REFERENCE", 20)
    extra = {"trained_steps": 5, "qualities": {"good": dict(sampler="ddim", steps=9)}}
    return save(tmp_path / "model", stirred("DiT-nano/4", **SHAPE), codec_hint="pixels", extra=extra)


def test_what_is_found_is_said_as_options_of_sample_with_its_error(command, folder):
    before = (folder / "config.json").read_bytes()
    code, told, _ = command("search-steps", folder, *QUICK)
    assert code == 0 and "--sampler unipc --steps 999 " in told and "3 even steps:" in told
    assert (folder / "config.json").read_bytes() == before


def test_kept_it_is_the_quality_that_loading_it_gives_and_all_else_stays(command, folder):
    before = json.loads((folder / "config.json").read_text())
    code, told, complaint = command("search-steps", folder, *QUICK, "--keep-as", "draft")
    assert code == 0 and "kept as its quality draft" in told, complaint
    after = json.loads((folder / "config.json").read_text())
    draft = after["qualities"].pop("draft")
    assert after == before and draft["sampler"] == "unipc" and len(draft["steps"]) == 3
    loaded = load(folder)
    assert loaded.qualities == {"good": dict(sampler="ddim", steps=9), "draft": draft}
    way = quality("draft", process_of(loaded.config), loaded.qualities)
    assert way == draft and generate(loaded.model, [1], **way).isfinite().all()


def test_converting_keeps_a_checkpoints_own_qualities(command, folder, tmp_path):
    assert command("convert", folder, tmp_path / "other", "--to", "dit_lab")[0] == 0
    assert command("convert", folder, tmp_path / "bare.pt", "--to", "meta_dit")[0] == 0
    assert load(tmp_path / "other").qualities == load(tmp_path / "bare.pt").qualities == load(folder).qualities != {}


def test_before_any_work_a_file_that_cannot_keep_them_is_refused(command, folder, tmp_path):
    assert command("convert", folder, tmp_path / "a.pt", "--to", "meta_dit")[0] == 0
    for source in (tmp_path / "a.pt", "mnist", tmp_path / "nowhere"):
        code, _, told = command("search-steps", source, *QUICK, "--keep-as", "draft")
        assert code == 2 and "no folder of dit_lab's format, which could keep them: convert it first" in told


def test_a_flow_keeps_its_searched_timesteps_too(command, tmp_path):
    flow = dict(schedule="flow", prediction="velocity", learned_variance=False)
    source = save(tmp_path / "flow", stirred("DiT-nano/4", **SHAPE | flow), codec_hint="pixels")
    code, _, told = command("search-steps", source, *QUICK, "--keep-as", "draft")
    assert code == 0, told
    assert load(source).qualities["draft"]["steps"][0] == 1000.0


@pytest.mark.parametrize(("given", "compiled"), [([], "auto"), (["yes"], True), (["no"], False)])
def test_its_walks_are_compiled_as_asked_and_by_itself_where_that_pays_for_all_of_them(
    given, compiled, command, folder, monkeypatch
):
    asked = []
    made = lambda model, **options: asked.append(options) or fast(model, precision=options["precision"])
    monkeypatch.setattr("dit_lab.commands.search_steps.fast", made)
    code, _, told = command("search-steps", folder, *QUICK, *(["--compile", *given] if given else []))
    (options,) = asked
    assert code == 0 and options["compile"] == compiled and options["batch"] == 4
    assert options["forwards"] == searching.walked_at_most(3) and "walks of 3 steps, fp32" in told


def test_steps_that_cannot_be_searched_are_refused_before_anything_is_compiled(command, folder, monkeypatch):
    monkeypatch.setattr("dit_lab.commands.search_steps.fast", lambda *_, **__: pytest.fail("something was compiled"))
    for steps, told in (1, "one step begins where there is only noise"), (0, "steps must be a whole number from 1"):
        code, _, complaint = command("search-steps", folder, *QUICK, "--steps", steps)
        assert code == 2 and told in complaint


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--sampler", "ddpm"], "ddpm puts fresh noise in at every step"),
        (["--sampler", "sde"], "sde puts fresh noise in at every step"),
        (["--sampler", "dpmpp_sde"], "dpmpp_sde puts fresh noise in at every step"),
        (["--samples", 0], "--samples must be at least 1, not 0"),
        (["--samples", -4], "--samples must be at least 1, not -4"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_is_loaded(options, told, command, monkeypatch):
    monkeypatch.setattr("dit_lab.commands.search_steps.load", lambda *_, **__: pytest.fail("something was loaded"))
    code, _, complaint = command("search-steps", "mnist", *QUICK, *options)
    assert code == 2 and told in complaint and complaint.count("\n") == 1


@pytest.mark.parametrize(
    ("sampler", "options", "told"),
    [
        *((name, {}, f"{name} puts fresh noise in") for name in ("ddpm", "sde", "dpmpp_sde")),
        ("ddim", dict(eta=0.5), "an eta puts fresh noise in"),
        *(("ddim", dict(noises=noises), "noises must be a whole number from 1 on, not") for noises in (0, -4, 1.5)),
    ],
)
def test_nothing_is_drawn_for_a_search_that_would_find_chance(sampler, options, told, monkeypatch):
    monkeypatch.setattr(searching, "generate", lambda *_, **__: pytest.fail("something was drawn"))
    with pytest.raises(ValueError, match=told):
        searching.searched(stirred("DiT-nano/4", **SHAPE), sampler, 3, **options)


def test_samplers_of_fresh_noise_are_those_that_ask_for_it_on_their_way():
    """Two walks from the same noise that are given other noise on their way end the same unless they are such."""
    model = stirred("DiT-nano/4", **SHAPE)
    for name in SAMPLERS:
        ends = []
        for seed in 1, 2:
            own, first = torch.Generator().manual_seed(seed), iter([torch.ones(1, 1, 8, 8)])
            noise = lambda shape, own=own, first=first: next(first, torch.randn(*shape, generator=own))
            ends.append(generate(model, [1], sampler=name, steps=3, noise=noise))
        assert torch.equal(*ends) is (name not in FRESH), name


def test_guidance_without_classes_is_refused_in_a_sentence(command, tmp_path):
    source = save(tmp_path / "plain", stirred("DiT-nano/4", **SHAPE | {"num_classes": 0}), codec_hint="pixels")
    code, _, told = command("search-steps", source, *QUICK)
    assert code == 2 and "cannot be guided: give --cfg-scale 1" in told


@pytest.mark.parametrize("own", [7, {"best": {}}, {"draft": dict(sampler="unipc", steps=[1, 2])}, {"draft": [999]}])
def test_a_file_whose_qualities_cannot_be_sampled_by_is_refused_when_it_is_loaded(own, tmp_path):
    save(tmp_path / "model", stirred("DiT-nano/4", **SHAPE), codec_hint="pixels", extra={"qualities": own})
    with pytest.raises(CheckpointError, match="its config's qualities cannot be sampled by"):
        load(tmp_path / "model")


def test_those_of_colour_ship_with_the_model_as_they_were_measured_and_those_of_the_digits_are_for_all():
    measured = json.loads((ROOT / "docs/results/fewer_steps.json").read_text())["searched"]
    found = {(row["model"], row["sampler"], row["steps"]): row["timesteps"] for row in measured}
    ways = load("cifar10").qualities
    assert {len(way["steps"]) for way in ways.values()} == {4, 6}
    assert all(way["steps"] == found["cifar10", way["sampler"], len(way["steps"])] for way in ways.values())
    assert load("mnist").qualities == {}
