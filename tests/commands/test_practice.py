"""The walk of docs/practice.md, walked: its own commands on drawn pictures, with small numbers in place of its own."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from contextlib import suppress
from urllib.request import urlopen

import pytest
from PIL import Image
from shapes import draw
from shared import ROOT

TEXT = (ROOT / "docs" / "practice.md").read_text(encoding="utf-8")
# What stands in place of the document's numbers, by command and option; all else is walked as it is written.
SMALL = {
    "train-vae": {"--size": "16", "--width": "8", "--steps": "4", "--batch-size": "4"},
    "encode": {"--size": "16"},
    "train": {"--steps": "4", "--batch-size": "4", "--precision": "fp32"},
    "sample": {"--steps": "2", "--precision": "fp32"},
    "evaluate": {"--size": "16", "--count": "44", "--steps": "1", "--precision": "fp32"},
}
BEYOND = 150  # optimiser steps of the judge, instead of as many as make it good


def written() -> list[list[str]]:
    """The commands of the document, in their order: what stands in its blocks, lines that go on joined."""
    blocks = re.findall(r"^```\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("python ")]


def smaller(words: list[str]) -> list[str]:
    """A command of ours with its numbers made small; `python -m dit_lab` left out."""
    words = words[3:]
    for option, value in SMALL[words[0]].items():
        if option in words:
            words[words.index(option) + 1] = value
        else:
            words += [option, value]
    return words


def test_the_document_goes_from_pictures_to_the_app_and_replaces_no_number_that_it_lacks():
    names = [words[3] if words[1] == "-m" else words[1] for words in written()]
    assert names == ["train-vae", "encode", "train", "sample", "evaluate", "app.py"]
    added = {("sample", "--steps"), ("evaluate", "--steps")} | {(name, "--precision") for name in SMALL}
    for words in written()[:-1]:
        assert all(option in words or (words[3], option) in added for option in SMALL[words[3]]), words


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with drawn pictures, in which the commands run."""
    draw(tmp_path / "pictures")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dit_lab.evaluation.features.LEAST_STEPS", BEYOND)
    return tmp_path


def test_the_walk_can_be_walked_and_each_step_goes_on_when_asked_again(home, command):
    for words in written()[:-1]:
        ask = smaller(words)
        code, told, said = command(*ask)
        assert code == 0, (ask, said)
        again = ["--resume"] if ask[0] in ("train-vae", "train") else []
        code, _, said = command(*ask, *again)
        assert code == 0, (ask, said)
    figures = json.loads((home / "runs" / "vae" / "figures.json").read_text())
    assert figures["step"] == 4 and figures["psnr"] > 0
    assert Image.open(home / "runs" / "four.png").size == (32, 32)  # four pictures of 16 x 16
    lines = [json.loads(line) for line in (home / "runs" / "figures" / "results.jsonl").read_text().splitlines()]
    assert len(lines) == 2 and lines[0]["samples"]["count"] == 44
    assert lines[0]["spread"].keys() >= {"kernel_distance", "precision", "recall", "agreement"}
    assert "129" in lines[0]["left_out"]["frechet"]  # as the document says: 20 pictures are too few for it
    answer(home, written()[-1][1:])


def answer(home, words: list[str]) -> None:
    """Start the app of the document's last command on a free port, and have it answer with its page."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = [sys.executable, str(ROOT / words[0]), *words[1:], "--port", str(port)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    with open(home / "said", "w") as said:
        app = subprocess.Popen(start, cwd=home, env=environment, stdout=said, stderr=said)
    try:
        until, page = time.monotonic() + 240, b""
        while not page and app.poll() is None and time.monotonic() < until:
            with suppress(OSError):
                page = urlopen(f"http://127.0.0.1:{port}/", timeout=30).read()
            time.sleep(0.2)
        assert b"dit_lab" in page, (home / "said").read_text()
    finally:
        app.terminate()
        app.wait(60)
