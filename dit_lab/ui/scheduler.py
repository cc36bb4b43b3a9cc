"""Who works on the models, and when: one thread, one piece of work at a time, and looks between the steps of runs.

Work is a generator, and its unit one `next()`: a step of sampling, a part of a long answer, a step of training. Before
every unit the most urgent work that waits is chosen, so that a click is answered within a step of whatever runs.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

LOOK, RUN, TRAINING = range(3)  # in the order of urgency
MOST_WAITING, MOST_OWN = (64, 16, 8), (16, 6, 2)  # of each kind, and of one owner
LOOKS = 4  # in a row, before a step of what else waits: many who click must not stop those who sample
ABANDONED = 90.0  # seconds without anybody asking, after which a run is stopped


class Full(ValueError):
    """More is waiting than the queue takes."""


class Halt(Exception):  # noqa: N818, it is no error
    """Raised inside work that is asked to stop: what it returns then is the job's result."""


@dataclass(eq=False)
class Job:
    """A piece of work: how it stands for those who ask, and what it came to."""

    make: Callable[[], Generator]
    kind: int
    owner: str  # "" is the server itself
    state: str = "queued"  # then running, and done, stopped or failed
    news: dict = field(default_factory=dict)  # the newest of what the generator yielded
    number: int = 0  # of changes so far
    result: Any = None
    error: str = ""
    stopping: bool = False
    dropped: bool = False  # stopped, and what it has so far is not wanted
    halted: bool = False  # the work knows that it is to stop
    asked: float = field(default_factory=time.monotonic)
    work: Generator | None = None

    @property
    def over(self) -> bool:
        return self.state in ("done", "stopped", "failed")


class Scheduler:
    """All jobs of a server; `sentence` makes what is said of an exception that work raises."""

    def __init__(self, sentence: Callable[[Exception], str] = str, abandoned: float = ABANDONED):
        self.sentence, self.abandoned = sentence, abandoned
        self.changed, self.lines, self.looks, self.closed = threading.Condition(), (deque(), deque(), deque()), 0, False
        self.thread = threading.Thread(target=self.work, name="model", daemon=True)
        self.thread.start()

    def submit(self, make: Callable[[], Generator], kind: int, owner: str) -> Job:
        """Queue work: `make()` gives its generator, in the model's thread. Raises Full where too much waits."""
        job = Job(make, kind, owner)
        with self.changed:
            if self.closed:
                raise Full("The app is closing.")
            line = self.lines[kind]
            for old in [old for old in line if self.left(old) and old.state == "queued"]:
                self.end(old, "stopped")
            if owner and sum(other.owner == owner for other in line) >= MOST_OWN[kind]:
                raise Full("You have asked for as much as one page may at a time: wait for an answer.")
            if len(line) >= MOST_WAITING[kind]:
                raise Full(f"The model is busy: {len(line)} others wait already. Try again in a minute.")
            line.append(job)
            self.changed.notify_all()
        return job

    def stop(self, job: Job, keep: bool = True) -> None:
        """Stop a job: at once where it waits, else after the unit that runs.

        With `keep` the work may still return what it has so far; a second call does not wait for that.
        """
        with self.changed:
            job.dropped = job.dropped or job.stopping or not keep
            job.stopping = True
            if job.state == "queued":
                self.end(job, "stopped")

    def wait(self, job: Job, seen: int, seconds: float) -> None:
        """Wait until a job has changed more than `seen` times, is over, or the time is."""
        with self.changed:
            job.asked = time.monotonic()
            self.changed.wait_for(lambda: job.number > seen or job.over, seconds)

    def standing(self, job: Job) -> dict:
        """How a job stands, all at the same moment: state, changes seen, news, jobs ahead, result and error."""
        with self.changed:
            line = self.lines[job.kind]
            ahead = line.index(job) if job in line else 0
            return {
                "state": job.state, "seen": job.number, "news": job.news, "result": job.result, "error": job.error,
                "ahead": ahead + (len(self.lines[RUN]) if job.kind == TRAINING else 0),
            }  # fmt: skip

    def close(self) -> None:
        """Stop all work and the thread, after the unit that runs."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        self.thread.join(5)  # a daemon: a step that takes longer ends with the process
        with self.changed:
            for job in [job for line in self.lines for job in line]:
                self.end(job, "stopped")

    # What follows runs in the model's thread.

    def work(self) -> None:
        while (job := self.next()) is not None:
            self.unit(job)
            del job  # who waits for work holds on to none

    def next(self) -> Job | None:
        """The job whose turn it is, which stays first in its line until it is over; None when the server closes."""
        with self.changed:
            self.changed.wait_for(lambda: self.closed or any(self.lines))
            if self.closed:
                return None
            there = [line for line in self.lines if line]
            self.looks = self.looks + 1 if there[0] is self.lines[LOOK] else 0
            job = there[0][0]
            if self.looks > LOOKS and len(there) > 1:
                self.looks, job = 0, there[1][0]
            if job.state == "queued":  # under the lock: from here on `stop` leaves the end to this thread
                self.tell(job, state="running")
            return job

    def unit(self, job: Job) -> None:
        """Do one unit of a job, or end it."""
        try:
            if job.dropped or self.left(job) or (job.stopping and job.work is None):
                if job.work is not None:
                    job.work.close()
                return self.end(job, "stopped")
            if job.work is None:
                job.work = job.make()
            if job.stopping and not job.halted:
                job.halted = True
                news = job.work.throw(Halt())
            else:
                news = next(job.work)
        except StopIteration as end:
            return self.end(job, "stopped" if job.halted else "done", end.value)
        except Halt:
            return self.end(job, "stopped")
        except Exception as error:  # whatever a model raises, the server goes on
            return self.end(job, "failed", error=self.sentence(error))
        with self.changed:
            if job.kind != LOOK:
                return self.tell(job, news=news)
            self.lines[LOOK].remove(job)  # it takes more than one unit, so it is no quick one: it queues with the runs
            job.kind = RUN
            self.lines[RUN].append(job)
            self.tell(job, job.state, news)

    # What both sides share; the lock may be held already.

    def left(self, job: Job) -> bool:
        """Whether nobody has asked for a job's news for so long that nobody will; a look is answered all the same."""
        return job.kind != LOOK and time.monotonic() - job.asked > self.abandoned

    def tell(self, job: Job, state: str | None = None, news: dict | None = None) -> None:
        """Note what changed of a job, and wake who waits for it; no news is no change."""
        with self.changed:
            if state or news:
                job.state, job.news, job.number = state or job.state, news or job.news, job.number + 1
                self.changed.notify_all()

    def end(self, job: Job, state: str, result=None, error: str = "") -> None:
        """The job is over: it holds on to nothing but what it came to."""
        with self.changed:
            if job in self.lines[job.kind]:
                self.lines[job.kind].remove(job)
            job.result, job.error, job.work, job.make = result, error, None, None
            self.tell(job, state=state)
