"""The command line: quick help, typos, and one sentence with exit code 2 for bad input."""

import os
import resource
import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest
import torch
from PIL import Image
from shared import ROOT

from dit_lab.checkpoints import save
from dit_lab.commands import cli
from dit_lab.diffusion import QUALITIES
from dit_lab.files import add_line, atomic
from dit_lab.models import build


def test_help_lists_the_commands_without_loading_torch():
    show = "import sys; from dit_lab.commands.cli import main; main(); sys.exit('torch' in sys.modules)"
    here = dict(os.environ, PYTHONPATH=str(ROOT))
    done = subprocess.run([sys.executable, "-c", show, "--help"], env=here, capture_output=True, text=True)
    assert done.returncode == 0 and all(name in done.stdout for name in cli.COMMANDS)


def test_no_command_shows_the_help(command):
    code, said, _ = command()
    assert code == 0 and "usage: dit_lab COMMAND" in said


def test_a_typo_lists_the_commands(command):
    code, _, complaint = command("trian")
    assert code == 2 and "did you mean train? The commands are train, sample" in complaint
    assert complaint.count("\n") == 1


def test_every_command_is_there_and_shows_its_options(command):
    groups = {name: group.commands for name, group in cli.COMMANDS.items() if isinstance(group, cli.Group)}
    single = {(name,): found for name, found in cli.COMMANDS.items() if name not in groups}
    grouped = {(group, name): found for group, commands in groups.items() for name, found in commands.items()}
    for words, (module, function, _) in (single | grouped).items():
        assert getattr(import_module(f"dit_lab.{module}"), function).__doc__
        code, said, _ = command(*words, "--help")
        assert code == 0 and f"usage: dit_lab {' '.join(words)}" in said


def test_an_experiment_is_named_after_the_word(command):
    code, said, _ = command("experiment")
    assert code == 0 and all(
        f"  {name} " in said
        for name in ("four-blocks", "ladder", "scaling", "causal", "fewer-steps", "gallery", "spectrum")
    )
    code, _, complaint = command("experiment", "four_blocks")
    assert code == 2 and complaint.count("\n") == 1
    assert (
        "there is no experiment 'four_blocks'; did you mean four-blocks? The experiments are four-blocks," in complaint
    )


def test_train_shows_every_choice(command):
    _, said, _ = command("train", "--help")
    for word in ["DiT-S/2", "in_context", "cross_attention", "adaln_zero", "cosine", "--mirror", "--resume", "fp32"]:
        assert word in said


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--preset", "DiT-huge/2", "DiT-huge/2"),
        ("--block", "sideways", "cross_attention"),
        ("--steps", "0", "steps must be a whole number of at least 1 and 63 bits at most, not 0"),
        ("--dim", "30", "dim must be a multiple of 4"),
        ("--heads", "5", "5 heads do not divide"),
        ("--data", "./nowhere", "there is no folder ./nowhere"),
        ("--device", "abacus", "there is no device 'abacus' here"),
        ("--size", "-2", "size must be at least 1"),
        ("--size", "9", "multiples of patch_size 4"),
        ("--patch-size", "3", "multiples of patch_size 3"),
    ],
)
def test_bad_input_is_told_and_leaves_nothing(option, value, told, command, tmp_path):
    out = tmp_path / "run"
    code, _, complaint = command("train", "--out", out, option, value)
    assert code == 2 and told in complaint and "Traceback" not in complaint and not out.exists()


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    model = build("DiT-nano/4", dim=32, depth=1, heads=2, input_size=8, in_channels=1, num_classes=10)
    return save(tmp_path / "model", model, labels=list("0123456789"), codec_hint="pixels")


def test_sample_draws_a_grid_that_its_seed_fixes(checkpoint, command, tmp_path):
    draw = ["sample", checkpoint, "--labels", 7, 7, 3, "--steps", 3, "--cfg-scale", 2.0, "--device", "cpu", "--out"]
    for name, seed in ("a.png", 1), ("b.png", 1), ("c.png", 2):
        code, _, complaint = command(*draw, tmp_path / name, "--seed", seed)
        assert code == 0, complaint
    a, b, c = (np.asarray(Image.open(tmp_path / name)) for name in ("a.png", "b.png", "c.png"))
    assert a.shape == (16, 16, 3) and (a == b).all() and (a != c).any()
    assert (a[8:, 8:] == 255).all()


