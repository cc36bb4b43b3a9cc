"""The bench of a training step: who takes part, whose gradient is off by how much, and who is left out and why."""

from functools import partial

import pytest
import torch

from dit_lab.commands.bench import training
from dit_lab.commands.bench.sampling import Field
from dit_lab.commands.bench.training import Noise, bench_training, compared, gradients, relative_error, stepping
from dit_lab.models import build, preset
from dit_lab.training import TrainOptions, train

PEAKS = {torch.float32: 1e12, torch.bfloat16: 2e12}
NAME = "DiT-nano/8"


def field(original=None, compile=False):
    return Field(torch.device("cpu"), 3, original, compile, PEAKS)


def model():
    torch.manual_seed(0)
    return training.stirred(build(preset(NAME)))


def test_every_code_base_has_its_lines_with_the_error_of_its_gradient(capsys):
    lines = {line.who: line for line in bench_training((NAME,), 2, field())}
    assert list(lines) == ["diffusers, fp32", "diffusers, autocast bf16", "dit_lab, fp32", "dit_lab, bf16"]
    assert {line.work for line in lines.values()} == {f"{NAME} training step, 2"}
    for who, line in lines.items():
        assert line.low <= line.median <= line.high and line.share > 0
        assert line.error < 1e-6 if "fp32" in who else 1e-4 < line.error < 5e-2
    assert lines["diffusers, fp32"].ratio == 1.0 and "dit_lab, bf16" in capsys.readouterr().out


def test_our_gradient_is_that_of_the_training_people_run_and_no_weight_moves():
    ours, theirs = model(), model()
    before = [parameter.detach().clone() for parameter in ours.parameters()]
    found = gradients(ours, stepping(ours, preset(NAME), 2, "fp32"))
    options = TrainOptions(steps=1, batch_size=2, precision="fp32", clip=None)
    exact = gradients(theirs, partial(next, train(theirs, Noise(preset(NAME), 16), options)))
    assert relative_error(found, exact) < 1e-6
    for parameter, was in zip(ours.parameters(), before, strict=True):
        torch.testing.assert_close(parameter.detach(), was, rtol=0, atol=1e-11)


def test_ways_of_one_code_base_share_their_weights_but_not_their_code():
    shared = model()
    calls = [stepping(shared, preset(NAME), 2, precision) for precision in ("fp32", "bf16")]
    exact, rough = (gradients(shared, call) for call in calls)
    assert 1e-4 < relative_error(rough, exact) < 5e-2


@pytest.mark.parametrize("missing, who", [("checkout", "original"), ("package", "diffusers")])
def test_who_is_not_there_is_left_out_with_the_reason_and_the_others_run(missing, who, monkeypatch, tmp_path, capsys):
    if missing == "package":
        monkeypatch.setitem(training.PARTIES, "diffusers", lambda *_: __import__("no_such_package"))
    lines = bench_training((NAME,), 1, field(tmp_path if missing == "checkout" else None))
    left = [line for line in lines if line.median is None]
    assert [line.who for line in left] == [who] and left[0].why.startswith("left out: ")
    assert ("no checkout" if missing == "checkout" else "no_such_package") in capsys.readouterr().out
    assert {"dit_lab, fp32", "dit_lab, bf16"} <= {line.who for line in lines if line.median}


def test_one_that_fails_at_its_step_fails_again_with_its_reason_and_the_others_are_checked():
    def full():
        raise RuntimeError("out of memory")

    net, calls = model(), {}
    calls["whole"] = stepping(net, preset(NAME), 2, "fp32")
    found, errors = compared(
        {"full": full, **calls}, net, gradients(net, stepping(net, preset(NAME), 2, "fp32")), field()
    )
    assert list(found) == ["full", "whole"] and list(errors) == ["whole"]
    with pytest.raises(RuntimeError, match="out of memory"):
        found["full"]()
