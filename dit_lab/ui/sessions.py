"""Who asks: a session a browser tab, with its runs and its jobs; nobody sees another's, and all have a bound."""

import re
import secrets
import tempfile
import threading
import time
from collections import OrderedDict
from copy import copy
from pathlib import Path

import torch

from dit_lab.panels import Opened
from dit_lab.program import quoted
from dit_lab.ui.scheduler import Job, Scheduler
from dit_lab.ui.served import Served
from dit_lab.ui.training import Training

TOKEN = re.compile("[0-9a-f]{32}")
MOST_SESSIONS, MOST_RUNS, MOST_OVER = 64, 8, 4  # MOST_OVER: jobs whose end was not heard of
MOST_BYTES = 2**30  # of all runs of all sessions, beside the one that is used
IDLE = 3600.0  # seconds after which a session is forgotten


class Session:
    """One tab's runs by their id, its jobs by theirs, and the run that it makes at present."""

    def __init__(self, token: str):
        self.token, self.seen = token, time.monotonic()
        self.runs: OrderedDict[str, Opened] = OrderedDict()
        self.jobs: OrderedDict[str, Job] = OrderedDict()
        self.current: dict[str, Job] = {}  # those of which a session has one at a time, by what they are
        self.trainer: Training | None = None
        self.made: dict[str, Served] = {}  # checkpoints that it trained
        self.folder: tempfile.TemporaryDirectory | None = None

    def run(self, name) -> Opened:
        """A run of this session. Raises ValueError where it is not kept."""
        opened = self.runs.get(name) if isinstance(name, str) else None
        if opened is None:
            raise ValueError("This run is no longer kept: press Sample to make it again.")
        return opened

    def job(self, number) -> Job:
        """A job of this session. Raises ValueError where there is none of that number."""
        job = self.jobs.get(number) if isinstance(number, str) else None
        if job is None:
            raise ValueError("This run is no longer known: press Sample to begin anew.")
        return job

    def place(self) -> Path:
        """A folder of the session's own, which goes with it."""
        self.folder = self.folder or tempfile.TemporaryDirectory(prefix="dit_lab-")
        return Path(self.folder.name)


class Sessions:
    """All sessions by their tokens, which the browsers make."""

    def __init__(self, scheduler: Scheduler, most_bytes: int = MOST_BYTES, idle: float = IDLE):
        self.scheduler, self.most_bytes, self.idle = scheduler, most_bytes, idle
        self.lock, self.known = threading.RLock(), OrderedDict()
        self.bytes: OrderedDict[str, int] = OrderedDict()  # of every run, the longest unused first

    def get(self, token) -> Session:
        """The session of a token, a new one where it is unknown. Raises ValueError on what is no token."""
        if not isinstance(token, str) or not TOKEN.fullmatch(token):
            raise ValueError(f"A session is named by 32 hexadecimal digits, not {quoted(token)}.")
        with self.lock:
            now = time.monotonic()
            for old in [each for each in self.known.values() if now - each.seen > self.idle]:
                self.forget(old)
            if token not in self.known:
                while len(self.known) >= MOST_SESSIONS:
                    self.forget(next(iter(self.known.values())))
                self.known[token] = Session(token)
            self.known.move_to_end(token)
            self.known[token].seen = now
            return self.known[token]

    def keep(self, session: Session, opened: Opened) -> Opened:
        """Keep a run, and let go of the session's oldest beyond `MOST_RUNS`; in the model's thread."""
        with self.lock:
            session.runs[opened.id] = opened
            while len(session.runs) > MOST_RUNS:
                name, _ = session.runs.popitem(last=False)
                self.bytes.pop(name, None)
        self.used(session, opened)
        return opened

    def copied(self, session: Session, opened: Opened) -> Opened:
        """The session's own copy of a run that all have: what is asked of it and remembered stays among itself."""
        with self.lock:
            if opened.id not in session.runs:
                own = copy(opened)
                own.decoded, own.remembered = dict(opened.decoded), OrderedDict()
                self.keep(session, own)
            return session.runs[opened.id]

    def used(self, session: Session, opened: Opened) -> None:
        """Note that a run was looked at, and let go of those unused longest that are too much; as `keep`."""
        size = weight(opened)
        with self.lock:
            if opened.id not in session.runs or self.known.get(session.token) is not session:
                return  # it went meanwhile
            session.runs.move_to_end(opened.id)
            self.bytes[opened.id] = size
            self.bytes.move_to_end(opened.id)
            while len(self.bytes) > 1 and sum(self.bytes.values()) > self.most_bytes:
                name, _ = self.bytes.popitem(last=False)
                for each in self.known.values():
                    each.runs.pop(name, None)

    def note(self, session: Session, job: Job) -> str:
        """Keep a job until its end is told, by a number of its own; the oldest ends that nobody asked for go."""
        with self.lock:
            number = secrets.token_hex(8)
            session.jobs[number] = job
            for old in [each for each, kept in session.jobs.items() if kept.over][:-MOST_OVER]:
                del session.jobs[old]
            return number

    def replace(self, session: Session, what: str, job: Job | None) -> None:
        """Have a session do one thing of a kind at a time: what it did of it before stops."""
        with self.lock:
            before = session.current.pop(what, None)
            if job is not None:
                session.current[what] = job
        if before is not None:
            self.scheduler.stop(before, keep=False)

    def told(self, session: Session, number: str) -> None:
        """The end of a job is told: nobody needs it any more."""
        with self.lock:
            job = session.jobs.pop(number, None)
            for what in [what for what, current in session.current.items() if current is job]:
                del session.current[what]

    def forget(self, session: Session) -> None:
        """Stop what a session had asked for, and let go of all that it holds."""
        with self.lock:
            self.known.pop(session.token, None)
            for job in [*session.jobs.values(), *session.current.values()]:
                self.scheduler.stop(job, keep=False)
            for name in session.runs:
                self.bytes.pop(name, None)
            for held in (session.runs, session.jobs, session.current, session.made):
                held.clear()
            session.trainer = None
            if session.folder:
                session.folder.cleanup()


def weight(opened: Opened) -> int:
    """About how many bytes a run takes: its tensors, its decoded pictures, and the answers that it remembers."""
    run = opened.trajectory
    tensors = [run.x, run.x0, run.eps, run.sample, *opened.decoded.values()]
    return sum(map(size, tensors)) + sum(map(size, opened.remembered.values()))


def size(value) -> int:
    """About how many bytes a tensor, a text or a nest of them takes."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(map(size, value.values()))
    return sum(map(size, value)) if isinstance(value, list | tuple) else 8
