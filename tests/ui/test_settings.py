"""The settings of a run: what a page begins with can be run, what makes no sense is refused, what it costs is right."""

import pytest
import torch
from shared import random_model, random_udit, stirred

from dit_lab.checkpoints import zoo
from dit_lab.data import Pixels
from dit_lab.diffusion import QUALITIES, SAMPLERS, generate, quality, samplers_for
from dit_lab.diffusion.objectives import process_of
from dit_lab.files import read_json
from dit_lab.inside import record
from dit_lab.models import config_of
from dit_lab.panels import Opened
from dit_lab.ui.settings import (
    MOST_BYTES,
    defaults,
    guidable,
    kept_bytes,
    passes,
    qualities,
    read,
    samplers,
    settings_of,
)

ABOUT = {name: read_json(path / "config.json") for name, path in zoo().items()}
CONFIGS = {name: config_of(about["model"]) for name, about in ABOUT.items()}
SQUARE = random_model(input_size=16).config


@pytest.mark.parametrize("name", CONFIGS)
def test_what_a_page_begins_with_can_be_run_and_is_the_quality_that_was_measured(name):
    config, own = CONFIGS[name], ABOUT[name].get("qualities")
    first = defaults(config, name, own)
    labels, options, precision = read(config, ["fp32"], first)
    assert labels == [7] and precision == "fp32" and first["checkpoint"] == name
    assert {key: options[key] for key in ("sampler", "steps")} == quality("good", process_of(config), own)
    assert options.get("cfg_scale", 1.0) == (2.0 if guidable(config) else 1.0)
    assert [each["name"] for each in samplers(config)] == samplers_for(process_of(config))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_quality_that_the_page_offers_can_be_run_and_is_the_one_that_python_names(name):
    config, own = CONFIGS[name], ABOUT[name].get("qualities")
    offered = {each["name"]: each for each in qualities(config, own)}
    assert [*offered] == [*QUALITIES]
    for word, each in offered.items():
        way = {key: each[key] for key in ("sampler", "steps")}
        assert way == quality(word, process_of(config), own)
        _, options, _ = read(config, ["fp32"], defaults(config, name, own) | way)
        assert {key: options[key] for key in way} == way
    if name == "cifar10":
        assert offered["good"]["title"] == "good: 6 steps of UniPC" and len(offered["good"]["steps"]) == 6
    assert offered["paper"]["title"] == f"paper: 250 steps of {'Euler' if config.schedule == 'flow' else 'DDPM'}"


def test_a_model_without_classes_or_null_label_or_with_two_sides_is_asked_for_no_more_than_it_has():
    for model in (random_model(num_classes=0), random_model(null_label=False), random_model(input_size=(8, 12))):
        _, options, _ = read(model.config, ["fp32"], defaults(model.config, "x") | {"size": 99, "cfg_scale": 3})
        assert ("cfg_scale" in options) == guidable(model.config) and "size" not in options


HOSTILE = {
    "labels": [None, [], [5.5], [6], [-1], ["1"], [True], [1] * 17, "1", 1, [[1]], {"0": 1}, [float("nan")]],
    "seed": [None, -1, 1.5, "", "x", "1e3", 2**63, "9" * 400, True, [1], {}],
    "steps": [
        None,
        0,
        -3,
        1001,
        2.5,
        "9",
        float("nan"),
        float("inf"),
        True,
        [],
        [3, 900],
        [9, 9],
        [1000],
        [-1],
        ["9"],
        [True],
        [None],
        [[9]],
        [float("nan")],
        [1] * 1001,
    ],
    "sampler": [None, "", "euler ", 3, ["ddim"], "__class__", "x" * 10**6],
    "cfg_scale": [None, -1, 21, float("nan"), "2", [2], True],
    "cfg_channels": [0, 4, 1.5, "1", [1]],
    "cfg_interval": [[1], [3, 2], "12", [1, "2"], [float("nan"), 1], [-1, 5], 5, [1, 2, 3]],
    "eta": [-0.1, 1.1, "0", float("nan"), [0]],
    "size": [0, 65, 1.5, "16", [16], True],
    "precision": [None, "fp64", "bf16", 32, ["fp32"]],
}


