"""A browser's tab without a browser: it talks to the app as the page does, and notes how long each answer took."""

import json
import random
import secrets
import threading
import time
from collections import Counter, defaultdict
from statistics import median
from urllib.request import ProxyHandler, Request, build_opener

direct = build_opener(ProxyHandler({})).open  # the server is this machine: no proxy could reach it
WAIT = 120.0  # seconds for an answer, after which it counts as none
PAUSE = 0.3  # seconds between two looks, on average
STOPPED = 0.15  # of the runs, as soon as they are asked for
CHOICE, RUN, STOP = "a checkpoint chosen", "a run, to its end", "a run stopped at once, to its end"
CLICK, SCRUB = "a click: the attention of a patch", "a scrub: what panels draw of a run"
PASS, FIRST, LOOKED = "alone: a pass of one picture, in fp32", "alone: a run, to its end", "alone: a click, first time"
AGAIN, BETWEEN, HALT = "alone: a click, again", "alone: a click while another run is on", "alone: Stop, to its end"
CLICKS, LONG = 5, 900  # looks alone, and the steps of a run that is on meanwhile
PANELS = ("trajectory", "attention", "conditioning", "contributions")
OTHERS = "tabs"  # what is wrong between them


def config_of(address: str) -> dict:
    """The page's configuration, once the page itself has come."""
    with direct(f"{address}/", timeout=WAIT) as page:
        page.read()
    with direct(f"{address}/config", timeout=WAIT) as config:
        return json.load(config)


def page_part(config: dict) -> dict:
    """The component that carries the page: its `id`, and its `value`."""
    part = next(part for part in config["components"] if part["props"].get("elem_id") == "lab")
    return {"id": part["id"], "value": part["props"]["value"]}


class Refused(Exception):
    """The app answered with a sentence instead."""


class Tab:
    """One session."""

    def __init__(self, address: str, component: int):
        self.url, self.component = f"{address}/gradio_api/component_server", component
        self.token, self.browser = secrets.token_hex(16), secrets.token_hex(5)

    def ask(self, op: str, **body) -> dict:
        """The answer of the server. Raises Refused with its sentence, or OSError where it does not answer."""
        data = {"op": op, "session": self.token, **body}
        sent = {"data": data, "component_id": self.component, "fn_name": "call", "session_hash": self.browser}
        request = Request(self.url, json.dumps(sent).encode(), {"Content-Type": "application/json"})
        with direct(request, timeout=WAIT) as response:
            reply = json.load(response)
        if "error" in reply:
            raise Refused(reply["error"])
        return reply["ok"]

    def follow(self, reply: dict) -> dict:
        """The last state of a job; a reply that is none is what it is. Raises Refused where it fails."""
        seen = 0
        while "job" in reply:
            state = self.ask("poll", job=reply["job"], seen=seen)
            seen = state["seen"]
            if state["state"] == "failed":
                raise Refused(state["error"])
            if state["state"] in ("done", "stopped"):
                return state
        return reply

    def look(self, chance: random.Random, kind: str, run: dict) -> dict:
        """A click or a scrub in a run."""
        if kind == SCRUB:
            return self.follow(self.ask("data", run=run["id"], panel=chance.choice(PANELS)))
        rows, columns = run["grid"]
        at = {"step": chance.randrange(len(run["t"])), "patch": chance.randrange(rows * columns)}
        request = {"look": "rows", "sample": 0, "half": chance.choice(run["halves"]), **at}
        return self.follow(self.ask("ask", run=run["id"], panel="attention", request=request))


class Notes:
    """Seconds and what went wrong, by kind; many threads write into it."""

    def __init__(self):
        self.lock = threading.Lock()
        self.seconds, self.errors = defaultdict(list), defaultdict(Counter)

    def timed(self, kind: str, call):
        """What a call gives, its seconds noted; None where it fails, which is noted."""
        began = time.monotonic()
        try:
            given = call()
        except Exception as error:  # an answer that cannot be read is one as well
            return self.wrong(kind, f"{type(error).__name__}: {error}")
        with self.lock:
            self.seconds[kind].append(time.monotonic() - began)
        return given

    def wrong(self, kind: str, what: str) -> None:
        with self.lock:
            self.errors[kind][what[:200]] += 1

    def kinds(self) -> list[str]:
        """What there is to be told of."""
        return [
            kind
            for kind in (PASS, FIRST, LOOKED, AGAIN, BETWEEN, HALT, CHOICE, RUN, STOP, CLICK, SCRUB, OTHERS)
            if kind in self.seconds or kind in self.errors
        ]

    def summed(self, kind: str) -> tuple[int, int, float | None, float | None]:
        """How often, errors, and the median and the longest of the seconds."""
        took = self.seconds[kind]
        wrong = self.errors[kind].total()
        return len(took) + wrong, wrong, median(took) if took else None, max(took, default=None)

    def troubles(self, most: int = 5) -> list[str]:
        """The commonest errors, each once."""
        all_of_them = sum(self.errors.values(), Counter())
        return [f"{what} ({count} times)" for what, count in all_of_them.most_common(most)]