def test_sample_takes_a_quality_by_name(checkpoint, command, tmp_path):
    from dit_lab.inside import Trajectory

    trace = tmp_path / "run.safetensors"
    code, _, told = command(
        "sample", checkpoint, "--labels", 7, "--quality", "draft", "--out", tmp_path / "a.png", "--trace", trace
    )
    assert code == 0, told
    assert Trajectory.load(trace).options.items() >= QUALITIES["draft"].items()


def test_sample_writes_a_trace_that_opens(checkpoint, command, tmp_path):
    from dit_lab.inside import Trajectory

    trace = tmp_path / "t.safetensors"
    code, _, complaint = command(
        "sample", checkpoint, "--labels", 7, "--steps", 3, "--out", tmp_path / "a.png", "--trace", trace
    )
    assert code == 0, complaint
    assert Trajectory.load(trace).labels == [7]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--labels", 11, "--out", "a.png"], "from 0 to 10"),
        (["--labels", 1, "--out", "a.jpg"], "a .png file"),
        (["--labels", 1, "--out", "a.png", "--steps", 0], "steps must be"),
        (["--labels", 1, "--out", "a.png", "--eta", 3], "eta must be between 0 and 1"),
    ],
)
def test_sample_tells_bad_input(options, told, checkpoint, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, complaint = command("sample", checkpoint, *options)
    assert code == 2 and told in complaint and "Traceback" not in complaint and not list(tmp_path.glob("a.*"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["dit_lab", "bench", "--models", "foo"], "there is no preset 'foo'"),
        (["dit_lab", "bench", "--rounds", "2"], "a bench needs"),
        (["dit_lab", "bench", "--models", "U-DiT-S"], "diffusers has no U-DiT-S; name DiTs"),
        (["dit_lab", "bench", "--device", "cpu:x"], "'cpu:x' is no device's name"),
        (["dit_lab.zoo.check", "nosuch"], "nosuch"),
        (["app", "--port", "99999"], "the port must be a number from 1 to 65535"),
    ],
)
def test_the_other_programs_tell_bad_input_too(arguments, told):
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("option", ["--out", "--trace"])
def test_sample_says_before_any_work_where_it_cannot_write(option, checkpoint, command, tmp_path):
    """A file stands where a folder should be: no permission is needed to fail, also for root."""
    (tmp_path / "file").write_text("")
    places = {"--out": tmp_path / "s.png", "--trace": tmp_path / "t.safetensors"}
    places[option] = tmp_path / "file" / "s.png"
    options = [str(word) for pair in places.items() for word in pair]
    code, _, said = command("sample", checkpoint, "--labels", 1, "--steps", 1, *options)
    assert code == 2 and str(places[option]) in said and not (tmp_path / "s.png").exists()


def test_sample_on_a_full_disk_names_the_file_and_leaves_nothing(checkpoint, command, limited, tmp_path):
    with limited(resource.RLIMIT_FSIZE, 10):
        code, _, said = command("sample", checkpoint, "--labels", 1, "--steps", 1, "--out", tmp_path / "s.png")
    last = said.strip().splitlines()[-1]
    assert code == 2 and last == f"dit_lab: could not write {tmp_path / 's.png'}: File too large"
    assert not list(tmp_path.glob("*.png")) and not list(tmp_path.glob(".*"))


def test_training_into_a_file_is_told(command, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, said = command("train", "--steps", 1, "--out", tmp_path / "file")
    assert code == 2 and "file is a file; give the run a folder" in said


def test_a_line_is_added_whole_also_after_one_that_was_cut_off(tmp_path, limited):
    path = tmp_path / "log.jsonl"
    add_line(path, {"first": 1})
    path.write_text(path.read_text() + '{"cut')
    add_line(path, {"second": 2})
    assert path.read_text().splitlines() == ['{"first": 1}', '{"cut', '{"second": 2}']
    with limited(resource.RLIMIT_FSIZE, 40), pytest.raises(OSError, match=f"could not write {path}: File too large"):
        add_line(path, {"third": 3})
    add_line(path, {"fourth": 4})
    assert path.read_text().splitlines()[:3] == ['{"first": 1}', '{"cut', '{"second": 2}']
    assert path.read_text().splitlines()[-1] == '{"fourth": 4}'


def test_two_who_write_one_file_at_a_time_each_write_it_whole(tmp_path):
    with atomic(tmp_path / "a.txt") as ours, atomic(tmp_path / "a.txt") as theirs:  # of one process number, or two
        ours.write_text("ours"), theirs.write_text("theirs")
    assert (tmp_path / "a.txt").read_text() == "ours" and [path.name for path in tmp_path.iterdir()] == ["a.txt"]
