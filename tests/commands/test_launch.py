"""What a launcher starts: the real commands in two processes, one of them killed; and memory and disks that run out."""

import json
import os
import resource
import subprocess
import sys
import time

import psutil
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from shared import ROOT, stirred, tiny_vae
from torch.testing import assert_close

from dit_lab.checkpoints import save
from dit_lab.evaluation.features import KEPT
from dit_lab.models import DiT

ENVIRONMENT = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
ACCELERATE = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", 2, "--main_process_port", 0]
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc_per_node", 2]
TRAIN = ["--preset", "DiT-nano/4", "--depth", 1, "--dim", 16, "--heads", 2, "--batch-size", 8, "--precision", "fp32"]
FEW = ["--count", 60, "--batch-size", 10, "--steps", 1, "--data", "digits", "--device", "cpu"]


@pytest.fixture
def start(tmp_path):
    """A function that starts a launcher; what it and its processes say goes to `said`. None outlives the test."""
    started = []

    def call(*arguments):
        with open(tmp_path / "said", "w") as said:
            command = [sys.executable, "-m", *map(str, arguments)]
            started.append(subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stdout=said, stderr=said))
        return started[-1]

    yield call
    for process in [*started, *members(tmp_path)]:
        process.kill()


def finish(launcher, tmp_path):
    """The exit code of a launcher, and all that was said; none of its processes lives on."""
    code = launcher.wait(timeout=540)
    assert not members(tmp_path)
    return code, (tmp_path / "said").read_text()


def members(tmp_path):
    """The processes that a launcher started for a folder, by rank."""
    found = {}
    for process in psutil.process_iter():
        try:
            if str(tmp_path) in " ".join(process.cmdline()) and "RANK" in (its := process.environ()):
                found[int(its["RANK"])] = process
        except psutil.Error:  # gone, or somebody else's
            continue
    return [found[rank] for rank in sorted(found)]


def log(folder):
    """The lines of a loss log without its speed."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines]


def assert_same_run(ours, theirs):
    """States, checkpoints and losses of two runs alike to 1e-5."""
    for name in "state.safetensors", "model.safetensors":
        mine, other = load_file(ours / name), load_file(theirs / name)
        assert mine.keys() == other.keys()
        for key, tensor in other.items():
            assert_close(mine[key], tensor, rtol=1e-5, atol=1e-5, msg=key)
    for mine, other in zip(log(ours), log(theirs), strict=True):
        assert mine == pytest.approx(other, rel=1e-5, abs=2e-6)  # they are rounded to six digits


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_accelerate_trains_in_two_processes_as_one_does(start, tmp_path, command):
    given = [*TRAIN, "--steps", 5, "--save-every", 3, "--sample-every", 5, "--ema-decay", 0.9, 0.5]
    code, said = finish(start(*ACCELERATE, "-m", "dit_lab", "train", *given, "--out", tmp_path / "two"), tmp_path)
    assert code == 0 and said.count("5/5") == 1, said
    assert command("train", *given, "--device", "cpu", "--out", tmp_path / "one")[0] == 0
    assert files(tmp_path / "two") == files(tmp_path / "one")
    assert_same_run(tmp_path / "two", tmp_path / "one")


def test_a_killed_process_ends_the_launch_and_the_run_goes_on_from_its_last_state(start, tmp_path, command):
    """A grid of samples after every step keeps the steps slow, so that the kill comes soon after the first state."""
    state = tmp_path / "run" / "state.safetensors"
    given = ["--steps", 1000, "--save-every", 2, "--sample-every", 1, "--out", tmp_path / "run"]
    launcher = start(*ACCELERATE, "-m", "dit_lab", "train", *TRAIN, *given)
    while launcher.poll() is None and not state.exists():
        time.sleep(0.01)
    assert state.exists(), (tmp_path / "said").read_text()
    members(tmp_path)[1].kill()
    code, said = finish(launcher, tmp_path)
    assert code != 0 and "SIGKILL" in said, said
    with safe_open(state, framework="pt") as file:
        done = json.loads(file.metadata()["dit_lab"])["step"]
    rest = [*TRAIN, "--steps", done + 3, "--device", "cpu"]
    assert 2 <= done < 1000 and command("train", *rest, "--resume", "--out", tmp_path / "run")[0] == 0
    assert command("train", *rest, "--out", tmp_path / "whole")[0] == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert not list((tmp_path / "run").rglob("*.partial"))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a tiny digit model and a tiny VAE."""
    folder = tmp_path_factory.mktemp("launch")
    model = stirred("DiT-nano/4", in_channels=1, input_size=8, num_classes=10, depth=1, dim=16, heads=2)
    save(folder / "model", model, codec_hint="pixels")
    tiny_vae().save_pretrained(folder / "vae")
    return folder


def contents(folder, pattern="*"):
    return {path.name: path.read_bytes() for path in folder.glob(pattern)}


def test_torchrun_encodes_in_two_processes_the_bytes_of_one(home, start, tmp_path, command):
    given = ["encode", "--data", "digits", "--split", "test", "--vae", home / "vae", "--shard-size", 64]
    code, said = finish(start(*TORCHRUN, "-m", "dit_lab", *given, "--out", tmp_path / "two"), tmp_path)
    assert code == 0, said
    assert command(*given, "--device", "cpu", "--out", tmp_path / "one")[0] == 0
    assert contents(tmp_path / "two") == contents(tmp_path / "one") and len(contents(tmp_path / "two")) == 6


