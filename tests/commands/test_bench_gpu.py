"""The rows for a GPU, on a CPU and small: all are there, a killed run leaves its own, and none begins too late."""

import json
import math
import time

import pytest
import torch

from dit_lab.commands.bench import bench_command, gpu, loading, sampling, training
from dit_lab.commands.bench.report import LATE, Line, checked, compete
from dit_lab.commands.bench.sampling import Field, bench_step
from dit_lab.commands.bench.training import bench_training

ALONE = torch.device("cpu")
PEAKS = {torch.float32: 1e12, torch.bfloat16: 2e12}
NAME = "DiT-nano/8"
WORKS = [f"{NAME} guided step, 1", f"{NAME} guided step, 2", f"{NAME} training step, 3", "U-DiT of 2"]


@pytest.fixture
def small(monkeypatch):
    """Works that a CPU does in a moment; a U-DiT's, of S, is none."""
    monkeypatch.setattr(gpu, "PICTURES", 2)
    monkeypatch.setattr(gpu, "TRAINED", 3)
    monkeypatch.setattr(gpu, "bench_udit", lambda batch, field: [Line(f"U-DiT of {batch}", "dit_lab")])
    monkeypatch.setattr(loading, "most_memory", lambda code: len(code))
    monkeypatch.setattr(sampling, "peak", lambda device, dtype: PEAKS[dtype])


@pytest.fixture
def clock(monkeypatch):
    """The time, which goes on as it is told: `clock[0]`."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def field(until=math.inf):
    return Field(ALONE, 3, None, False, PEAKS, until=until)


def works_in(folder):
    """What was done, by what is kept in a folder."""
    return [*dict.fromkeys(line["work"] for line in json.loads((folder / "bench-gpu.json").read_text())["lines"])]


def test_all_rows_for_a_gpu_are_there_with_what_is_known_beside_them(small, tmp_path, capsys):
    bench_command("gpu", models=(NAME,), rounds=3, device="cpu", out=tmp_path)
    *works, fp32, fp16, _ = works_in(tmp_path)
    assert works == WORKS and f"{NAME} fp32" in fp32 and f"{NAME} fp16" in fp16
    about = json.loads((tmp_path / "bench-gpu.json").read_text())["about"]
    assert "(DiT-nano/8, 1), " in about["error of a sample of 10 guided steps, bf16 against fp32"]
    assert "peak of bfloat16 matrix products" in about and f"most memory while {NAME} loads" in about
    assert "## U-DiT of 2" in (tmp_path / "bench-gpu.md").read_text() and "take a CPU hours" in capsys.readouterr().err


def test_a_run_that_is_killed_leaves_what_it_measured(small, monkeypatch, tmp_path):
    def killed(*_):
        assert works_in(tmp_path) == WORKS[:2]
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu, "bench_training", killed)
    with pytest.raises(KeyboardInterrupt):
        bench_command("gpu", models=(NAME,), rounds=3, device="cpu", out=tmp_path)
    assert works_in(tmp_path) == WORKS[:2] and (tmp_path / "bench-gpu.md").exists()


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), OSError("disk full")])
def test_a_work_that_fails_says_why_in_its_row_and_the_next_goes_on(error, small, monkeypatch):
    def fails(*_):
        raise error

    for name in ("bench_step", "bench_training", "bench_load"):
        monkeypatch.setattr(gpu, name, fails)
    one, many, train, udit, load = gpu.bench_gpu(lambda until: field(), NAME)
    why = f"failed: {type(error).__name__}: {error}"
    assert [row.why for rows in (one, many, train, load) for row in rows] == [why] * 4 and udit[0].work == WORKS[3]


def test_the_time_begins_before_the_peaks_and_works_for_which_none_is_left_are_named(clock):
    def slowly(until):
        clock[0] += gpu.MOST + 1
        return field(until)

    rows = [row for rows in gpu.bench_gpu(slowly, NAME) for row in rows]
    assert [row.work for row in rows] == ["one picture", "64 pictures", "training", "U-DiT", "loading"]
    assert {row.why for row in rows} == {LATE}


def test_a_contestant_whose_turn_comes_too_late_is_not_begun(clock):
    def takes(seconds):
        clock[0] += seconds

    calls = {"first": lambda: takes(11) if clock[0] == 0 else None, "second": lambda: pytest.fail("begun too late")}
    first, second = compete("work", calls, 3, ALONE, until=10)
    assert first.median is not None and second.why == LATE and second.median is None


def test_nor_is_what_its_error_would_be(clock):
    def check(way):
        clock[0] += 11
        return way, 0.5

    calls, errors = checked({"first": len, "second": len}, check, until=10)
    assert calls["first"] is len and errors == {"first": 0.5}
    assert [line.why for line in compete("work", calls, 3, ALONE, until=10)] == [LATE] * 2


def test_steps_forwards_and_training_steps_end_with_their_time(clock, monkeypatch):
    clock[0] = 11.0
    known = field(until=10.0)
    monkeypatch.setattr(sampling, "generate", lambda *_, **__: pytest.fail("a sample is drawn"))
    assert {line.why for line in bench_step(NAME, 1, known)} == {LATE} and known.about == {}
    nano = sampling.preset(NAME)
    monkeypatch.setattr(sampling, "preset", lambda name: nano)
    assert {line.why for line in sampling.bench_udit(1, known)} == {LATE}
    lines = bench_training((NAME,), 1, known)
    assert [(line.who, line.why) for line in lines] == [(who, f"left out: {LATE}") for who in training.PARTIES]


def test_no_memory_is_measured_of_what_was_not_loaded(clock, monkeypatch):
    clock[0], about = 11.0, {}
    monkeypatch.setattr(loading, "most_memory", lambda code: pytest.fail("a process is started"))
    lines = loading.bench_load(NAME, 3, ALONE, about, until=10.0)
    assert [line.why for line in lines] == [LATE] * 6 and about == {}