def alone(tab: Tab, first: dict, notes: Notes) -> None:
    """What one tab waits for while it is the only one: a run of the first checkpoint, and looks into it."""
    about = first["about"]
    if (took := notes.timed(PASS, lambda: tab.follow(tab.ask("pace", checkpoint=about["name"]))["answer"])) is None:
        return
    notes.seconds[PASS] = [took]  # by the server's clock: it warms up before
    settings = about["defaults"] | {"seed": 1, "labels": [0]}
    run = notes.timed(FIRST, lambda: tab.follow(tab.ask("start", settings=settings))["run"])
    if run is None:
        return
    asked = lambda at: {"look": "rows", "sample": 0, "half": run["halves"][0], "step": at % len(run["t"]), "patch": at}
    click = lambda at: tab.follow(tab.ask("ask", run=run["id"], panel="attention", request=asked(at)))
    for at in range(CLICKS):
        notes.timed(LOOKED, lambda at=at: click(at))
        notes.timed(AGAIN, lambda at=at: click(at))
    going = tab.ask("start", settings=settings | {"seed": 2, "steps": LONG})
    state = {"seen": 0}
    while "step" not in state:  # raises Refused where it ends before
        state = tab.ask("poll", job=going["job"], seen=state["seen"])
    notes.timed(BETWEEN, lambda: click(CLICKS))
    notes.timed(HALT, lambda: (tab.ask("stop", job=going["job"]), tab.follow(going)))


def visit(way: str, number: int, tab: Tab, first: dict, until: float, latest: dict, notes: Notes) -> None:
    """What a tab does until the time is over: one of its threads samples, and the other looks at what there is.

    `latest` are the tabs' newest runs by number.
    """
    chance = random.Random(f"{way} {number}")
    while time.monotonic() < until:
        if way == "samples":
            sample(chance, number, tab, first, latest, notes)
        elif run := latest.get(number, first["run"]):
            kind = chance.choice((CLICK, SCRUB))
            notes.timed(kind, lambda kind=kind, run=run: tab.look(chance, kind, run))
        time.sleep(chance.expovariate(1 / PAUSE))


def sample(chance: random.Random, number: int, tab: Tab, first: dict, latest: dict, notes: Notes) -> None:
    """One run of a checkpoint, which must be the one that was asked for, and which no other tab may see."""
    name, seed = chance.choice(first["checkpoints"])["name"], chance.randrange(2**31)
    told = notes.timed(CHOICE, lambda: tab.follow(tab.ask("about", checkpoint=name))["about"])
    if told is None:
        return
    label = chance.randrange(max(1, len(told["classes"])))
    settings = told["defaults"] | {"seed": seed, "labels": [label]}
    if chance.random() < STOPPED:
        notes.timed(STOP, lambda: started_and_stopped(tab, settings))
        return
    run = notes.timed(RUN, lambda: tab.follow(tab.ask("start", settings=settings))["run"])
    if run is None:
        return
    if (run["source"], run["options"]["seed"], run["labelNumbers"]) != (name, seed, [label]):
        notes.wrong(OTHERS, "a tab was given a run that it had not asked for")
    latest[number] = run
    for other in [each for neighbour, each in list(latest.items()) if neighbour != number][:1]:
        if refuses(tab, other) is False:
            notes.wrong(OTHERS, "a tab was shown another's run")


def started_and_stopped(tab: Tab, settings: dict) -> dict:
    """The end of a run that is stopped as soon as it is asked for."""
    reply = tab.ask("start", settings=settings)
    tab.ask("stop", job=reply["job"])
    return tab.follow(reply)


def refuses(tab: Tab, run: dict) -> bool | None:
    """Whether a tab is refused a run; None where the server does not answer, which is counted elsewhere."""
    try:
        tab.ask("data", run=run["id"], panel="attention")
    except Refused:
        return True
    except OSError:
        return None
    return False
