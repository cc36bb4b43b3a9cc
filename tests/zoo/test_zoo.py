"""The checkpoints that ship: small, whole, with a recipe, and as good as their recorded figures say."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from shared import stirred, tiny_vae

import dit_lab
from dit_lab.checkpoints import save, zoo
from dit_lab.checkpoints.reading import read_safetensors
from dit_lab.data import Autoencoder, codec_of, open_codec
from dit_lab.diffusion import objective
from dit_lab.evaluation import Classifier, agreement, draw, everything, frechet_distance, judge
from dit_lab.evaluation.features import JUDGES, KEPT, opened, shipped
from dit_lab.models import BLOCKS, fast
from dit_lab.zoo.check import check

ZOO = Path(dit_lab.__file__).parent / "zoo"
NAMES = sorted(zoo())
FOUR = [f"mnist_{block}" for block in BLOCKS]
COLOUR = [name for name in NAMES if name.endswith("_pixels")]


class ShapeOf:
    """All that a kept classifier needs to know of the data, where there is none: what a zoo model makes."""

    def __init__(self, name):
        loaded = dit_lab.load(name)
        self.shape, self.names = (loaded.config.in_channels, *loaded.config.size), loaded.labels


def figures(name):
    return json.loads((ZOO / name / "figures.json").read_text())


def test_the_zoo_has_the_model_that_the_app_opens_on_a_udit_and_the_four_blocks():
    assert {"mnist", "mnist_udit", *FOUR, "cifar10"} <= set(NAMES)
    assert {dit_lab.load(name).config.block for name in FOUR} == set(BLOCKS)
    shapes = [replace(dit_lab.load(name).config, block="adaln_zero") for name in FOUR]
    assert all(shape == shapes[0] for shape in shapes)  # they differ in the block alone


@pytest.mark.parametrize("name", NAMES)
def test_a_zoo_model_is_fp16_and_small_and_one_of_colour_in_pixels_at_most_25_mb(name):
    path = ZOO / name / "model.safetensors"
    bytes_, most = (25e6, 12e6) if name in COLOUR else (8e6, 4e6)
    assert path.stat().st_size <= bytes_
    with safe_open(path, framework="pt") as file:
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}  # noqa: SIM118
    count = sum(parameter.numel() for parameter in dit_lab.load(name).model.parameters())
    assert 0.49e6 <= count <= most


@pytest.mark.parametrize("name", NAMES)
def test_a_zoo_model_comes_with_its_recipe_loss_log_and_pictures(name):
    folder = ZOO / name
    recipe = (folder / "README.md").read_text(encoding="utf-8")
    assert re.search(r"python -m dit_lab (experiment four-blocks|train) [^`]*--seeds? 0", recipe)
    assert all((folder / picture).is_file() for picture in re.findall(r"\]\(([\w.]+)\)", recipe))
    steps = [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    assert steps[-1] == int(re.search(r"--steps ((?:\d+ )*\d+)", recipe)[1].split()[-1])


@pytest.mark.parametrize("name", NAMES)
def test_a_zoo_model_has_a_recorded_run_that_the_same_settings_make_again(name):
    path, model = ZOO / name / "run.safetensors", dit_lab.load(name).model
    run = dit_lab.Trajectory.load(path)
    again = dit_lab.record(model, run.labels, **run.options)
    assert path.stat().st_size < 600e3 and again.t == run.t and run.options["cfg_scale"] == 2
    assert (again.sample - run.sample).abs().mean() < 1e-3  # not a bit more: kernels of other machines round otherwise


@pytest.mark.parametrize("name", NAMES)
def test_the_recipe_tells_the_recorded_figures(name):
    recipe, found = (ZOO / name / "README.md").read_text(encoding="utf-8"), figures(name)
    assert f"{found['classifier_test_accuracy']:.2%}".replace("%", " %") in recipe
    assert f"{found['agreement']['share']:.1%}".replace("%", " %") in recipe
    assert f"{found['frechet']['samples_to_test']:.2f}" in recipe
    assert f"{found['frechet']['train_to_test']:.2f}" in recipe


@pytest.mark.parametrize("name", ["mnist", "mnist_udit"])
def test_the_recorded_figures_of_digits_keep_the_projects_promise(name):
    found = figures(name)
    assert found["classifier_test_accuracy"] >= 0.985
    assert found["agreement"] | {"share": 1} == {
        "samples": 1_000, "cfg_scale": 2.0, "sampler": "ddim", "steps": 50, "share": 1,
    }  # fmt: skip
    assert found["agreement"]["share"] >= 0.97
    assert found["frechet"]["samples"] == 10_000


@pytest.mark.parametrize("name", ["mnist", "mnist_udit"])
def test_the_kept_classifier_recognises_real_digits_as_recorded(name, real_data):
    test = dit_lab.open_data(real_data("mnist"), split="test", size=ShapeOf(name).shape[-1])
    classifier = opened(shipped(test, "test"), test)
    seen, _ = judge(classifier, everything(test))
    share = agreement(seen, torch.from_numpy(test.labels))
    assert share == pytest.approx(figures(name)["classifier_test_accuracy"], abs=5e-4)


@pytest.mark.parametrize("name", ["mnist", "mnist_udit", "mnist_in_context", "mnist_adaln_zero"])
def test_fresh_samples_show_the_digit_that_was_asked_for(name):
    """The promise again on a few: 40 samples, 10 steps. Wrong labels would agree on 4 of them."""
    about = ShapeOf(name)
    classifier = opened(JUDGES / f"mnist{about.shape[-1]}.safetensors", about)
    samples, labels = draw(dit_lab.load(name).model, 40, 10, 2.0)
    seen, _ = judge(classifier, samples)
    assert agreement(seen, labels) >= 0.9
    assert agreement(seen, labels.roll(1)) <= 0.2


def test_the_latent_model_is_drawn_through_the_very_vae_that_it_learnt_from():
    loaded = dit_lab.load("cifar10")
    codec = codec_of(loaded)
    assert isinstance(codec, Autoencoder) and not codec.note
    assert loaded.made["encoder_checksum"] == codec.encoder_checksum
    samples, labels = draw(loaded.model, 20, 8, 2.0, codec.decode)
    assert samples.shape == (20, 3, 32, 32)
    classifier = Classifier(3, (32, 32), 10).eval()
    classifier.load_state_dict(read_safetensors(JUDGES / "cifar10.safetensors")[0])
    seen, _ = judge(classifier, samples)
    assert agreement(seen, labels) >= 0.4 and agreement(seen, labels.roll(1)) <= 0.25  # by chance 0.1


@pytest.mark.parametrize("name", COLOUR)
def test_the_recorded_figures_of_colour_keep_the_projects_promise_and_beat_the_latents(name):
    found, latents = figures(name), figures("cifar10")
    assert found["agreement"]["samples"] == 1_000 and found["agreement"]["share"] >= 0.8
    assert found["frechet"]["samples"] >= latents["frechet"]["samples"]
    assert found["frechet"]["samples_to_test"] < 100 < latents["frechet"]["samples_to_test"]


@pytest.mark.parametrize("name", COLOUR)
def test_fresh_colour_samples_show_what_was_asked_for(name):
    about = ShapeOf(name)
    classifier = opened(JUDGES / "cifar10.safetensors", about)
    samples, labels = draw(dit_lab.load(name).model, 20, 10, 2.0)
    assert samples.shape == (20, 3, 32, 32)
    seen, _ = judge(classifier, samples)
    assert agreement(seen, labels) >= 0.6 and agreement(seen, labels.roll(1)) <= 0.25  # by chance 0.1


def test_the_udit_of_the_zoo_folds_to_the_same_pictures():
    model = dit_lab.load("mnist_udit").model
    ours, folded = (dit_lab.generate(m, [3, 8], steps=4, cfg_scale=2.0) for m in (model, dit_lab.fold(model)))
    assert torch.allclose(folded, ours, atol=1e-4)


def test_the_check_writes_its_figures_beside_the_checkpoint(tmp_path):
    found = check("mnist", data="digits", samples=10, distance_samples=0, steps=4, out=tmp_path)
    assert json.loads((tmp_path / "figures.json").read_text()) == found
    assert found["agreement"]["samples"] == 10


def test_the_check_judges_latents_by_the_pictures_that_their_vae_makes(tmp_path):
    tiny_vae().save_pretrained(vae := tmp_path / "vae")
    taken = dict(patch_size=2, in_channels=4, input_size=4, num_classes=10)
    save(tmp_path / "latent", stirred("DiT-nano/4", dim=16, depth=1, heads=2, **taken), codec_hint=str(vae))
    few = dict(samples=10, distance_samples=150, steps=2)
    found = check(str(tmp_path / "latent"), data="digits", out=tmp_path, **few)
    test = dit_lab.open_data("digits", split="test")
    classifier, decode = opened(tmp_path / KEPT, test), open_codec(str(vae), channels=4).decode
    drawn, _ = draw(dit_lab.load(tmp_path / "latent").model, 150, 2, 1.0, decode)
    assert drawn.shape == (150, 3, 8, 8)
    features = [judge(classifier, x)[1] for x in (drawn, everything(test))]
    assert found["frechet"]["samples_to_test"] == pytest.approx(frechet_distance(*features), rel=1e-4)


@pytest.fixture(scope="module")
def coloured(tmp_path_factory):
    """A folder of small pictures in two colours, 24 to train on and 12 to test with."""
    folder = tmp_path_factory.mktemp("coloured")
    random = np.random.default_rng(0)
    for split, count in ("train", 12), ("test", 6):
        for channel, name in (0, "red"), (2, "blue"):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 60, (8, 8, 3), dtype=np.uint8)
                pixels[..., channel] += 180
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    return folder


def test_the_check_judges_a_flow_of_colour_pixels_as_it_draws_them(coloured, tmp_path):
    taken = dict(patch_size=2, in_channels=3, input_size=8, num_classes=2, **objective("flow"))
    save(tmp_path / "flow", stirred("DiT-nano/4", dim=16, depth=1, heads=2, **taken), codec_hint="pixels")
    few = dict(data=str(coloured), samples=10, distance_samples=150, distance_cfg_scale=1.5, steps=2, device="cpu")
    found = check(str(tmp_path / "flow"), out=tmp_path, **few)
    test = dit_lab.open_data(coloured, split="test")
    classifier, model = opened(tmp_path / KEPT, test), dit_lab.load(tmp_path / "flow").model
    drawn, _ = draw(model, 150, 2, 1.5)
    features = [judge(classifier, x)[1] for x in (drawn, everything(test))]
    assert found["frechet"]["samples_to_test"] == pytest.approx(frechet_distance(*features), rel=1e-4)
    assert found["classifier_test_accuracy"] >= 0.9
    assert "precision" not in found["frechet"]


def test_the_check_leaves_out_what_a_judge_says_that_does_not_read_and_draws_nothing_for_it(tmp_path, monkeypatch):
    module = sys.modules["dit_lab.zoo.check"]
    blind = Classifier(1, (28, 28), 10).eval()
    blind.about = {"accuracy": 0.5, "held_back": 20, "chance": 0.2}
    monkeypatch.setattr(module, "judge_for", lambda *_: (blind, ""))
    monkeypatch.setattr(module, "draw", lambda *_: pytest.fail("something was drawn"))
    for samples, names in (0, ["agreement"]), (150, ["agreement", "frechet"]):
        found = check("mnist", data="digits", samples=10, distance_samples=samples, steps=2, out=tmp_path)
        assert list(found) == ["classifier_test_accuracy", "left_out"] and list(found["left_out"]) == names
        assert all("reads only 50% of real" in reason for reason in found["left_out"].values())
        assert json.loads((tmp_path / "figures.json").read_text()) == found


def test_the_check_says_when_its_figures_are_of_half_precision(tmp_path):
    found = check("mnist", data="digits", samples=10, distance_samples=0, steps=2, precision="bf16", out=tmp_path)
    assert found["agreement"]["precision"] == "bf16"


def test_the_check_has_its_steps_compiled_where_that_is_asked_for_and_says_so(tmp_path, monkeypatch):
    asked, module = [], sys.modules["dit_lab.zoo.check"]

    def pretended(model, *, compile, forwards, **options):
        asked.append((compile, forwards))
        quick = fast(model, **options)
        quick.speed = replace(quick.speed, compiled=compile is True)
        return quick

    able = SimpleNamespace(about={"accuracy": 1.0})
    seen = dict(judge_for=lambda *_: (able, None), judge=lambda _, x: (torch.zeros(len(x)).long(), torch.eye(3)))
    for name, value in (seen | dict(fast=pretended, BATCH=6)).items():
        monkeypatch.setattr(module, name, value)
    few = dict(data="digits", samples=10, distance_samples=0, steps=2, out=tmp_path)
    plain, compiled = (check("mnist_adaln", **few, **more)["agreement"] for more in ({}, dict(compile="yes")))
    assert compiled.pop("compiled") is True and plain == compiled
    check("mnist_adaln", **few | dict(distance_samples=20, steps=1), compile="auto")
    assert asked == [(False, 4), (True, 4), ("auto", 6)]
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(module, "load", lambda *_, **__: pytest.fail("something was loaded"))
    with pytest.raises(ValueError, match=r"--compile needs a C\+\+ compiler"):
        check("mnist", **few, compile="yes", device="cpu")
