"""The checkpoints that ship: small, whole, with a recipe, and as good as their recorded figures say."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import dit_lab
from dit_lab.features import judge
from dit_lab.zoo.check import agreement, check, classifier_for, draw, everything

ZOO = Path(dit_lab.__file__).parent / "zoo"
NAMES = sorted(path.parent.name for path in ZOO.glob("*/config.json"))


class MnistShape:
    """All that the kept classifier needs to know of the data, where there is none."""

    shape, names = (1, 28, 28), [str(digit) for digit in range(10)]


@pytest.fixture(scope="module")
def mnist_test(real_data):
    return dit_lab.open_data(real_data("mnist"), split="test")


def figures(name):
    return json.loads((ZOO / name / "figures.json").read_text())


def test_the_zoo_has_the_model_that_the_app_opens_on():
    assert "mnist" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_zoo_model_is_fp16_and_at_most_8_mb_with_1_to_4_million_parameters(name):
    path = ZOO / name / "model.safetensors"
    assert path.stat().st_size <= 8e6
    with safe_open(path, framework="pt") as file:
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}  # noqa: SIM118
    count = sum(parameter.numel() for parameter in dit_lab.load(name).model.parameters())
    assert 1e6 <= count <= 4e6


@pytest.mark.parametrize("name", NAMES)
def test_a_zoo_model_comes_with_its_recipe_loss_log_and_pictures(name):
    folder = ZOO / name
    recipe = (folder / "README.md").read_text(encoding="utf-8")
    assert "dit_lab train" in recipe and "--seed" in recipe
    assert all((folder / picture).is_file() for picture in re.findall(r"\]\(([\w.]+)\)", recipe))
    steps = [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    assert steps[-1] == int(re.search(r"--steps (\d+)", recipe)[1])


@pytest.mark.parametrize("name", NAMES)
def test_the_recipe_tells_the_recorded_figures(name):
    recipe, found = (ZOO / name / "README.md").read_text(encoding="utf-8"), figures(name)
    assert f"{found['classifier_test_accuracy']:.2%}".replace("%", " %") in recipe
    assert f"{found['agreement']['share']:.1%}".replace("%", " %") in recipe
    assert f"{found['frechet']['samples_to_test']:.2f}" in recipe
    assert f"{found['frechet']['train_to_test']:.2f}" in recipe


def test_the_recorded_figures_of_mnist_keep_the_projects_promise():
    found = figures("mnist")
    assert found["classifier_test_accuracy"] >= 0.985
    assert found["agreement"] | {"share": 1} == {
        "samples": 1_000, "cfg_scale": 2.0, "sampler": "ddim", "steps": 50, "share": 1,
    }  # fmt: skip
    assert found["agreement"]["share"] >= 0.97
    assert found["frechet"]["samples"] == 10_000


def test_the_kept_classifier_recognises_real_digits_as_recorded(mnist_test):
    classifier = classifier_for(mnist_test, ZOO / "mnist" / "classifier.safetensors")
    seen, _ = judge(classifier, everything(mnist_test))
    share = agreement(seen, torch.from_numpy(mnist_test.labels))
    assert share == pytest.approx(figures("mnist")["classifier_test_accuracy"], abs=5e-4)


def test_fresh_samples_show_the_digit_that_was_asked_for():
    """The promise again on a few: 40 samples, 10 steps. Wrong labels would agree on 4 of them."""
    model = dit_lab.load("mnist").model
    classifier = classifier_for(MnistShape, ZOO / "mnist" / "classifier.safetensors")
    samples, labels = draw(model, 40, 10, 2.0)
    seen, _ = judge(classifier, samples)
    assert agreement(seen, labels) >= 0.9
    assert agreement(seen, labels.roll(1)) <= 0.2


def test_the_check_writes_its_figures_beside_the_checkpoint(real_data, tmp_path):
    (tmp_path / "classifier.safetensors").write_bytes((ZOO / "mnist" / "classifier.safetensors").read_bytes())
    found = check("mnist", data=str(real_data("mnist")), samples=10, distance_samples=0, steps=4, out=tmp_path)
    assert json.loads((tmp_path / "figures.json").read_text()) == found
    assert found["agreement"]["samples"] == 10
