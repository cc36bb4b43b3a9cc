"""What the page asks for, answered: one `call` with a JSON object, and a JSON object back, never an exception."""

import time
from collections.abc import Callable, Generator

from dit_lab.panels import NAMES, Opened, panel
from dit_lab.panels.anatomy import anatomy
from dit_lab.panels.asking import choice
from dit_lab.panels.training import checked
from dit_lab.program import quoted
from dit_lab.ui import sharing, training
from dit_lab.ui.checkpoints import Checkpoints
from dit_lab.ui.sampling import sampling
from dit_lab.ui.scheduler import LOOK, RUN, TRAINING, Scheduler
from dit_lab.ui.served import Served
from dit_lab.ui.sessions import Session, Sessions
from dit_lab.ui.settings import begin, read, settings_of
from dit_lab.ui.words import ahead, answering, sentence

PATIENCE, QUICK = 1.0, 8.0  # seconds that a poll waits for news, and a question for its answer


class Workbench:
    """The app without its page: checkpoints, sessions, and the one thread that works on models."""

    def __init__(self, checkpoints: Checkpoints, *, trains: bool = True, pictures: Callable | None = None):
        self.checkpoints, self.trains, self.pictures = checkpoints, trains, pictures
        self.scheduler = Scheduler(sentence)
        self.sessions = Sessions(self.scheduler)
        self.recorded: dict[str, Opened | None] = {}  # runs that ship with checkpoints, by the names of these
        self.ops = {
            "about": self.about, "start": self.start, "poll": self.poll, "stop": self.stop, "ask": self.ask,
            "data": self.data, "cost": self.cost, "pace": self.pace, "python": self.python, "save": self.save,
            "open": self.open, "train": self.train, "bye": self.bye,
        }  # fmt: skip

    def call(self, body) -> dict:
        """Answer one request, `{op, session, …}`: `{"ok": …}`, or `{"error": sentence}`."""
        try:
            if not isinstance(body, dict) or not isinstance(body.get("op"), str) or body["op"] not in self.ops:
                raise ValueError(f"The app is asked for one of {', '.join(self.ops)}, not {quoted(body)}.")
            session = self.sessions.get(body.get("session"))
            return {"ok": self.ops[body["op"]](session, body)}
        except Exception as error:  # a browser's word may be anything
            return {"error": sentence(error)}

    def finished(self, work: Callable[[], Generator], kind: int = RUN):
        """What work of the server itself comes to, however long it takes. Raises ValueError with a sentence."""
        job = self.scheduler.submit(work, kind, "")
        while not job.over:
            self.scheduler.wait(job, job.number, PATIENCE)
        if job.state != "done":
            raise ValueError(job.error or "It was stopped.")
        return job.result

    def first(self) -> dict:
        """What the page begins with: the first checkpoint, what it is, and its recorded run with what panels draw.

        Raises ValueError where the checkpoint cannot be opened.
        """
        return self.finished(lambda: self.beginning(next(iter(self.checkpoints.sources))))

    def beginning(self, name: str) -> Generator[dict, None, dict]:
        """`first`, in the model's thread."""
        about = yield from self.introducing(name, {})
        run, opened = about.pop("first"), self.recorded[name]
        data = {opened.id: {each: panel(each).data(opened) for each in ("trajectory", "attention")}} if opened else {}
        return {"about": about, "run": run, "data": data, "place": begin(run), "checkpoints": self.checkpoints.names()}

    def introducing(self, name: str, made: dict[str, Served]) -> Generator[dict, None, dict]:
        """What the page says of a checkpoint, with its recorded run as `first`; in the model's thread."""
        yield {"told": "loading"}
        served = self.checkpoints.get(name, made)
        if name not in self.recorded:
            opened = None if name in made else self.checkpoints.first(name)
            for at in opened.decoding(0) if opened else ():
                yield {"told": f"decoding step {at + 1} of {len(opened.trajectory.t)}"}
            if name not in made:  # a new table, for others look into the one before
                self.recorded = self.recorded | {name: self.described(opened)}
        if opened := self.recorded.get(name):
            return served.about() | {"first": self.run_of(opened)}
        # Before there is a run to ask about. Where one is, the panel asks: it takes a second, of large models more.
        return served.about() | {"first": None, "anatomy": anatomy(served.config)}

    # What the page asks for; each takes the session and the request.

    def about(self, session: Session, body: dict) -> dict:
        """A checkpoint, loaded: `{job}`, which comes to `{about}`."""
        name = body.get("checkpoint")
        self.checkpoints.check(name, session.made)

        def work():
            return {"about": (yield from self.introducing(name, session.made))}

        return self.queued(session, work, RUN, alone="about")

    def start(self, session: Session, body: dict) -> dict:
        """A run with the settings sent: `{job}`. The session's own run that is still going is stopped."""
        settings = body.get("settings")
        if not isinstance(settings, dict):
            raise ValueError(f"Settings must be an object, not {quoted(settings)}.")
        self.sessions.replace(session, "run", None)  # first: who presses Sample has left the run before
        served = self.checkpoints.check(settings.get("checkpoint"), session.made)
        if served is not None:
            read(served.config, served.precisions, settings)

        def work():
            opened = yield from sampling(self.checkpoints, settings, session.made)
            if opened is None:
                return {"run": None}
            return {"run": self.run_of(self.sessions.keep(session, self.described(opened)))}

        return self.queued(session, work, RUN, alone="run")

    def poll(self, session: Session, body: dict) -> dict:
        """How a job stands, once there is news, or after a second."""
        number, seen = body.get("job"), body.get("seen")
        job = session.job(number)
        self.scheduler.wait(job, seen if isinstance(seen, int) else 0, PATIENCE)
        standing = self.scheduler.standing(job)
        told = {name: standing[name] for name in ("state", "seen")} | standing["news"]
        if job is session.current.get("training") and session.trainer and told["state"] != "queued":
            told["news"] = session.trainer.state
        if told["state"] == "queued":
            return told | {"place": standing["ahead"] + 1, "ahead": ahead(standing["ahead"])}
        if told["state"] == "failed":
            told["error"] = standing["error"]
        if told["state"] in ("done", "stopped", "failed"):
            self.sessions.told(session, number)
            told |= standing["result"] or {}
        return told

    def stop(self, session: Session, body: dict) -> dict:
        """Stop a job within the step that runs, or whatever the session samples; what it has so far is kept."""
        job = session.current.get("run") if body.get("job") is None else session.job(body["job"])
        if job is not None:
            self.scheduler.stop(job)
        return {}

    def bye(self, session: Session, body: dict) -> dict:
        """The page closes."""
        self.sessions.forget(session)
        return {}

    def ask(self, session: Session, body: dict) -> dict:
        """A panel's question about a run: `{answer}` where it comes quickly, else `{job}`."""
        each, opened = panel(choice("Panel", body.get("panel"), NAMES)), self.run(session, body.get("run"))
        return self.answered(session, lambda: each.ask(opened, body.get("request")), opened)

    def data(self, session: Session, body: dict) -> dict:
        """What a panel draws of a run at first."""
        each, opened = panel(choice("Panel", body.get("panel"), NAMES)), self.run(session, body.get("run"))
        return self.answered(session, lambda: each.data(opened), opened)

    def cost(self, session: Session, body: dict) -> dict:
        """What a run with the settings sent would take, without running: see `Served.cost`."""
        settings = body.get("settings")
        if not isinstance(settings, dict):
            raise ValueError(f"Settings must be an object, not {quoted(settings)}.")
        served = self.checkpoints.check(settings.get("checkpoint"), session.made)
        if served is None:
            raise ValueError("The checkpoint is not loaded yet.")
        return served.cost(settings)

    def pace(self, session: Session, body: dict) -> dict:
        """Seconds that a pass of a checkpoint takes, measured where none has been: `{answer}` or `{job}`."""
        name = body.get("checkpoint")
        self.checkpoints.check(name, session.made)
        return self.answered(session, lambda: self.checkpoints.get(name, session.made).measured())

    def python(self, session: Session, body: dict) -> dict:
        """A program that makes what is shown."""
        opened, place = self.run(session, body.get("run")), body.get("place")
        return {"text": sharing.python(opened, self.checkpoints, place if isinstance(place, dict) else {})}

    def save(self, session: Session, body: dict) -> dict:
        """A run's trajectory as a file."""
        return sharing.saved(self.run(session, body.get("run")))

    def open(self, session: Session, body: dict) -> dict:
        """A trajectory that a browser brings: its checkpoint is looked for among those served."""
        trajectory = sharing.brought(body.get("name"), body.get("data"))

        def work():
            yield {"told": "looking for its checkpoint"}
            name, told = self.checkpoints.made_by(trajectory, session.made), {}
            if name:
                opened = self.checkpoints.opened(name, trajectory, session.made)
                about = self.checkpoints.get(name, session.made).about()
                told = {"about": about, "settings": settings_of(opened)}
            else:
                opened = Opened(trajectory)
                opened.note = "No checkpoint of this app made this run: what was recorded can be seen, and no more."
            return {"run": self.run_of(self.sessions.keep(session, self.described(opened))), **told}

        return self.queued(session, work, RUN)

    def train(self, session: Session, body: dict) -> dict:
        """What the training panel sends: `{cost}`, `{start}`, `{stop}` or `{keep}`."""
        if not self.trains:
            raise ValueError("Training is off on this server: it was started with --no-training.")
        if "cost" in body:
            return self.answered(session, lambda: training.cost(body["cost"]))
        if "keep" in body:
            return self.answered(session, lambda: self.kept(session, body["keep"]))
        if body.get("stop"):
            if job := session.current.get("training"):
                self.scheduler.stop(job)
            return {}
        checked(body.get("start"))

        def work():
            session.trainer = trainer = training.watched(body["start"], session.place())
            before = None
            try:
                for state in trainer:
                    yield {"changed": True} if state is not before else {}
                    before = state
            finally:
                trainer.close()

        return self.queued(session, work, TRAINING, alone="training")

    def kept(self, session: Session, name) -> dict:
        """Keep what the session's training has learnt, as a checkpoint of its own. Raises ValueError."""
        if session.trainer is None:
            raise ValueError("Nothing was trained yet: press Start.")
        if isinstance(name, str) and name in self.checkpoints.sources:
            raise ValueError(f"There is a checkpoint {quoted(name)} already; give this one another name.")
        kept, each = session.trainer.keep(name), self.checkpoints
        session.made[name] = Served(name, kept, None, each.device, each.compile)
        made = ({"name": each, "title": each, "group": "Trained here"} for each in session.made)
        return {"name": name, "checkpoints": [*self.checkpoints.names(), *made]}

    # What they share.

    def run(self, session: Session, name) -> Opened:
        """A run of the session, or its own copy of one that ships with a checkpoint. Raises ValueError."""
        shipped = next((opened for opened in self.recorded.values() if opened and opened.id == name), None)
        return self.sessions.copied(session, shipped) if shipped else session.run(name)

    def described(self, opened: Opened | None) -> Opened | None:
        """An opened run, with the pictures that its model may have learnt from."""
        if opened is not None:
            opened.training_pictures = self.pictures
        return opened

    def run_of(self, opened: Opened) -> dict:
        """What the page is told of a run: `Opened.run`, and a note where there is something to say."""
        return opened.run() | {"note": getattr(opened, "note", "")}

    def answered(self, session: Session, ask: Callable, opened: Opened | None = None) -> dict:
        """What a question comes to, `{answer}`: waited for as long as is quick, else its `{job}`."""
        used = (lambda: self.sessions.used(session, opened)) if opened else None
        job, seen = self.scheduler.submit(lambda: answering(ask, used), LOOK, session.token), 0
        until = time.monotonic() + QUICK
        while not job.over and job.kind == LOOK and time.monotonic() < until:
            self.scheduler.wait(job, seen, min(PATIENCE, max(0.0, until - time.monotonic())))
            seen = job.number
        if job.state == "done":
            return job.result
        if job.over:
            raise ValueError(job.error or "It was stopped.")
        return {"job": self.sessions.note(session, job)}

    def queued(self, session: Session, work: Callable, kind: int, alone: str = "") -> dict:
        """Queue work of a session, `{job}`; of what is done `alone` it stops what it did before."""
        if alone:
            self.sessions.replace(session, alone, None)
        job = self.scheduler.submit(work, kind, session.token)
        if alone:
            self.sessions.replace(session, alone, job)
        return {"job": self.sessions.note(session, job)}
