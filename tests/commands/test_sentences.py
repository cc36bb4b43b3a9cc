"""What a mistyped command line is told: one line, the nearest option, exit code 2, and where all of them are shown."""

import os
import socket
import subprocess
import sys
import time
from importlib import import_module

import pytest
from shared import ROOT

from dit_lab.data import open_data

USAGE = [
    ("train --out x --lables 3", "there is no option '--lables'; did you mean --labelled?"),
    ("sample mnist --out a.png --lables 3", "there is no option '--lables'; did you mean --labels?"),
    ("sample --lables 3", "there is no option '--lables'; did you mean --labels?"),
    ("train --out x --batch_sise=3", "there is no option '--batch_sise'; did you mean --batch-size?"),
    ("train --out x --xyzzy", "there is no option '--xyzzy'."),
    ("train --out x -o y", "there is no option '-o'."),
    ("train", "--out is missing."),
    ("sample mnist", "--labels, --out are missing."),
    (
        "convert mnist --to udit",
        "destination (A folder for dit_lab and diffusers, a .pt file for meta_dit and udit) is",
    ),
    ("train --out x more", "'more' is one argument too many."),
    ("train --out", "--out takes a path, and got none."),
    (
        "train --out x --block sideways",
        "cannot be 'sideways': it is one of adaln, adaln_zero, cross_attention, in_cont",
    ),
    ("train --out x --preset DiT-huge/2", "--preset cannot be 'DiT-huge/2': the nearest are "),
    ("train --out x --steps many", "--steps takes a whole number, not 'many'."),
    ("train --out x --steps=1.5", "--steps takes a whole number, not '1.5'."),
    ("train --out x --lr fast", "--lr takes a number, not 'fast'."),
    ("sample mnist --out a.png --labels 1 --cfg-interval 3", "--cfg-interval takes two numbers, not '3'."),
    ("count DiT-S/2 --input-size wide", "--input-size takes one or two whole numbers, not 'wide'."),
    ("experiment ladder --step 3", "there is no option '--step'; did you mean --steps?"),
]


@pytest.mark.parametrize(("line", "told"), USAGE, ids=[line for line, _ in USAGE])
def test_a_mistyped_command_line_is_one_sentence(line, told, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said, complaint = command(*line.split())
    words = line.split()
    program = f"dit_lab {' '.join(words[: 2 if words[0] == 'experiment' else 1])}"
    assert (code, said, list(tmp_path.iterdir())) == (2, "", [])
    assert complaint.startswith("dit_lab: ") and told in complaint and len(complaint) <= 310
    assert complaint.count("\n") == 1 and complaint.endswith(f" {program} --help shows all options.\n")


def test_the_nearest_of_many_choices_are_named(command):
    _, _, complaint = command("train", "--out", "x", "--preset", "Udit-S")
    assert "U-DiT-S" in complaint


LONG = "a" * 10**6
HOSTILE = [
    ["train", "--out", "x", f"--{LONG}"],
    ["train", "--out", "x", "--steps", LONG],
    ["train", "--out", "x", "--steps", "\x1b[31m1\n\n2"],
    ["train", "--out", "x", "--block", LONG],
    ["train", "--out", "x", "--block", "a\nb\x07"],
    ["train", "--out", "x", LONG, "b\nc"],
    ["train", "--out", "x", "--data", f"./{LONG}"],
    ["train", "--out", "x", "--data", "./a\nb\x1b[31m"],
    ["train", "--out", "x", "--init", f"./{LONG}"],
    ["train", "--out", LONG, "--steps", 1],
    ["sample", f"/{LONG}", "--labels", 1, "--out", "a.png"],
    ["sample", "./a\nb\x1b[31m", "--labels", 1, "--out", "a.png"],
    ["sample", "mnist", "--labels", 1, "--out", f"{LONG}.png"],
    ["sample", "mnist", "--labels", 1, "--out", LONG],
    ["sample", "mnist", "--labels", 1, "--device", LONG, "--out", "a.png"],
    ["count", LONG],
    ["count", "a\nb\x1b[31m"],
    ["convert", "mnist", LONG, "--to", "udit"],
    ["encode", "--data", "digits", "--vae", f"./{LONG}", "--out", "x"],
    ["evaluate", f"./{LONG}"],
    [LONG],
    ["a\nb\x1b[31m"],
    ["experiment", f"{LONG}\n"],
]


@pytest.mark.parametrize("words", HOSTILE, ids=lambda words: " ".join(map(repr, words))[:60])
def test_an_argument_of_a_million_letters_or_of_control_codes_makes_one_short_line(
    words, command, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    code, said, complaint = command(*words)
    assert code == 2 and said == "" and complaint.count("\n") == 1, complaint[:1000]
    assert len(complaint) <= 310 and complaint[:-1].isprintable()


def test_a_depth_beyond_reason_is_refused_at_once_and_makes_nothing(command, tmp_path):
    import_module("dit_lab.commands").train_command, open_data("digits")  # what takes seconds the first time
    start = time.monotonic()
    code, _, complaint = command("train", "--out", tmp_path / "run", "--depth", 10**9)
    assert time.monotonic() - start < 2  # no block is built
    assert code == 2 and complaint.count("\n") == 1 and "depth" in complaint and "1000000000" in complaint
    assert not (tmp_path / "run").exists()


def test_a_taken_port_is_told_before_anything_is_loaded():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "app.py", "--port", str(port)], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
    told = f"dit_lab: port {port} is taken; choose another --port, or leave it out for a free one\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", told)


@pytest.mark.parametrize(("host", "told"), [("8.8.8.8", "Cannot assign requested address"), ("a" * 99, "no address")])
def test_a_host_that_is_not_this_machine_is_told(host, told, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT)
    import app
    from dit_lab.program import run

    with pytest.raises(SystemExit) as left:
        run(app.app, "app.py", ["--host", host])
    complaint = capsys.readouterr().err
    assert left.value.code == 2 and told in complaint and "127.0.0.1 is always there" in complaint
    assert complaint.count("\n") == 1 and len(complaint) <= 310


def test_compiling_without_a_compiler_is_told_before_any_work(command, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", str(tmp_path / "absent"))
    code, _, complaint = command("train", "--out", tmp_path / "run", "--steps", 1, "--compile", "--device", "cpu")
    assert code == 2 and complaint.count("\n") == 1 and not (tmp_path / "run").exists()
    assert "--compile needs a C++ compiler" in complaint and "absent" in complaint


def test_usage_is_told_alike_in_any_terminal():
    env = dict(os.environ, COLUMNS="20", FORCE_COLOR="1", PYTHON_TYRO_USE_RICH="1")
    done = subprocess.run(
        [sys.executable, "-m", "dit_lab", "count", "XL", "--blok", "x"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    told = "dit_lab: there is no option '--blok'; did you mean --block? dit_lab count --help shows all options.\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", told)
