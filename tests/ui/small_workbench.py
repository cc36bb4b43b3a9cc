"""A workbench on small random checkpoints, and a page's part of the talk with it."""

import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from shared import random_model, random_udit

from dit_lab.checkpoints import Told, save
from dit_lab.ui.checkpoints import Checkpoints
from dit_lab.ui.workbench import Workbench

NAMES = ["a", "b", "<img src=x onerror=alert(1)>", "d", "e"]


def saved(folder, **models) -> dict[str, str]:
    """Checkpoints in a folder by name, as an app serves them."""
    for name, model in models.items():
        labels = NAMES if model.config.num_classes == len(NAMES) else None
        save(folder / name, model, labels=labels, codec_hint="pixels")
    return {name: str(folder / name) for name in models}


@contextmanager
def workbench(sources, **given):
    """A workbench on checkpoints, whose thread ends with it."""
    made = Workbench(Checkpoints(sources, Told(), None, torch.device("cpu")), **given)
    try:
        yield made
    finally:
        made.scheduler.close()


def small(folder, **given):
    """A workbench on a DiT and a U-DiT."""
    return workbench(saved(folder, tiny=random_model(), u=random_udit()), **given)


class Page:
    """A tab: its session, and what it asks."""

    def __init__(self, bench: Workbench):
        self.bench, self.token = bench, secrets.token_hex(16)

    def call(self, op, **body) -> dict:
        return self.bench.call({"op": op, "session": self.token, **body})

    def ok(self, op, **body) -> dict:
        reply = self.call(op, **body)
        assert "error" not in reply, reply
        return reply["ok"]

    def error(self, op, **body) -> str:
        reply = self.call(op, **body)
        assert set(reply) == {"error"}, reply
        return reply["error"]

    def follow(self, job, heard=None) -> dict:
        """The end of a job; `heard` is told of each state before."""
        seen = 0
        while True:
            state = self.ok("poll", job=job, seen=seen)
            seen = state["seen"]
            if state["state"] in ("done", "stopped", "failed"):
                return state
            if heard:
                heard(state)

    def about(self, name: str) -> dict:
        return self.follow(self.ok("about", checkpoint=name)["job"])["about"]

    def settings(self, name="tiny", **changes) -> dict:
        return self.about(name)["defaults"] | {"labels": [1], "steps": 4} | changes

    def sample(self, heard=None, **changes) -> dict:
        """The end of a run."""
        return self.follow(self.ok("start", settings=self.settings(**changes))["job"], heard)

    def ask(self, run, panel, request) -> dict:
        reply = self.ok("ask", run=run, panel=panel, request=request)
        return reply["answer"] if "answer" in reply else self.follow(reply["job"])["answer"]

    def opened(self, run):
        """What the server keeps of a run."""
        return self.bench.sessions.get(self.token).runs[run]


def asked(step, patch) -> dict:
    """A click on a patch."""
    return {"look": "rows", "step": step, "patch": patch, "sample": 0, "half": "cond"}


def together(*works) -> list:
    """What some calls give that run at once, each in a thread of its own; raises what one of them raises."""
    with ThreadPoolExecutor(len(works)) as threads:
        return [each.result(120) for each in [threads.submit(work) for work in works]]
