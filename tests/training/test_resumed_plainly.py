"""`train --resume` that says nothing else: the run's own model and options, and a sentence where they are none."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from shared import assert_same

from dit_lab.data import open_data
from dit_lab.models import build
from dit_lab.training import TrainOptions, train

SHAPE = dict(in_channels=1, input_size=8, num_classes=10, depth=1, dim=16, heads=2, block="adaln", prediction="v")
OPTIONS = TrainOptions(
    steps=5, batch_size=4, lr=1e-3, warmup=2, lr_decay="cosine", betas=(0.8, 0.9), ema_decay=(0.9, 0.5), clip=None,
    precision="fp32", seed=3,
)  # fmt: skip


def run(out, steps):
    """A run that ends after so many steps, as one ends that is stopped."""
    torch.manual_seed(OPTIONS.seed)
    going = train(build("DiT-nano/4", **SHAPE), open_data("digits"), OPTIONS, out=out)
    for _ in range(steps):
        next(going)
    going.close()
    return out


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    return run(tmp_path_factory.mktemp("runs") / "stopped", 2)


@pytest.fixture
def resumed(stopped, tmp_path, command):
    """Resume a copy of the stopped run: its folder, the exit code, and what was said."""

    def call(*given, option=None):
        out = shutil.copytree(stopped, tmp_path / "run")
        if option is not None:
            state = out / "state.safetensors"
            with safe_open(state, framework="pt") as file:
                about = json.loads(file.metadata()["dit_lab"])
            about["run"]["option"] |= option
            save_file(load_file(state), state, {"dit_lab": json.dumps(about)})
        code, _, said = command("train", "--out", out, "--device", "cpu", "--resume", *given)
        return out, code, said

    return call


def test_a_run_is_resumed_with_nothing_but_its_folder_bit_for_bit(resumed, tmp_path):
    out, code, said = resumed()
    assert code == 0, said
    assert f"the run in {out} is continued as it was started, with steps 5, batch_size 4, lr 0.001, warmup 2, " in said
    ours, whole = (load_file(each / "state.safetensors") for each in (out, run(tmp_path / "whole", OPTIONS.steps)))
    assert_same(ours, whole)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--lr", "1e-4"], "option lr 0.001 (now 0.0001)"),  # which is the default, and given
        (["--clip=1.0"], "option clip None (now 1.0)"),
        (["--steps", 9], "option lr_decay cosine-over-5-steps (now cosine-over-9-steps)"),
        (["--block", "adaln_zero"], "model block adaln (now adaln_zero)"),
    ],
)
def test_what_is_given_and_is_otherwise_is_refused(given, told, resumed):
    _, code, said = resumed(*given)
    assert code == 2 and told in said


@pytest.mark.parametrize(
    "option",
    [
        {"lr": "fast"},
        {"lr": -1.0},
        {"betas": [0.9]},
        {"lr_decay": "cosine-over-many-steps"},
        {"lr_decay": ["cosine"]},
        {"ema_decay": {"a": 1}},
        {"unknown": 3, "lr_decay": "cosine-over-5-steps", "seed": "3"},
    ],
    ids=str,
)
def test_options_that_no_run_has_are_one_sentence(option, resumed):
    _, code, said = resumed(option=option)
    assert code == 2 and "Traceback" not in said
    assert "state.safetensors was started with " in said.splitlines()[-1]
