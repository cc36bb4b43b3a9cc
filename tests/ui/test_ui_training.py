"""Training in the app: what is refused, what a step and a look give, and what is kept."""

import json
import math

import pytest
import torch

from dit_lab.checkpoints import load
from dit_lab.data import open_data
from dit_lab.diffusion import generate
from dit_lab.inside import watch
from dit_lab.models import BLOCKS
from dit_lab.panels.packing import pack
from dit_lab.panels.training import checked, look_steps
from dit_lab.training import train
from dit_lab.ui import training
from dit_lab.ui.training import DIM, Training, cost, digits, new_model, reader, watched

SMALL = {"depth": 1, "patch_size": 4, "steps": 20}


def last(run: Training) -> dict:
    """The last state of a run that goes to its end."""
    *_, state = run
    return state


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_trains_and_each_part_is_plain_json(block, tmp_path):
    state = last(watched(SMALL | {"block": block}, tmp_path))
    assert state["state"] == "done" and state["step"] == state["steps"] == 20 and state["left"] == 0
    json.dumps(state, allow_nan=False)
    assert len(state["fixed"]["blocks"]) == 1 and len(state["look"]["read"]) == 10
    assert state["looked"] == look_steps(20)
    assert {gauge["key"] for gauge in state["gauges"]} == {"change"} | ({"gate"} if block == "adaln_zero" else set())
    assert all(len(gauge["values"]) == len(state["looked"]) for gauge in state["gauges"])
    assert list(tmp_path.iterdir()) == []  # nothing is written that nobody asked for


def test_a_short_run_already_learns_and_the_gates_leave_zero(tmp_path):
    state = last(watched(SMALL | {"steps": 60, "lr": 5e-3}, tmp_path))
    loss, gates = state["loss"], next(gauge for gauge in state["gauges"] if gauge["key"] == "gate")["values"]
    assert len(loss["raw"]) == len(loss["step"]) == 60 and loss["raw"][0] > 1.2
    assert loss["smooth"][-1] < 0.75 * loss["smooth"][0]
    assert gates[0] == [0.0] and gates[1] == [0.0]  # in the first step the last layer alone moves
    assert 0 < gates[2][0] < gates[-1][0]


def test_a_run_is_its_seeds_and_disturbs_no_random_numbers():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, two, other = (last(watched(SMALL | {"seed": seed}, None)) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert one["loss"] == two["loss"] != other["loss"]
    assert one["look"]["samples"] == two["look"]["samples"] != other["look"]["samples"]


def test_a_part_is_one_step_or_less_and_the_number_of_threads_is_left_as_it_was():
    before, run = torch.get_num_threads(), watched(SMALL, None)
    steps = [run.watching.step for _ in run]
    assert all(after - earlier in (0, 1) for earlier, after in zip(steps, steps[1:], strict=False))
    assert torch.get_num_threads() == before


def test_a_look_shows_what_the_library_finds_in_the_averaged_weights():
    run = watched(SMALL | {"depth": 2, "patch_size": 2}, None)
    look, seeing = last(run)["look"], run.watching
    assert look["step"] == 20 and look["maps"][1]["shape"] == [4, 16]
    with torch.no_grad(), watch(run.average) as seen:
        run.average(seeing.seen, seeing.time, torch.arange(10))
    assert look["maps"][1] == pack(seen.attention(1, queries=[seeing.query(1)])[3, :, 0])
    gates = torch.stack([seen.modulation[name][1] for name in ("gate_attn", "gate_mlp")])
    told = next(gauge for gauge in run.state["gauges"] if gauge["key"] == "gate")["values"][-1][1]
    assert told == pytest.approx(gates.square().mean().sqrt().item(), rel=1e-3)
    drawn = generate(run.average, list(range(10)), sampler="dpmpp", steps=8, cfg_scale=2.0, seed=0)
    assert reader(digits())(drawn) == look["read"]


def test_the_reader_reads_the_test_digits():
    unseen = open_data("digits", split="test")
    x, y = unseen.batch(range(100))
    assert sum(a == b for a, b in zip(reader(digits())(x), y.tolist(), strict=True)) >= 95


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("fast", "must be values by name, not 'fast'"),
        ({"width": 3}, "no setting 'width'; it has block, depth"),
        ({"block": "adaln_one"}, "Conditioning must be one of .*adaln_zero.*, not 'adaln_one'"),
        ({"block": ["adaln"]}, "Conditioning must be one of"),
        ({"depth": 0}, "Blocks must be a whole number from 1 to 8, not 0"),
        ({"depth": 2.5}, "Blocks must be a whole number"),
        ({"depth": True}, "Blocks must be a whole number"),
        ({"patch_size": 3}, "Patch must be one of 1, 2, 4, not 3"),
        ({"lr": 0}, "Learning rate must be a number from 1e-05 to 0.1, not 0"),
        ({"lr": math.nan}, "Learning rate must be a number"),
        ({"lr": "1e-3"}, "Learning rate must be a number"),
        ({"steps": 10**9}, "Steps must be a whole number from 20 to 3000"),
        ({"seed": -1}, "Seed must be a whole number"),
        ({"seed": None}, "Seed must be a whole number"),
    ],
)
def test_settings_that_make_no_sense_are_one_sentence(settings, told):
    for ask in (lambda: watched(settings, None), lambda: cost(settings)):
        with pytest.raises(ValueError, match=told):
            ask()


