"""The bench of the app: tabs that talk as the page does visit a server, and what goes wrong is counted."""

import json
import re

import pytest
from shared import random_model

from dit_lab.checkpoints import save
from dit_lab.commands.bench import bench_command, serving, tabs
from dit_lab.commands.bench.tabs import CHOICE, CLICK, OTHERS, RUN, SCRUB, STOP, Notes, Refused, Tab

FIRST = {"checkpoints": [{"name": "tiny"}], "run": None}


def test_tabs_sample_click_and_scrub_in_a_server_of_their_own(tmp_path, capsys):
    folder = save(tmp_path / "tiny", random_model(in_channels=1), labels=list("abcde"), codec_hint="pixels")
    bench_command("app", models=(str(folder),), clients=2, seconds=3, out=tmp_path)
    told, kept = capsys.readouterr().out, json.loads((tmp_path / "bench-app.json").read_text())
    alone = {tabs.PASS, tabs.FIRST, tabs.LOOKED, tabs.AGAIN, tabs.BETWEEN, tabs.HALT}
    assert {line["what"] for line in kept["lines"]} - {STOP} == {CHOICE, RUN, CLICK, SCRUB} | alone
    for line in kept["lines"]:
        assert line["count"] > 0 and line["errors"] == 0 and 0 < line["median"] <= line["worst"] < 60
    assert kept["about"]["went wrong"] == "nothing" and "within the bound of" in kept["about"]["memory of the server"]
    assert re.search(r"until it says Running: [\d.]+ s", told) and told.count("\n") == 2 + len(kept["lines"]) + len(
        kept["about"]
    )
    assert (tmp_path / "bench-app.md").read_text().count("\n| ") == 2 + len(kept["lines"])


class Answering(Tab):
    """A tab whose server gives what it is told to."""

    stops = False

    def __init__(self, run=None, other=None):
        self.run, self.other, self.asked = run, other, []

    def ask(self, op, **body):
        self.asked.append((op, body))
        if op == "about":
            return {"about": {"defaults": {"checkpoint": body["checkpoint"]}, "classes": ["a", "b"]}}
        if op == "start":
            settings = body["settings"]
            ours = {"options": {"seed": settings["seed"]}, "labelNumbers": settings["labels"], "source": "tiny"}
            return {"job": "1"} if self.stops else {"run": ours | (self.run or {})}
        if op in ("stop", "poll"):
            return {"state": "stopped", "seen": 1, "run": None}
        if self.other is None:
            raise Refused("This run is no longer kept.")
        return self.other


class Chance(tabs.random.Random):
    """Whether a run is stopped is no matter of chance here."""

    def __init__(self, stops=False):
        super().__init__(0)
        self.stops = stops

    def random(self):
        return 0.0 if self.stops else 0.9


def test_some_runs_are_stopped_as_soon_as_they_are_asked_for():
    notes, latest, tab = Notes(), {}, Answering()
    tab.stops = True
    tabs.sample(Chance(stops=True), 0, tab, FIRST, latest, notes)
    assert [op for op, _ in tab.asked] == ["about", "start", "stop", "poll"] and tab.asked[2][1] == {"job": "1"}
    assert notes.kinds() == [CHOICE, STOP] and notes.troubles() == [] and latest == {}


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({}, []),
        ({"run": {"options": {"seed": -1}}}, ["a tab was given a run that it had not asked for (1 times)"]),
        ({"run": {"labelNumbers": [9]}}, ["a tab was given a run that it had not asked for (1 times)"]),
        ({"run": {"source": "other"}}, ["a tab was given a run that it had not asked for (1 times)"]),
        ({"other": {"answer": {}}}, ["a tab was shown another's run (1 times)"]),
    ],
)
def test_a_run_that_is_not_ones_own_is_an_error(given, wrong):
    notes, latest, tab = Notes(), {1: {"id": "another's"}}, Answering(**given)
    tabs.sample(Chance(), 0, tab, FIRST, latest, notes)
    assert notes.troubles() == wrong and notes.kinds() == [CHOICE, RUN, *([OTHERS] if wrong else [])]
    assert tab.asked[-1] == ("data", {"run": "another's", "panel": "attention"}) and latest[0] is not latest[1]


def test_what_fails_is_counted_and_is_not_among_the_times():
    def fails(error):
        raise error

    notes = Notes()
    assert notes.timed(RUN, lambda: {"run": 1}) == {"run": 1}
    for error in (Refused("The model is busy."), Refused("The model is busy."), OSError("refused")):
        assert notes.timed(RUN, lambda error=error: fails(error)) is None
    count, errors, middle, worst = notes.summed(RUN)
    assert (count, errors) == (4, 3) and 0 <= middle == worst
    assert notes.troubles() == ["Refused: The model is busy. (2 times)", "OSError: refused (1 times)"]
    assert notes.summed(CLICK) == (0, 0, None, None)


def test_a_job_is_followed_to_its_end_and_its_failure_is_one():
    class Polled(Tab):
        def __init__(self, *states):
            self.states, self.seen = list(states), []

        def ask(self, op, **body):
            self.seen.append(body["seen"])
            return self.states.pop(0)

    tab = Polled(
        {"state": "queued", "seen": 1}, {"state": "running", "seen": 5}, {"state": "done", "seen": 6, "run": 2}
    )
    assert tab.follow({"job": "a"})["run"] == 2 and tab.seen == [0, 1, 5]
    assert tab.follow({"answer": 3}) == {"answer": 3}
    with pytest.raises(Refused, match="no memory"):
        Polled({"state": "failed", "seen": 1, "error": "no memory"}).follow({"job": "a"})


def test_an_app_that_does_not_begin_says_why():
    with pytest.raises(ValueError, match="the app did not begin: dit_lab: .*gone"):
        serving.bench_app(("gone/away",), 1, 1.0, "cpu", {}, None)


def test_growth_beyond_the_bound_is_told():
    memory = serving.Memory(lambda: 0)
    memory.seen = [100 * 2**20, 150 * 2**20, 120 * 2**20]
    assert "100 MiB before, 150 MiB half-way, 120 MiB after, 150 MiB at most: grown by 50 MiB, within" in memory.told()
    memory.seen.append(memory.seen[0] + serving.BOUND + 1)
    assert "OVER the bound" in memory.told()


@pytest.mark.parametrize("given", [["--clients", "0"], ["--seconds", "0"], ["--seconds", "nan"], ["--seconds", "inf"]])
def test_a_visit_that_makes_no_sense_is_one_sentence(given, command):
    code, out, told = command("bench", "app", *given)
    assert code == 2 and not out and "at least 1 client for some seconds" in told and told.count("\n") == 1
