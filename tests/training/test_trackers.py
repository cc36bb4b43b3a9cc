"""What a run gives to TensorBoard and to Weights & Biases: the losses of its log, its samples, and no bit of itself."""

import json
import sys
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from shared import assert_same
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dit_lab.data import open_data
from dit_lab.models import build
from dit_lab.training import TrainOptions, trackers, train

OPTIONS = TrainOptions(steps=60, batch_size=2, precision="fp32", save_every=20)


@pytest.fixture(scope="module")
def digits():
    return open_data("digits")


def tiny():
    torch.manual_seed(0)
    return build("DiT-nano/8", input_size=8, in_channels=1, num_classes=10, dim=16, depth=1, heads=2)


def lines(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def curve(out, name):
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_tensorboard_has_the_losses_of_the_log_once_also_of_a_run_that_was_killed_and_resumed(digits, tmp_path):
    options = replace(OPTIONS, tracker=("tensorboard",))
    steps = train(tiny(), digits, options, out=tmp_path)
    for step in steps:
        if step.step == 55:
            break
    (tmp_path / "kept").write_bytes((tmp_path / "state.safetensors").read_bytes())  # of step 40
    steps.close()
    (tmp_path / "kept").replace(tmp_path / "state.safetensors")
    list(train(tiny(), digits, options, out=tmp_path, resume=True))
    assert [line["step"] for line in lines(tmp_path)] == [50, 60]
    for name in "loss", "mse", "vb", "gradient_norm":
        assert curve(tmp_path, name) == [
            (line["step"], pytest.approx(line[name], rel=1e-6)) for line in lines(tmp_path)
        ]


@pytest.fixture
def service(monkeypatch):
    """A stand-in for the package wandb, which keeps what it is given."""
    kept = SimpleNamespace(begun=[], logged=[], ended=0)

    def init(**given):
        kept.begun.append(given)
        folder = f"{given['dir']}/wandb/offline-run-20261127_0400-{given['id'] or 'abcd'}"
        Path(folder).mkdir(parents=True, exist_ok=True)
        return SimpleNamespace(log=lambda values, step: kept.logged.append((step, values)), finish=end)

    def end():
        kept.ended += 1

    fake = ModuleType("wandb")
    fake.__spec__, fake.init, fake.Image = ModuleSpec("wandb", None), init, lambda pixels: pixels
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return kept


def test_weights_and_biases_gets_the_same_under_the_folders_name_and_goes_on_with_it(service, digits, tmp_path):
    options, out = replace(OPTIONS, tracker=("wandb",), steps=50, sample_every=50), tmp_path / "first"
    list(train(tiny(), digits, options, out=out))
    [(step, losses), (at, samples)] = service.logged
    assert (step, at, service.ended) == (50, 50, 1) and {"step": 50, **losses} == lines(out)[0]
    assert len(samples["samples"]) == 16 and samples["samples"][0].shape == (8, 8, 3)
    [begun] = service.begun
    assert (begun["project"], begun["name"], begun["id"], begun["resume"]) == ("dit_lab", "first", None, "allow")
    assert begun["config"]["lr"] == options.lr and begun["config"]["data"] == digits.fingerprint
    list(train(tiny(), digits, replace(options, steps=51), out=out, resume=True))
    assert service.begun[1]["id"] == "abcd" and service.ended == 2


def test_being_watched_changes_no_bit(service, digits, tmp_path):
    for name, tracker in ("plain", ()), ("watched", ("tensorboard", "wandb")):
        options = replace(OPTIONS, steps=2, tracker=tracker, sample_every=1)
        list(train(tiny(), digits, options, out=tmp_path / name))
    plain, watched = (load_file(tmp_path / name / "state.safetensors") for name in ("plain", "watched"))
    assert_same(watched, plain)


def test_a_tracker_that_is_not_installed_is_one_sentence_before_any_work(digits, tmp_path, monkeypatch):
    there = trackers.find_spec
    monkeypatch.setattr(trackers, "find_spec", lambda name: None if name == "wandb" else there(name))
    with pytest.raises(ValueError, match="^--tracker tensorboard wandb needs wandb, not installed here: pip "):
        train(tiny(), digits, replace(OPTIONS, tracker=("tensorboard", "wandb")), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    trackers.check_trackers(())
    with pytest.raises(ValueError, match="needs wandb and accelerate, .*: pip install wandb accelerate$"):
        trackers.check_trackers(("wandb",))


def test_a_service_that_does_not_start_is_one_sentence(service, digits, tmp_path, monkeypatch):
    def refuse(**_):
        raise RuntimeError("api_key not configured (no-tty). call wandb.login(key=[your_api_key])")

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
    with pytest.raises(ValueError, match="^--tracker wandb did not start: api_key not configured .no-tty.; log in "):
        list(train(tiny(), digits, replace(OPTIONS, tracker=("wandb",)), out=tmp_path))


def test_the_real_client_writes_without_a_network(digits, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    list(train(tiny(), digits, replace(OPTIONS, tracker=("wandb",), sample_every=30), out=tmp_path))
    [run] = (tmp_path / "wandb").glob("offline-run-*")
    assert any(path.stat().st_size > 1000 for path in run.glob("*.wandb"))


@pytest.mark.parametrize("tracker", [("wandb", "wandb"), ("comet",)])
def test_trackers_are_known_and_each_named_once(tracker):
    with pytest.raises(ValueError, match="^tracker must be some of tensorboard, wandb, each once, not "):
        TrainOptions(tracker=tracker)
