"""The walk of docs/practice.md, walked: its own commands on drawn pictures, with small numbers in place of its own."""

import json
import math
import os
import random
import re
import shlex
import socket
import subprocess
import sys
import time
from contextlib import suppress
from urllib.request import urlopen

import pytest
from PIL import Image, ImageDraw
from shared import ROOT

TEXT = (ROOT / "docs" / "practice.md").read_text(encoding="utf-8")
CLASSES = "circle", "cross", "square", "star"
# What stands in place of the document's numbers, by command and option; all else is walked as it is written.
SMALL = {
    "train-vae": {"--size": "16", "--width": "8", "--steps": "4", "--batch-size": "4"},
    "encode": {"--size": "16"},
    "train": {"--steps": "4", "--batch-size": "4", "--precision": "fp32"},
    "sample": {"--steps": "2", "--precision": "fp32"},
    "evaluate": {"--size": "16", "--count": "8", "--steps": "1", "--precision": "fp32"},
}
BEYOND = 5  # optimiser steps of the judge, instead of as many as make it good


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


def draw(folder, each: int, sides=(40, 56)) -> None:
    """Shapes of four classes, `each` of every one, of any colour and size, as a person's folders of pictures."""
    chance = random.Random(0)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for number in range(each):
            picture = Image.new("RGB", [chance.randint(*sides) for _ in "wh"], colour(chance, 0, 110))
            shape(ImageDraw.Draw(picture), name, picture.size, chance)
            picture.save(folder / name / f"{number:03}.jpg", quality=92)


def colour(chance, low: int, high: int) -> tuple:
    return tuple(chance.randint(low, high) for _ in "rgb")


def shape(pen, name: str, size: tuple, chance) -> None:
    """One shape near the middle."""
    side, fill, turn = min(size), colour(chance, 130, 255), chance.uniform(0, math.pi)
    x, y = (each / 2 + chance.uniform(-0.12, 0.12) * side for each in size)
    radius = side * chance.uniform(0.2, 0.32)
    at = lambda part, reach: (
        x + reach * radius * math.cos(turn + part * math.tau),
        y + reach * radius * math.sin(turn + part * math.tau),
    )
    if name == "circle":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
    elif name == "square":
        pen.polygon([at(k / 4, 1.1) for k in range(4)], fill=fill)
    elif name == "star":
        pen.polygon([at(k / 10, 1.2 if k % 2 else 0.5) for k in range(10)], fill=fill)
    else:
        for k in range(2):
            pen.line([at(k / 4, 1), at(k / 4 + 0.5, 1)], fill=fill, width=max(2, int(radius * 0.55)))


def test_the_document_goes_from_pictures_to_the_app_and_replaces_no_number_that_it_lacks():
    names = [words[3] if words[1] == "-m" else words[1] for words in written()]
    assert names == ["train-vae", "encode", "train", "sample", "evaluate", "app.py"]
    added = {("sample", "--steps"), ("evaluate", "--steps")} | {(name, "--precision") for name in SMALL}
    for words in written()[:-1]:
        assert all(option in words or (words[3], option) in added for option in SMALL[words[3]]), words


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with drawn pictures, in which the commands run."""
    draw(tmp_path / "pictures", 10)
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
    assert len(lines) == 2 and lines[0]["samples"]["count"] == 8
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