def test_the_cost_comes_from_a_measured_step():
    told, longer = cost(SMALL), cost(SMALL | {"steps": 2000})
    assert told["parameters"] == sum(parameter.numel() for parameter in new_model(checked(SMALL)).parameters())
    assert told["seconds"] > 20 * told["perStep"] > 0
    assert longer["perStep"] == told["perStep"] and longer["seconds"] > 1980 * told["perStep"]


def test_stopped_it_says_so_and_what_was_learnt_can_be_kept(tmp_path):
    run = watched(SMALL, tmp_path)
    while run.watching.step < 7:
        next(run)
    assert run.close()["state"] == "stopped" and run.state["step"] == 7 and run.state["left"] == 0
    assert next(run, None) is None  # it is over
    assert run.close() is run.state
    kept = run.keep("my first run")
    assert (kept.source, kept.labels, kept.codec_hint) == (
        "my first run",
        [str(digit) for digit in range(10)],
        "pixels",
    )
    assert kept.weights == "ema" and kept.made["trained_steps"] == 7 and kept.config.dim == DIM
    there = load(tmp_path / "my first run").model.state_dict()
    assert all(torch.equal(tensor, there[name]) for name, tensor in run.average.state_dict().items())
    assert generate(kept.model, [3], sampler="euler", steps=2).isfinite().all()


def test_it_can_be_kept_while_it_goes_on(tmp_path):
    run = watched(SMALL, tmp_path)
    while run.watching.step < 3:
        next(run)
    early = run.keep("early").model.out.weight
    last(run)
    assert not torch.equal(early, run.keep("late").model.out.weight)


@pytest.mark.parametrize("name", ["", " ", "../up", "a/b", "a\\b", ".hidden", "a.b", "x" * 41, None, 3, "a\n", "ä"])
def test_a_name_that_could_leave_the_folder_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match="A checkpoint's name is 1 to 40 letters"):
        watched(SMALL, tmp_path / "session").keep(name)
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_taken_is_refused_and_so_is_one_too_many(tmp_path):
    run = watched(SMALL, tmp_path)
    run.keep("a")
    with pytest.raises(ValueError, match="There is a checkpoint a already"):
        run.keep("a")
    for number in range(11):
        (tmp_path / str(number)).mkdir()
    with pytest.raises(ValueError, match="12 checkpoints are kept already"):
        run.keep("b")


def test_a_run_that_diverges_ends_with_a_sentence(monkeypatch):
    def spoilt(model, *given, **more):
        for step in train(model, *given, **more):
            yield step
            if step.step == 2:
                torch.nn.init.constant_(model.out.weight, math.inf)

    monkeypatch.setattr(training, "train", spoilt)
    state = last(watched(SMALL, None))
    assert state["state"] == "failed" and state["step"] == 2
    assert state["told"].startswith("Training diverged: the loss turned")
    assert "at step 3; try a lower learning rate" in state["told"]
    json.dumps(state, allow_nan=False)


def test_the_models_weights_are_the_seeds():
    one, two = new_model(checked({"seed": 4})), new_model(checked({"seed": 4}))
    assert all(torch.equal(*pair) for pair in zip(one.parameters(), two.parameters(), strict=True))