@pytest.fixture
def evaluated(home, tmp_path, command):
    """A function that evaluates here into a folder of that name, which is returned."""

    def evaluate(name):
        assert command("evaluate", home / "model", *FEW, "--out", tmp_path / name)[0] == 0
        return tmp_path / name

    return evaluate


def test_a_dead_process_ends_the_evaluation_which_then_goes_on(home, start, tmp_path, evaluated):
    """The second dies at its second batch, while the first waits for it, with patience, or is still drawing."""
    script = tmp_path / "dies.py"
    script.write_text(
        "import os, signal\n"
        "from dit_lab.commands import cli\n"
        "replace, left = os.replace, [1, 0]\n"
        "def deadly(*paths):\n"
        "    if os.environ['RANK'] == '1' and not left.pop(0):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    replace(*paths)\n"
        "os.replace = deadly\n"
        "cli.main()\n"
    )
    given = ["evaluate", home / "model", *FEW, "--out", tmp_path / "out"]
    code, said = finish(start(*TORCHRUN, script, *given), tmp_path)
    there = contents(tmp_path / "out", "batch-*")
    assert code != 0 and "SIGKILL" in said, said
    assert "batch-000001.npz" in there and not {"batch-000003.npz", "batch-000005.npz"} & there.keys()
    assert not (tmp_path / "out" / "results.jsonl").exists()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("batch-*")}
    assert contents(evaluated("out"), "batch-*") == contents(evaluated("whole"), "batch-*")
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert (tmp_path / "out" / "results.jsonl").read_text().count("\n") == 1
    assert not list((tmp_path / "out").rglob(".*.partial"))


def too_much(*_, **__):
    """As an allocation on a CPU ends that no machine can meet."""
    return torch.empty(2**60)


@pytest.mark.parametrize(
    ("name", "knob"),
    [
        ("encode", "take a smaller --batch-size"),
        ("sample", "ask for fewer --labels at once, or take --device cpu"),
        ("evaluate", "take a smaller --batch-size, and --out another folder"),
    ],
)
def test_memory_that_runs_out_names_the_knob(name, knob, home, tmp_path, command, monkeypatch):
    import diffusers

    monkeypatch.setattr(diffusers.AutoencoderKL, "encode", too_much)
    monkeypatch.setattr(DiT, "forward", too_much)
    given = {
        "encode": ["--data", "digits", "--vae", home / "vae", "--out", tmp_path / "out"],
        "sample": [home / "model", "--labels", 1, 2, "--out", tmp_path / "out.png"],
        "evaluate": [home / "model", *FEW, "--out", tmp_path / "out"],
    }
    code, _, said = command(name, *given[name])
    assert code == 1 and said.strip().splitlines()[-1] == f"dit_lab: out of memory; {knob}" and "Traceback" not in said
    assert not list(tmp_path.glob("*.png")) and {path.name for path in tmp_path.rglob("out/*")} <= {
        KEPT,
        "settings.json",
    }


def test_a_full_disk_at_the_loss_log_is_one_sentence_that_names_it(tmp_path, command, limited):
    given = ["train", *TRAIN, "--device", "cpu", "--out", tmp_path / "run", "--steps"]
    assert command(*given, 2)[0] == 0
    with limited(resource.RLIMIT_FSIZE, (tmp_path / "run" / "log.jsonl").stat().st_size + 40):  # half a line more
        code, _, said = command(*given, 4, "--resume")
    assert code == 2 and "Traceback" not in said
    assert said.strip().splitlines()[-1] == f"dit_lab: could not write {tmp_path / 'run' / 'log.jsonl'}: File too large"
    assert command(*given, 4, "--resume")[0] == 0 and [line["step"] for line in log(tmp_path / "run")] == [2, 4]


@pytest.mark.parametrize("full_at", ["begun.json", "model.safetensors", "state.safetensors"])
def test_a_full_disk_is_one_sentence_that_names_the_file_and_the_run_goes_on(full_at, tmp_path, command, limited):
    given = ["train", *TRAIN, "--steps", 2, "--device", "cpu", "--out"]
    assert command(*given, tmp_path / "whole")[0] == 0
    whole, run = ((tmp_path / name) for name in ("whole", "run"))
    model = (whole / "model.safetensors").stat().st_size
    room = {"begun.json": 40, "model.safetensors": model // 2, "state.safetensors": model}[full_at]
    with limited(resource.RLIMIT_FSIZE, room):
        code, _, said = command(*given, run)
    assert code == 2 and "Traceback" not in said
    assert f"dit_lab: could not write {run / full_at}: " in said.strip().splitlines()[-1]
    assert command(*given, run, *(["--resume"] if full_at != "begun.json" else []))[0] == 0
    assert_same_run(run, whole)


def test_a_full_disk_at_the_results_is_one_sentence_that_names_it_and_samples_stay(
    home, tmp_path, evaluated, command, limited
):
    results = evaluated("out") / "results.jsonl"
    told, batches = results.read_text(), contents(tmp_path / "out", "batch-*")
    results.write_text(told + "-" * 10_000)  # so long that nothing else meets the limit
    with limited(resource.RLIMIT_FSIZE, results.stat().st_size + 20):
        code, _, said = command("evaluate", home / "model", *FEW, "--out", tmp_path / "out")
    assert code == 2 and "Traceback" not in said
    assert said.strip().splitlines()[-1] == f"dit_lab: could not write {results}: File too large"
    results.unlink()
    assert evaluated("out") and results.read_text() == told and contents(tmp_path / "out", "batch-*") == batches
