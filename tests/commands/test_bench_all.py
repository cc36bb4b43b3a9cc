"""`bench all`: every kind but gpu, in turn; what fails is told and left out, and the others go on."""

import json
from typing import get_args

import pytest
import torch

from dit_lab.commands import bench
from dit_lab.commands.bench import bench_command, loading, report
from dit_lab.commands.bench.report import Line

ALONE = torch.device("cpu")
RACED = "bench_forward", "bench_udit", "bench_step", "bench_training"
LINED = (*RACED, "bench_run", "bench_load")
PAGED = [f"bench_{name}" for name in bench.PAGED]


@pytest.fixture
def asked(monkeypatch):
    """Which benches were asked, and with what, where each is done in no time."""
    found = {}
    for name in LINED:
        monkeypatch.setattr(bench, name, lambda *given, name=name: found.update({name: given}) or [Line(name, "ours")])
    for name in PAGED:
        monkeypatch.setattr(bench, name, lambda *given, name=name: found.update({name: given}))
    monkeypatch.setattr(bench.Field, "measured", lambda *given: given)
    return found


def works(folder):
    return {line["work"]: line["why"] for line in json.loads((folder / "bench-all.json").read_text())["lines"]}


def test_all_is_every_kind_but_that_of_a_gpu_and_the_one_that_takes_as_long_as_one_says_comes_last(asked, tmp_path):
    bench_command("all", out=tmp_path)
    assert [*asked] == [*RACED, "bench_run", "bench_look", "bench_growth", "bench_load", "bench_app"]
    kinds = {name.removeprefix("bench_") for name in asked} - {"udit"}
    assert {*get_args(bench.WHAT)} - {"gpu", "all"} == (kinds - {"step", "training"}) | {"sample", "train"}
    assert [*works(tmp_path)] == [*LINED] and not any(works(tmp_path).values())


def test_models_and_a_batch_are_for_what_is_raced_and_loaded_and_the_others_have_their_own(asked):
    bench_command("all", models=("DiT-nano/8",), batch=3, rounds=4, clients=2, seconds=5.0)
    assert asked["bench_forward"][:2] == asked["bench_step"][:2] == ("DiT-nano/8", 3)
    assert asked["bench_training"][:2] == (("DiT-nano/8",), 3) and asked["bench_load"][:2] == ("DiT-nano/8", 4)
    assert asked["bench_look"][:2] == (("DiT-S/2", "mnist"), 4) and asked["bench_run"][0] == "mnist"
    assert asked["bench_growth"][0] == 4 and asked["bench_app"][:3] == ((), 2, 5.0)


FAILURES = RuntimeError("no such kernel"), ImportError("no psutil"), OSError("disk is full"), ValueError("no app.py")


@pytest.mark.parametrize("name", ["bench_step", "bench_run", "bench_look", "bench_load", "bench_app"])
@pytest.mark.parametrize("error", FAILURES, ids=str)
def test_a_kind_that_fails_says_why_and_the_others_go_on(name, error, asked, monkeypatch, tmp_path, capsys):
    def fails(*_):
        raise error

    monkeypatch.setattr(bench, name, fails)
    bench_command("all", models=("DiT-nano/8",), out=tmp_path)
    assert {*asked} == {*LINED, *PAGED} - {name}
    (why,) = filter(None, works(tmp_path).values())
    assert why == f"failed: {report.reason(error)}" and f": {why}" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["all", *bench.PAGED])
def test_pages_that_could_not_be_written_are_refused_before_any_work(what, asked, tmp_path):
    (tmp_path / f"bench-{what}.md").mkdir()
    with pytest.raises(OSError, match=f"could not write .*bench-{what}.md"):
        bench_command("all", out=tmp_path)
    assert not asked


@pytest.mark.parametrize(
    "name, kinds", [("U-DiT-tiny", ["fp32", "fp16", "the original's .pt"]), ("toy/unet", ["fp32", "fp16"])]
)
def test_a_udit_is_loaded_too_and_from_the_originals_file_where_it_has_one(name, kinds, monkeypatch, tmp_path):
    small = dict(dim=16, heads=2, depths=(1, 1, 1, 1, 1), num_classes=3)
    monkeypatch.setattr(loading, "preset", lambda name: bench.preset(name, **small))
    monkeypatch.setattr(loading, "most_memory", len)
    bench_command("load", models=(name,), rounds=3, out=tmp_path)
    lines = json.loads((tmp_path / "bench-load.json").read_text())["lines"]
    assert [line["work"].rpartition(", ")[0] for line in lines] == [f"{name} {kind}" for kind in kinds for _ in "ab"]
    assert all(line["median"] for line in lines)


def test_a_udit_is_not_raced_by_itself(asked):
    for what in "forward", "all":
        with pytest.raises(ValueError, match="diffusers has no U-DiT-S; name DiTs"):
            bench_command(what, models=("DiT-S/2", "U-DiT-S"))
    assert not asked
