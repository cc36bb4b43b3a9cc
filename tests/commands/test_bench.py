"""The bench: it times what it says, on two models of the same size, in turns."""

import re

import pytest
import torch
from shared import random_model, random_udit

from dit_lab.commands.bench import bench_command, inside
from dit_lab.commands.bench.peers import pair, relative_error
from dit_lab.commands.bench.timing import alternate
from dit_lab.inside import record
from dit_lab.models import preset


def test_both_sides_are_the_same_model_up_to_diffusers_copies_of_its_embedders():
    """diffusers repeats the timestep and label embedder in every block; without the copies the counts agree."""
    ours, theirs = pair(preset("DiT-S/8"), torch.device("cpu"))
    count = lambda model: sum(p.numel() for p in model.parameters())
    embedders = count(theirs.transformer_blocks[0].norm1.emb)
    table = ours.positions.numel() if ours.positions.requires_grad else 0
    assert count(ours) - table == count(theirs) - (len(theirs.transformer_blocks) - 1) * embedders
    assert not any((p == 0).all() for model in (ours, theirs) for p in model.parameters())


def test_the_two_take_turns_and_warm_up_rounds_do_not_count():
    calls = []
    alternate(lambda: calls.append("theirs"), lambda: calls.append("ours"), 3, torch.device("cpu"))
    assert calls == ["theirs", "ours"] * 3


def test_the_table_has_a_forward_and_a_training_step_with_their_ratios(capsys):
    bench_command(models=("DiT-S/8",), batch=1, rounds=3)
    out = capsys.readouterr().out
    for what in ("DiT-S/8 forward, fp32", "DiT-S/8 training step, fp32"):
        theirs, ours, ratio = map(float, re.search(rf"{what} +(\d+) ms +(\d+) ms +([\d.]+)x", out).groups())
        assert ratio > 0 and (ours == 0 or theirs / ours == pytest.approx(ratio, rel=0.5))
    theirs, ours, times = map(
        float, re.search(r"U-DiT-S folded forward, fp32 +(\d+) ms +(\d+) ms +([\d.]+)x", out).groups()
    )
    assert ours / theirs == pytest.approx(times, rel=0.1)
    assert "bf16" in out


def test_the_relative_error_is_of_norms():
    assert relative_error(torch.tensor([3.0, 5.0]), torch.tensor([3.0, 4.0])) == pytest.approx(0.2)


def told_of(row, line):
    """Milliseconds of the base and of the look, their ratio, and whether it is said to be over the bound."""
    numbers = rf" +{row.against} +([\d.]+) ms +([\d.]+) ms +([\d.]+)x +{row.bound}x(  over its bound)?"
    *times, over = re.fullmatch(row.name + numbers, line).groups()
    return *map(float, times), bool(over)


def test_inside_has_a_row_for_each_look_with_its_time_over_what_it_is_measured_against(capsys):
    bench_command("inside", models=("DiT-nano/4",), rounds=3)
    about, head, *lines = capsys.readouterr().out.splitlines()
    assert about.startswith("one sample, 3 rounds") and head.split()[0] == "DiT-nano/4"
    for row, line in zip(inside.ROWS, lines, strict=True):
        base, look, ratio, over = told_of(row, line)
        assert look / base == pytest.approx(ratio, rel=0.2, abs=0.1)
        assert over == (ratio > row.bound) or ratio == pytest.approx(row.bound, abs=0.01)


@pytest.mark.parametrize("model", [random_udit(), random_model("in_context")], ids=["u", "joined"])
def test_every_look_is_there_for_other_models_too(model):
    run = record(model, [0], steps=4, cfg_scale=2.0)
    for row in inside.ROWS:
        told_of(row, inside.timed(row, run, model, 3, torch.device("cpu")))


def test_a_look_that_a_model_does_not_have_says_why_in_its_row(capsys):
    model = random_model(num_classes=0)
    row = next(row for row in inside.ROWS if row.name == "guidance field")
    line = inside.timed(row, record(model, [0], steps=4), model, 3, torch.device("cpu"))
    assert line.split(maxsplit=2) == ["guidance", "field", "a model without classes has no unconditional half"]


@pytest.mark.parametrize("arguments", [["outside"], ["inside", "--models", "nothing-of-the-kind"]])
def test_what_the_bench_does_not_know_is_one_sentence(arguments, command):
    code, out, told = command("bench", *arguments)
    assert code == 2 and not out and "Traceback" not in told and repr(arguments[-1]) in told.replace('"', "'")
