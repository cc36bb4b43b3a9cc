"""The app under load and bad input: many at once, hostile values, models that fail, and memory that is given back."""

import gc
import json
import shutil
import weakref

import pytest
import torch
from shared import random_model, stirred
from small_workbench import Page, asked, saved, together, workbench

from dit_lab.checkpoints import save
from dit_lab.ui import checkpoints as serving
from dit_lab.ui.workbench import Workbench


def test_ten_clients_at_once_each_see_their_own_and_none_fails(bench):
    def client(number):
        page, seen = Page(bench), []
        for turn in range(3):
            end = page.sample(labels=[number % 5], seed=number, name="u" if number % 3 == 0 else "tiny", steps=3)
            assert end["state"] == "done" and f"seed {number}," in end["run"]["title"]
            run = end["run"]["id"]
            seen.append(run)
            page.ok("data", run=run, panel="trajectory")
            answer = page.ask(run, "attention", asked(turn, number % 6))
            assert answer["stages"]
        return page, seen

    clients = together(*(lambda number=number: client(number) for number in range(10)))
    runs = [run for _, seen in clients for run in seen]
    assert len(set(runs)) == 30
    assert "no longer kept" in clients[0][0].error("data", run=clients[1][1][0], panel="trajectory")


def test_what_diverges_runs_out_of_memory_or_was_lost_is_a_sentence_and_the_server_goes_on(tmp_path, monkeypatch):
    sources = saved(tmp_path, tiny=random_model(), wild=random_model(), lost=random_model())
    shutil.rmtree(sources["lost"])
    with workbench(sources) as bench:
        page = Page(bench)
        wild = bench.checkpoints.get("wild").model
        with torch.no_grad():
            wild.out.weight.mul_(1e30)
        end = page.sample(name="wild")
        assert end["state"] == "failed" and "NaN or Inf: the model diverged" in end["error"]
        lost = page.follow(page.ok("about", checkpoint="lost")["job"])
        assert lost["state"] == "failed" and lost["error"] == "there is no file or folder 'lost'"
        assert str(tmp_path) not in lost["error"]
        for error, said in (
            (torch.OutOfMemoryError("CUDA out of memory."), "The memory ran out: take fewer pictures"),
            (RuntimeError("<b>odd</b> & shape\nline"), "That did not work (RuntimeError: <b>odd</b> & shape line)."),
        ):
            settings = page.settings()
            with monkeypatch.context() as patched:
                patched.setattr("dit_lab.ui.sampling.Recording", Raising(error))
                end = page.follow(page.ok("start", settings=settings)["job"])
            assert end["state"] == "failed" and end["error"].startswith(said)
        assert page.sample()["state"] == "done"


class Raising:
    """What raises an error when it is called."""

    def __init__(self, error):
        self.error = error

    def __call__(self, *given, **named):
        raise self.error


STRANGE = [None, 7, -1, "x", "", [], {}, [[]], {"op": "start"}, "x" * 10**5, float("nan"), True, 10**400]


@pytest.mark.parametrize("op", Workbench(None).ops)  # their names alone
def test_hostile_values_of_every_op_get_a_short_sentence(op, bench):
    page = Page(bench)
    run = page.sample(steps=2)["run"]["id"]
    if op == "bye":
        return
    for value in STRANGE:
        for body in (
            {"run": value, "panel": value, "request": value, "checkpoint": value, "settings": value, "job": value},
            {"run": run, "panel": "attention", "request": {"step": value, "patch": value, "sample": value}},
            {"run": run, "panel": value, "request": {}, "place": {"step": value}, "name": value, "data": value},
            {"settings": page.settings() | {"labels": value, "checkpoint": value}, "start": value, "keep": value},
        ):
            if op in ("python", "save", "stop", "poll") and body.get("run") == run:
                body["job"] = value if value is not None else "none"
            reply = page.call(op, **body)
            assert "ok" in reply or len(reply["error"]) < 700 and "Traceback" not in reply["error"]
            assert json.dumps(reply)
    for body in (
        None,
        [],
        "start",
        {"op": op},
        {"op": op, "session": 3},
        {"op": [op]},
        {"op": "nothing", "session": "a" * 32},
    ):
        assert set(bench.call(body)) == {"error"}
    assert page.sample(steps=1)["state"] == "done"


def test_a_switch_of_models_frees_the_one_before_though_its_runs_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "KEPT_BYTES", 1)
    with workbench(saved(tmp_path, tiny=random_model(), other=random_model(depth=2))) as bench:
        page = Page(bench)
        run = page.sample()["run"]["id"]
        model = weakref.ref(bench.checkpoints.get("tiny").model)
        page.about("other")
        gc.collect()
        assert model() is None and list(bench.checkpoints.kept) == ["other"]
        assert page.ask(run, "attention", asked(1, 3))  # it comes back when it is looked into
        assert list(bench.checkpoints.kept) == ["tiny"]


def test_what_a_run_held_is_freed_when_it_goes(bench):
    page = Page(bench)
    refs = []
    for _ in range(3):
        opened = page.opened(page.sample()["run"]["id"])
        refs += [weakref.ref(opened), weakref.ref(opened.trajectory)]
        del opened
    page.ok("bye")
    Page(bench).about("tiny")  # the thread has gone on
    gc.collect()
    assert [ref() for ref in refs] == [None] * 6


def test_a_checkpoint_that_was_replaced_by_another_model_is_not_looked_into(tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "KEPT_BYTES", 1)
    sources = saved(tmp_path, tiny=random_model(), other=random_model(depth=2))
    with workbench(sources) as bench:
        page = Page(bench)
        run = page.sample()["run"]["id"]
        page.about("other")
        gc.collect()
        save(tmp_path / "tiny", stirred("DiT-nano/4", input_size=16, depth=1), codec_hint="pixels")
        said = page.error("ask", run=run, panel="attention", request=asked(1, 3))
        assert "recorded with another model" in said
