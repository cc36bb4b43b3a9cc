"""The app without its page: what is asked is answered, with the library's numbers, between the steps of others."""

import json
import subprocess
import sys
import threading
import time

import pytest
import torch
from shared import ROOT, random_model
from small_workbench import Page, asked, saved, small, workbench

from dit_lab.checkpoints import save
from dit_lab.diffusion import samplers_for
from dit_lab.diffusion.objectives import process_of
from dit_lab.inside import record
from dit_lab.panels import NAMES, panel
from dit_lab.ui import checkpoints as serving


@pytest.fixture
def slow(monkeypatch):
    """Let every step of a run take its time."""

    def slowed(seconds=0.05):
        plain = serving.Served.fast

        def fast(served, precision):
            model = plain(served, precision)
            if not getattr(model, "slowed", None):
                model.slowed = model.register_forward_pre_hook(lambda *_: time.sleep(model.seconds))
            model.seconds = seconds
            return model

        monkeypatch.setattr(serving.Served, "fast", fast)

    return slowed


def test_the_page_begins_with_the_zoos_first_checkpoint_and_its_recorded_run_without_any_sampling():
    with workbench({"mnist": "mnist", "mnist_udit": "mnist_udit"}) as bench:
        first, page = bench.first(), Page(bench)
        assert first["about"]["name"] == "mnist" and first["run"]["live"] and first["run"]["frames"]["0"]["x0"]["uri"]
        assert [each["name"] for each in first["checkpoints"]] == ["mnist", "mnist_udit"]
        assert set(first["data"][first["run"]["id"]]) == {"trajectory", "attention"}
        place = {"step": 7, "sample": 0, "patch": 24, "half": "cond"}
        assert page.ok("python", run=first["run"]["id"], place=place)["text"].startswith("import dit_lab")
        other = page.about("mnist_udit")
        assert other["first"]["source"] == "mnist_udit"
        assert page.ok("data", run=other["first"]["id"], panel="attention")["answer"]["run"] == other["first"]["id"]
        assert page.about("mnist")["first"]["id"] == first["run"]["id"]
        edit = {"edit": {"kind": "label", "label": 3}, "sample": 0, "controls": 1}
        page.ask(first["run"]["id"], "whatif", edit)
        tried = [
            each.ok("data", run=first["run"]["id"], panel="whatif")["answer"]["tried"] for each in (page, Page(bench))
        ]
        assert len(tried[0]) == 1 and tried[1] == []  # each has a copy of its own
        json.dumps(first)


