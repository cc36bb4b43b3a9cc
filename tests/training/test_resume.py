"""A killed or stopped run continues bit for bit: real processes, real signals."""

import contextlib
import json
import os
import random
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from shared import processes

from dit_lab.commands.train import train_command
from dit_lab.program import run

STEPS = 12
MODEL = ["--preset", "DiT-nano/8", "--depth", "1", "--dim", "32"]
PACE = ["--batch-size", "4", "--warmup", "5", "--precision", "fp32"]


def start(out, *more, die_at=None, model=MODEL):
    """Start a training process, which kills itself within its `die_at`-th write, and return it."""
    process = processes.Process(target=child, args=([*model, *PACE, "--out", str(out), *more], die_at))
    process.start()
    return process


def child(arguments, die_at):
    """In the new process: train, with SIGKILL at a chosen point of writing files."""
    torch.set_num_threads(1)  # so small a model only waits for more
    if die_at is not None:
        points = iter(range(1, 10**9))
        for name in "fsync", "replace":
            setattr(os, name, deadly(getattr(os, name), points, die_at))
    run(train_command, "dit_lab train", arguments)


def deadly(function, points, die_at):
    """`function`, killing the process instead at its turn."""

    def wrapped(*arguments):
        if next(points) == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)

    return wrapped


def finish(process):
    """Wait for a process; its exit code is minus the signal that killed it."""
    process.join(timeout=240)
    assert process.exitcode is not None, "the run hangs"
    return process.exitcode


def options(steps=STEPS, save_every=1):
    return ["--steps", str(steps), "--save-every", str(save_every)]


def same(run, other):
    """Assert that two finished runs are equal: model, EMA, optimiser, step, and the loss log but for its speed."""
    for name in "state.safetensors", "model.safetensors":
        ours, theirs = load_file(run / name), load_file(other / name)
        assert ours.keys() == theirs.keys()
        assert all(ours[key].equal(theirs[key]) for key in ours)
    assert (run / "config.json").read_text() == (other / "config.json").read_text()
    assert losses(run) == losses(other)
    assert not list(run.glob(".*.partial"))


def losses(run):
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert finish(start(out, *options())) == 0
    return out


def test_a_run_killed_at_every_point_of_writing_ends_as_the_uninterrupted_one(uninterrupted, tmp_path):
    out, resume = tmp_path / "run", []
    # What is written has two points a file, before it is flushed and before it is renamed: what the run was started
    # with, while there is no state, and a checkpoint's model, config and state.
    for die_at in range(1, 14):
        assert finish(start(out, *options(), *resume, die_at=die_at)) == -signal.SIGKILL
        resume = ["--resume"] if die_at > 2 else []
    assert finish(start(out, *options(), *resume)) == 0
    same(out, uninterrupted)


def test_a_run_killed_at_random_moments_ends_as_the_uninterrupted_one(tmp_path):
    steps, moments, kills = 110, random.Random(0), 0  # far enough for two lines of the log and a third
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert finish(start(whole, *options(steps, save_every=7))) == 0
    resume = []
    for _ in range(4):
        process = start(out, *options(steps, save_every=7), *resume)
        await_progress(process, out)
        time.sleep(moments.uniform(0, 0.3))
        process.kill()
        kills += finish(process) == -signal.SIGKILL
        resume = ["--resume"]
    assert kills, "every run was over before it could be killed"
    assert finish(start(out, *options(steps, save_every=7), *resume)) == 0
    same(out, whole)
    assert [line["step"] for line in losses(out)] == [50, 100, 110]


