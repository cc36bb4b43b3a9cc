"""The bench: it times what it says, on two models of the same size, in turns."""

import re

import pytest
import torch

from dit_lab.commands.bench import alternate, bench_command, pair, relative_error
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