def test_what_shows_pictures_alone_imports_no_vaes():
    code = """
import sys, torch
from dit_lab.checkpoints import Told
from dit_lab.ui import Checkpoints, Workbench
Workbench(Checkpoints({"mnist": "mnist", "cifar10": "cifar10"}, Told(), None, torch.device("cpu"))).first()
sys.exit("diffusers" in sys.modules or "gradio" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_a_run_is_the_librarys_bit_for_bit_and_its_preview_comes_as_it_goes(page, slow, bench):
    slow(0.06)
    heard = []
    end = page.sample(heard.append, labels=[1, 4, 5], seed=9, steps=6, sampler="ddim", eta=0.5)
    run = page.opened(end["run"]["id"]).trajectory
    again = record(
        bench.checkpoints.get("tiny").model, [1, 4, 5], seed=9, steps=6, sampler="ddim", eta=0.5, cfg_scale=2
    )
    assert all(torch.equal(getattr(run, name), getattr(again, name)) for name in ("x", "x0", "eps", "sample"))
    assert end["run"]["labels"] == ["b", "e", "no class"] and end["run"]["note"] == "" and end["run"]["live"]
    previews = [state for state in heard if "preview" in state]
    assert len(previews) >= 3 and set(previews[0]["preview"]["pictures"]) == {"x", "x0", "eps"}
    assert previews[0]["preview"]["batch"]["columns"] and 0 < previews[0]["left"] < 20
    steps = [state["step"] for state in heard if "step" in state]
    assert steps == sorted(steps) and previews[0]["steps"] == 6
    cost = page.ok("cost", settings=page.settings(labels=[0] * 3, steps=12, sampler="ddim"))
    assert cost["passes"] == 72 and cost["seconds"] > 12 * 0.06 and cost["macs"] > 1000


def test_stop_right_after_the_start_and_within_the_first_step_leaves_nothing_going(page, slow, bench):
    slow(0.3)
    for wait in (0, 0.03):
        job = page.ok("start", settings=page.settings(steps=50))["job"]
        time.sleep(wait)
        began = time.monotonic()
        page.ok("stop", job=job)
        end = page.follow(job)
        assert end["state"] == "stopped" and time.monotonic() - began < 2 and end.get("step", 0) <= 1
    job = page.ok("start", settings=page.settings(steps=50))["job"]
    page.ok("stop")  # who does not know the job yet stops what it samples
    assert page.follow(job)["state"] == "stopped"
    slow(0)
    assert page.sample()["state"] == "done"


@pytest.mark.parametrize("name", ["tiny", "flow"])
def test_a_stopped_run_keeps_its_steps_as_a_run_that_can_be_looked_into(name, tmp_path, slow):
    flow = random_model(schedule="linear", prediction="velocity")
    with workbench(saved(tmp_path, tiny=random_model(), flow=flow)) as bench:
        page = Page(bench)
        model = bench.checkpoints.get(name).model
        for sampler in samplers_for(process_of(model.config)):
            slow(0.02)
            settings = page.settings(name, steps=40, sampler=sampler, seed=3)
            job = page.ok("start", settings=settings)["job"]
            while page.ok("poll", job=job, seen=0).get("step", 0) < 2:
                pass
            page.ok("stop", job=job)
            end = page.follow(job)
            slow(0)
            run, done = page.opened(end["run"]["id"]).trajectory, end["step"]
            assert end["state"] == "stopped" and 2 <= done < 40 and len(run.t) == done
            assert end["run"]["note"].startswith(f"Stopped after step {done} of 40")
            whole = record(model, [1], steps=40, sampler=sampler, seed=3, cfg_scale=2)
            assert torch.equal(run.x, whole.x[:done]) and torch.equal(run.x0, whole.x0[:done])
            if isinstance(run.options["steps"], list):  # it can be walked again, and comes to the same
                again = record(model, [1], **run.options)
                assert torch.equal(again.sample, run.sample) and torch.equal(again.x0, run.x0)
            ask = page.ask(end["run"]["id"], "attention", asked(1, 2))
            assert ask and page.ok("save", run=end["run"]["id"])["data"]
            for each in NAMES:
                if each not in ("training", "tour"):
                    assert page.call("data", run=end["run"]["id"], panel=each).get("ok"), each


def test_a_look_is_answered_between_two_steps_of_anothers_run(bench, page, slow):
    slow(0)
    run, other = page.sample()["run"]["id"], Page(bench)
    settings = other.settings(steps=60)
    slow(0.05)
    job = other.ok("start", settings=settings)["job"]
    while "step" not in other.ok("poll", job=job, seen=0):
        pass
    answer = page.ok("ask", run=run, panel="attention", request=asked(2, 3))
    step = other.ok("poll", job=job, seen=0)["step"]
    assert "answer" in answer and step < 40  # and not after the run
    slow(0)
    assert other.follow(job)["state"] == "done"
    rows = panel("attention").answer(page.opened(run), asked(2, 3))
    assert json.dumps(answer["answer"]) == json.dumps(rows)


def test_a_start_stops_the_sessions_run_and_the_place_in_the_queue_is_told(bench, slow):
    slow(0.1)
    one, two = Page(bench), Page(bench)
    settings = one.settings(steps=80)
    first = one.ok("start", settings=settings)["job"]
    second = two.ok("start", settings=settings)["job"]
    told = two.ok("poll", job=second, seen=0)
    assert told["state"] == "queued" and told["place"] == 2 and told["ahead"] == "1 run"
    third = one.ok("start", settings=settings | {"seed": 5})["job"]
    assert one.follow(first)["state"] == "stopped"
    told = one.ok("poll", job=third, seen=0)
    assert told["state"] == "queued" and told["place"] == 2
    two.ok("stop", job=second)
    two.follow(second)
    one.ok("bye")
    slow(0)


def test_an_edited_run_that_others_interrupt_is_the_same_as_alone_and_so_are_theirs(bench, slow):
    slow(0)
    page, other = Page(bench), Page(bench)
    run = page.sample(steps=8)["run"]["id"]
    request = {"edit": {"kind": "head", "block": 1, "head": 0, "attention": "attn", "factor": 0}, "sample": 0}
    walking = panel("whatif").answer(page.opened(run), dict(request))
    alone = None
    while alone is None:
        try:
            next(walking)
        except StopIteration as end:
            alone = end.value
    page.opened(run).remembered.clear()
    asking = threading.Thread(target=lambda: results.append(page.ask(run, "whatif", request)))
    results, ends = [], []
    asking.start()
    while asking.is_alive():
        ends.append(other.sample(steps=5, seed=1))
    asking.join()
    assert results[0]["picture"] == alone["picture"] and results[0]["x0"] == alone["x0"] and ends
    plain = record(bench.checkpoints.get("tiny").model, [1], steps=5, seed=1, sampler="unipc", cfg_scale=2).sample
    assert all(torch.equal(other.opened(end["run"]["id"]).trajectory.sample, plain) for end in ends[-3:])


def test_half_precision_samples_and_looks_are_said_to_be_fp32(bench):
    page = Page(bench)
    about = page.about("tiny")
    if "bf16" not in about["precisions"]:
        pytest.skip("this CPU has no kernels for bf16")
    end = page.sample(precision="bf16", steps=3)
    run = page.opened(end["run"]["id"])
    exact = record(run.model, [1], steps=3, sampler="unipc", cfg_scale=2)
    assert "Sampled in bf16; looks run each step again in fp32" in end["run"]["note"]
    assert not torch.equal(run.trajectory.sample, exact.sample) and next(run.model.parameters()).dtype == torch.float32
    assert page.ask(end["run"]["id"], "attention", asked(1, 3))
    assert page.sample(precision="auto", steps=2)["state"] == "done"


def test_training_is_watched_kept_and_opened_by_all_panels(tmp_path):
    with small(tmp_path) as bench:
        page = Page(bench)
        settings = {"depth": 1, "patch_size": 4, "steps": 20}
        assert page.ok("train", cost=settings)["answer"]["parameters"] > 1000
        heard = []
        job = page.ok("train", start=settings)["job"]
        end = page.follow(job, heard.append)
        assert end["state"] == "done" and any("news" in state for state in heard)
        kept = page.ok("train", keep="mine")["answer"]
        assert {"name": "mine", "title": "mine", "group": "Trained here"} in kept["checkpoints"]
        done = page.sample(name="mine", steps=2, labels=[3])
        assert done["state"] == "done" and page.opened(done["run"]["id"]).source == "mine"
        assert page.ok("data", run=done["run"]["id"], panel="attention")["answer"]["run"] == done["run"]["id"]
        assert "tiny" in page.error("train", keep="tiny") and "letters" in page.error("train", keep="../x")
        assert "This app serves tiny, u, not 'mine'" in Page(bench).error("about", checkpoint="mine")
        job = page.ok("train", start=settings | {"steps": 3000})["job"]
        while page.ok("poll", job=job, seen=0)["state"] == "queued":
            pass
        page.ok("train", stop=True)
        assert page.follow(job)["state"] == "stopped"
        assert "has no setting 'x'" in page.error("train", start={"x": 1})
    with small(tmp_path / "off", trains=False) as bench:
        assert "--no-training" in Page(bench).error("train", start=settings)


def test_checkpoints_of_folders_are_found_by_name(tmp_path):
    saved(tmp_path / "a", one=random_model(), two=random_model())
    save(tmp_path / "three", random_model())
    found = serving.served([str(tmp_path / "three"), "mnist"], [tmp_path / "a"])
    assert found == {
        "three": str(tmp_path / "three"), "mnist": "mnist",
        "one": str(tmp_path / "a" / "one"), "two": str(tmp_path / "a" / "two"),
    }  # fmt: skip
    with pytest.raises(ValueError, match="is no folder"):
        serving.served([], [tmp_path / "none"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no checkpoint"):
        serving.served([], [tmp_path / "empty"])