def await_progress(process, out):
    """Wait until a process has written a new state, or ended."""
    state = out / "state.safetensors"
    before = state.stat().st_mtime_ns if state.exists() else None
    while process.is_alive() and (not state.exists() or state.stat().st_mtime_ns == before):
        time.sleep(0.002)


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_polite_signal_saves_the_step_it_came_in(name, code, uninterrupted, tmp_path):
    out = tmp_path / "run"
    process = start(out, *options(10**6, save_every=10**6))
    while process.is_alive() and not (out / "log.jsonl").exists():  # 50 steps are done
        time.sleep(0.01)
    os.kill(process.pid, getattr(signal, name))
    assert finish(process) == code
    [state] = out.glob("state.safetensors")
    done = json.loads((out / "config.json").read_text())["trained_steps"]
    assert done >= 50 and load_file(state)
    total = done + 3
    assert finish(start(out, *options(total, save_every=10**6), "--resume")) == 0
    whole = tmp_path / "whole"
    assert finish(start(whole, *options(total, save_every=10**6))) == 0
    same(out, whole)


def test_a_finished_run_can_be_given_more_steps(uninterrupted, tmp_path):
    out = tmp_path / "run"
    assert finish(start(out, *options(5, save_every=2))) == 0
    assert finish(start(out, *options(), "--resume")) == 0
    ours, theirs = load_file(out / "state.safetensors"), load_file(uninterrupted / "state.safetensors")
    assert all(ours[key].equal(theirs[key]) for key in theirs)
    assert [line["step"] for line in losses(out)] == [5, 12]


@pytest.fixture
def command(capsys):
    """Run the train command here; returns its exit code and what it said on standard error."""

    def call(*arguments):
        code = 0
        with contextlib.suppress(SystemExit):
            code = 2
            run(train_command, "dit_lab train", [*MODEL, *PACE, *map(str, arguments)])
            code = 0
        return code, capsys.readouterr().err.strip().splitlines()[-1:]

    return call


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (["--seed", "1"], "option seed 0 (now 1)"),
        (["--batch-size", "5"], "option batch_size 4 (now 5)"),
        (["--block", "adaln"], "model block adaln_zero (now adaln)"),
        (["--split", "test"], "data pictures 1498 (now 299)"),
    ],
)
def test_resuming_with_other_options_is_refused_by_name(changed, told, uninterrupted, command):
    code, [said] = command("--out", uninterrupted, *options(), "--resume", *changed)
    assert code == 2 and told in said


def test_resuming_where_nothing_is_says_so(tmp_path, command):
    code, [said] = command("--out", tmp_path, *options(), "--resume")
    assert code == 2 and said == f"dit_lab: there is nothing to resume in {tmp_path}: it has no state.safetensors"


def test_a_finished_run_whose_state_was_removed_is_not_begun_anew(uninterrupted, tmp_path, command):
    shutil.copytree(uninterrupted, out := tmp_path / "run")
    (out / "state.safetensors").unlink()
    before = (out / "model.safetensors").read_bytes()
    code, [said] = command("--out", out, *options(), "--resume")
    assert code == 2 and "there is nothing to resume" in said
    code, [said] = command("--out", out, *options())
    assert code == 2 and "already holds a model (model.safetensors); train it on with --init" in said
    assert (out / "model.safetensors").read_bytes() == before


def test_what_a_kill_left_beside_a_state_is_cleared_away(uninterrupted, tmp_path, command):
    shutil.copytree(uninterrupted, out := tmp_path / "run")
    (out / "begun.json").write_text("{}")  # killed between writing the first state and removing this
    assert command("--out", out, *options(), "--resume")[0] == 0 and not (out / "begun.json").exists()


def test_a_run_without_a_checkpoint_is_not_begun_anew_with_other_options(tmp_path, command):
    out = tmp_path / "run"
    assert finish(start(out, *options(), die_at=3)) == -signal.SIGKILL
    code, [said] = command("--out", out, *options(), "--resume", "--batch-size", "5")
    assert code == 2 and "was started with option batch_size 4 (now 5); it has no checkpoint yet" in said
    assert command("--out", out, *options(), "--batch-size", "5")[0] == 0