@pytest.mark.parametrize("name, value", [(name, value) for name, values in HOSTILE.items() for value in values])
def test_what_makes_no_sense_is_refused_in_a_short_sentence(name, value):
    with pytest.raises(ValueError) as refused:
        read(SQUARE, ["fp32"], defaults(SQUARE, "x") | {"sampler": "ddim"} | {name: value})
    said = str(refused.value)
    assert len(said) < 250 and "\n" not in said and said.endswith(".") and said[0].isupper()


def test_settings_that_are_no_object_are_refused():
    for value in (None, [], "steps", 7):
        with pytest.raises(ValueError, match="Settings must be an object"):
            read(SQUARE, ["fp32"], value)


def test_a_run_that_would_take_too_much_memory_is_refused_before_it_begins():
    large = defaults(SQUARE, "x") | {"labels": [1] * 16, "steps": 1000, "size": 64}
    with pytest.raises(ValueError, match="take 2250 MiB, the app keeps 256: take fewer pictures"):
        read(SQUARE, ["fp32"], large)
    labels, options, _ = read(SQUARE, ["fp32"], large | {"steps": 100})
    assert kept_bytes(SQUARE, options, len(labels)) <= MOST_BYTES


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_the_passes_and_bytes_that_a_run_will_take_are_those_that_it_takes(sampler, scale):
    model, seen = random_model(), []
    model.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    options = {"sampler": sampler, "steps": 5, "cfg_scale": scale}
    generate(model, [1, 2, 3], **options)
    assert passes(options, 3) == sum(seen)
    run = record(model, [1, 2, 3], **options)
    tensors = (run.x, run.x0, run.eps)
    assert kept_bytes(model.config, options, 3) == sum(4 * each.numel() for each in tensors)


def test_the_settings_of_a_run_that_was_brought_make_it_again():
    model = stirred("DiT-nano/4", input_size=16, in_channels=3, num_classes=5)
    given = dict(sampler="ddim", steps=6, cfg_scale=3.0, cfg_channels=2, cfg_interval=[100, 800], eta=0.5, seed=11)
    run = record(model, [1, 4], size=24, **given)
    settings = settings_of(Opened(run, model, Pixels(), source="x"))
    labels, options, _ = read(model.config, ["fp32"], settings)
    again = record(model, labels, **options)
    assert settings["checkpoint"] == "x" and torch.equal(again.sample, run.sample)
    few = settings_of(Opened(record(model, [1], steps=[900, 500, 3]), model, Pixels()))
    assert few["steps"] == [900, 500, 3] and read(model.config, ["fp32"], few)[1]["steps"] == [900, 500, 3]


def test_timesteps_of_ones_own_cost_and_keep_what_so_many_even_steps_do():
    own = dict(sampler="unipc", steps=[999, 632, 444, 28], cfg_scale=2.0)
    even = own | {"steps": 4}
    assert passes(own, 3) == passes(even, 3) == 24 and kept_bytes(SQUARE, own, 3) == kept_bytes(SQUARE, even, 3)
    assert read(SQUARE, ["fp32"], defaults(SQUARE, "x") | own)[1]["steps"] == own["steps"]


def test_a_stopped_run_of_timesteps_of_its_own_says_those_that_it_took():
    model = random_model()
    opened = Opened(record(model, [1], steps=[900, 500]), model, Pixels())
    opened.options = opened.trajectory.options | {"steps": [900, 500, 3]}
    assert settings_of(opened)["steps"] == [900, 500]


def test_a_u_dits_settings_are_read_like_a_dits():
    labels, options, _ = read(random_udit().config, ["fp32"], defaults(random_udit().config, "u"))
    assert labels == [4] and options["steps"] == 10
