"""Precision "auto": found out by a few passes that leave nothing behind, and kept with the run."""

import json
from dataclasses import replace
from itertools import cycle

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from shared import assert_same, launch

from dit_lab.data import open_data
from dit_lab.models import build
from dit_lab.training import TrainOptions, train
from dit_lab.training.precision import TURNS, WORTH, faster, timed

OPTIONS = TrainOptions(steps=4, batch_size=8, lr=2e-3, save_every=2)
SECONDS = {"fp32": {"fp32": 1.0, "bf16": 2.0}, "bf16": {"fp32": 2.0, "bf16": 1.0}}  # by which is the faster one


@pytest.fixture(scope="module")
def digits():
    return open_data("digits")


@pytest.fixture
def machine(monkeypatch):
    """A CPU that computes in bf16 and on which passes take as long as told; what it was asked, call by call."""

    def made(seconds, able=True):
        clock, asked = cycle(seconds.values()), []

        def clocked(call, device):
            asked.append(call())
            return next(clock)

        monkeypatch.setattr("dit_lab.training.precision.clocked", clocked)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": able})
        return asked

    return made


def tiny(preset="DiT-nano/4"):
    torch.manual_seed(0)
    return build(preset, input_size=8, in_channels=1, num_classes=10, dim=16, depth=1, heads=2)


def state(out):
    return load_file(out / "state.safetensors")


def test_bf16_is_taken_where_it_is_faster_by_more_than_chance():
    assert faster({"fp32": 1.0, "bf16": 0.5}) == "bf16"
    assert faster({"fp32": 1.0, "bf16": 1.5}) == faster({"fp32": 1.0, "bf16": 0.99 / WORTH * 1.02}) == "fp32"


def test_both_take_turns_after_one_to_warm_up_and_the_least_counts(monkeypatch):
    clock, taken = iter([9.0, 8.0, 3.0, 4.0, 1.0, 6.0, 5.0, 2.0]), []
    monkeypatch.setattr("dit_lab.training.precision.clocked", lambda call, device: (call(), next(clock))[1])
    assert timed(taken.append, torch.device("cpu")) == {"fp32": 1.0, "bf16": 2.0}
    assert taken == ["fp32", "bf16"] * (TURNS + 1)


@pytest.mark.parametrize("sharing", [{}, dict(accumulate=2, checkpointing=True)])
@pytest.mark.parametrize("better", ["fp32", "bf16"])
def test_a_run_that_finds_out_is_bit_for_bit_the_one_that_was_told(better, sharing, digits, tmp_path, machine):
    asked, options = machine(SECONDS[better]), replace(OPTIONS, **sharing)
    model, before = tiny(), torch.get_rng_state()
    steps = list(train(model, digits, options, out=tmp_path / "found"))
    assert torch.equal(torch.get_rng_state(), before)
    assert len(asked) == 2 * (TURNS + 1) and {step.precision for step in steps} == {better}
    told = list(train(tiny(), digits, replace(options, precision=better), out=tmp_path / "told"))
    assert [step.loss for step in steps] == [step.loss for step in told]
    assert_same(state(tmp_path / "found"), state(tmp_path / "told"))


def test_a_resumed_run_keeps_what_it_found_on_whatever_machine(digits, tmp_path, machine):
    machine(SECONDS["bf16"])
    list(train(tiny(), digits, OPTIONS, out=tmp_path / "whole"))
    steps = train(tiny(), digits, OPTIONS, out=tmp_path / "cut")
    next(steps), steps.close()
    asked = machine(SECONDS["fp32"], able=False)
    resumed = list(train(tiny(), digits, OPTIONS, out=tmp_path / "cut", resume=True))
    assert not asked and [step.precision for step in resumed] == ["bf16"] * 3
    assert_same(state(tmp_path / "whole"), state(tmp_path / "cut"))


@pytest.mark.parametrize("able", [True, False])
def test_a_run_from_before_it_was_found_out_goes_on_by_the_rule_that_it_had(able, digits, tmp_path, machine):
    list(train(tiny(), digits, replace(OPTIONS, steps=2), out=tmp_path))
    found = about(tmp_path)
    del found["run"]["found"]
    save_file(state(tmp_path), tmp_path / "state.safetensors", {"dit_lab": json.dumps(found)})
    asked = machine(SECONDS["fp32" if able else "bf16"], able)
    steps = list(train(tiny(), digits, OPTIONS, out=tmp_path, resume=True))
    assert not asked and {step.precision for step in steps} == {"bf16" if able else "fp32"}
    assert about(tmp_path)["run"]["found"] == {"precision": "bf16" if able else "fp32"}


def about(out):
    """What a state says of itself."""
    with safe_open(out / "state.safetensors", framework="pt") as file:
        return json.loads(file.metadata()["dit_lab"])


def test_a_state_that_found_what_there_is_not_is_refused(digits, tmp_path):
    list(train(tiny(), digits, replace(OPTIONS, steps=2), out=tmp_path))
    found = about(tmp_path)
    found["run"]["found"]["precision"] = ["int4"]
    save_file(state(tmp_path), tmp_path / "state.safetensors", {"dit_lab": json.dumps(found)})
    with pytest.raises(
        ValueError, match="not a training state that can be continued from: its run should be .* fp32 or bf16"
    ):
        train(tiny(), digits, OPTIONS, out=tmp_path, resume=True)


def test_nothing_is_tried_that_was_named_or_that_the_machine_cannot(digits, machine):
    asked = machine(SECONDS["bf16"])
    assert next(train(tiny(), digits, replace(OPTIONS, precision="fp32"))).precision == "fp32"
    asked = machine(SECONDS["bf16"], able=False)
    assert next(train(tiny(), digits, OPTIONS)).precision == "fp32" and not asked


def shared(seconds):
    """In a process: what a run takes where this process's passes take so long."""
    import os

    from dit_lab.training import precision

    clock = cycle(seconds[int(os.environ["RANK"])])
    precision.clocked = lambda call, device: (call(), next(clock))[1]
    torch.set_num_threads(1)
    torch.cpu.get_capabilities = lambda: {"amx_bf16": True}
    return [(step.precision, step.loss) for step in train(tiny(), open_data("digits"), OPTIONS)]


@pytest.mark.parametrize("seconds, taken", [([(3.0, 1.0), (1.0, 1.2)], "bf16"), ([(1.0, 3.0), (1.2, 1.0)], "fp32")])
def test_processes_agree_though_their_clocks_do_not(seconds, taken):
    ours, theirs = launch(2, shared, seconds)
    assert ours == theirs and {precision for precision, _ in ours} == {taken}


def test_the_progress_line_says_what_runs(command, tmp_path):
    model = ["--preset", "DiT-nano/8", "--dim", "16", "--depth", "1", "--heads", "2", "--device", "cpu"]
    given = ["--steps", "2", "--batch-size", "4", "--precision", "bf16"]
    code, _, said = command("train", "--out", tmp_path / "run", *model, *given)
    assert code == 0 and "images/s in bf16" in said