def test_a_fine_tuning_without_a_checkpoint_is_not_begun_anew_from_random_weights(uninterrupted, tmp_path, command):
    out, whole, given = tmp_path / "run", tmp_path / "whole", {"model": ["--init", str(uninterrupted)]}
    assert finish(start(whole, *options(2), **given)) == 0
    assert finish(start(out, *options(2), **given, die_at=3)) == -signal.SIGKILL
    code, [said] = command("--out", out, *options(2), "--resume")  # a model of the same shape
    assert code == 2 and "was started with starting weights " in said
    assert finish(start(out, *options(2), "--resume", **given)) == 0
    same(out, whole)


@pytest.mark.parametrize("at_once", [True, False])
def test_going_on_with_other_pictures_of_the_same_labels_is_refused(at_once, tmp_path, command, monkeypatch):
    monkeypatch.setattr("dit_lab.data.images.MEMORY_LIMIT", 2**30 if at_once else 0)
    for name, shade in ("grey", 100), ("darker", 99):
        for number in range(12):
            (folder := tmp_path / name / "train" / str(number % 2)).mkdir(parents=True, exist_ok=True)
            pixels = np.full((8, 8), 100 if number != 5 else shade, np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:02}.png")
    given = ["--out", tmp_path / "run", *options(2)]
    assert command(*given, "--data", tmp_path / "grey")[0] == 0
    code, [said] = command(*given, "--data", tmp_path / "darker", "--resume")
    assert code == 2 and "was started with data pictures_checksum" in said
    assert command("--out", tmp_path / "run", *options(3), "--data", tmp_path / "grey", "--resume")[0] == 0


def test_a_run_of_before_the_pictures_were_looked_at_goes_on(uninterrupted, tmp_path, command):
    shutil.copytree(uninterrupted, out := tmp_path / "run")
    with safe_open(out / "state.safetensors", framework="pt") as file:
        about = json.loads(file.metadata()["dit_lab"])
    del about["run"]["data"]["pictures_checksum"]
    save_file(load_file(out / "state.safetensors"), out / "state.safetensors", {"dit_lab": json.dumps(about)})
    assert command("--out", out, *options(STEPS + 1), "--resume")[0] == 0


def test_a_folder_with_a_run_is_not_overwritten(uninterrupted, command):
    before = (uninterrupted / "state.safetensors").read_bytes()
    code, [said] = command("--out", uninterrupted, *options())
    assert code == 2 and "already holds a run (state.safetensors); continue it with --resume" in said
    assert (uninterrupted / "state.safetensors").read_bytes() == before


@pytest.mark.parametrize("broken", [b"", b"not a state", None])
def test_a_broken_state_is_one_sentence(broken, uninterrupted, tmp_path, command):
    whole = (uninterrupted / "state.safetensors").read_bytes()
    (tmp_path / "state.safetensors").write_bytes(whole[: len(whole) // 2] if broken is None else broken)
    code, [said] = command("--out", tmp_path, *options(), "--resume")
    assert code == 2 and "is not a training state that can be continued from" in said


@pytest.mark.parametrize("missing", ["model.out.bias", "ema.out.bias", "optimiser.exp_avg.out.bias"])
def test_a_state_that_lacks_a_tensor_is_one_sentence(missing, uninterrupted, tmp_path, command):
    with safe_open(uninterrupted / "state.safetensors", framework="pt") as file:
        about = file.metadata()
    tensors = load_file(uninterrupted / "state.safetensors")
    del tensors[missing]
    save_file(tensors, tmp_path / "state.safetensors", about)
    code, [said] = command("--out", tmp_path, *options(), "--resume")
    assert code == 2 and "is not a training state that can be continued from" in said and "out.bias" in said


def test_a_diverging_run_stops_with_the_step_named_and_keeps_the_last_checkpoint(tmp_path, capsys):
    arguments = [*MODEL, *PACE, "--out", str(tmp_path / "run"), *options(50), "--lr", "1e30"]
    with pytest.raises(SystemExit) as left:
        run(train_command, "dit_lab train", arguments)
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert left.value.code == 1
    assert " at step " in said and "stays in" in said and "Traceback" not in said
    assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / "run" / "model.safetensors").values())
