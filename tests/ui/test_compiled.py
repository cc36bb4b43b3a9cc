"""An app that samples by compiled code says so, draws what the model draws, and looks with the model itself."""

import shutil
import sys

import pytest
import torch
from shared import random_model
from small_workbench import Page, asked, saved

from dit_lab.checkpoints import Told
from dit_lab.inside import record
from dit_lab.ui import sampling
from dit_lab.ui.checkpoints import Checkpoints
from dit_lab.ui.workbench import Workbench


@pytest.fixture
def page(tmp_path):
    """A tab of an app with --compile."""
    sources = saved(tmp_path, tiny=random_model(depth=1))
    bench = Workbench(Checkpoints(sources, Told(), None, torch.device("cpu"), compile=True))
    yield Page(bench)
    bench.scheduler.close()


def drawn(page, **changes):
    """A run's end, opened, and what was said on its way besides its steps."""
    said = []
    end = page.sample(lambda state: said.append(state.get("told", "")), **changes)
    assert end["state"] == "done", end
    return page.opened(end["run"]["id"]), end["run"], [*dict.fromkeys(filter(None, said))]


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU needs g++")
def test_the_first_run_of_its_kind_waits_for_the_compiler_and_says_so_and_looks_run_the_model_as_it_is(page):
    run, told, said = drawn(page)
    assert any(sentence.startswith("compiling the steps of 1 picture, which takes a minute") for sentence in said)
    assert told["note"].startswith("Sampled by compiled code; looks run each step again as it is")
    exact = record(run.model, [1], steps=4, sampler="unipc", cfg_scale=2)
    torch.testing.assert_close(run.trajectory.sample, exact.sample, rtol=1e-4, atol=1e-4)
    assert page.ask(told["id"], "attention", asked(1, 3)) and not hasattr(run.model, "ahead")
    assert page.ok("cost", settings=page.settings())["runs"] == "fp32, compiled on cpu"
    text = page.ok("python", run=told["id"], place={})["text"]
    assert "model = fast(loaded.model, precision='fp32', compile=True)" in text
    assert not any("compiling" in sentence for sentence in drawn(page, seed=7)[2])


@pytest.mark.parametrize("error", [RuntimeError("no header\nthere"), OSError("no header\nthere")])
def test_where_compiling_fails_it_is_said_and_the_model_runs_as_it_is(page, error, monkeypatch):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(sampling, "sample", fails)
    monkeypatch.setattr(sys.modules["dit_lab.models.fast"], "check_compiler", lambda device: None)
    assert page.ok("cost", settings=page.settings())["runs"] == "fp32, compiled on cpu"
    run, told, _ = drawn(page)
    assert torch.equal(run.trajectory.sample, record(run.model, [1], steps=4, sampler="unipc", cfg_scale=2).sample)
    assert told["note"] == "" and page.ok("cost", settings=page.settings())["runs"] == "fp32 on cpu"


def test_each_number_of_pictures_and_each_size_guided_or_not_is_compiled_once(page, monkeypatch):
    asked = []
    monkeypatch.setattr(sampling, "sample", lambda model, labels, **options: iter([asked.append(len(labels))]))
    served = page.bench.checkpoints.get("tiny")
    served.running["fp32"] = served.model
    twice = [dict(cfg_scale=2.0), dict(cfg_scale=1.0), dict(cfg_scale=2.0, cfg_interval=(1, 2)), dict(size=16)] * 2
    said = [list(sampling.compiling(served, "fp32", labels, how)) for how in twice for labels in ([1], [1, 2])]
    assert asked == [1, 2] * 4 and [len(each) for each in said] == [1] * 8 + [0] * 8
    served.compile = False
    assert not list(sampling.compiling(served, "fp32", [1, 2, 3], {}))
