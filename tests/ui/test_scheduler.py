"""Whose turn it is on the models: looks between steps, runs in order, and every way in which work may end."""

import gc
import threading
import time
import weakref
from contextlib import suppress

import pytest

from dit_lab.ui.scheduler import LOOK, LOOKS, MOST_OWN, MOST_WAITING, RUN, TRAINING, Full, Halt, Scheduler

PATIENCE = 20


@pytest.fixture
def scheduler():
    made = Scheduler(lambda error: f"{type(error).__name__}: {error}", abandoned=60)
    yield made
    made.close()


class Walk:
    """Work in steps, each of which waits until it is let: what it did is written into a list that others share."""

    def __init__(self, name, done, steps=3):
        self.name, self.done, self.steps = name, done, steps
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self):
        for step in range(self.steps):
            self.begun.release()
            assert self.go.acquire(timeout=PATIENCE)
            self.done.append(f"{self.name}{step}")
            yield {"step": step + 1}
        return self.name

    def let(self, steps=1):
        for _ in range(steps):
            self.go.release()

    def within(self):
        """Wait until a step is under way."""
        assert self.begun.acquire(timeout=PATIENCE)


def quick(name, done):
    """A look: one unit."""

    def work():
        done.append(name)
        return name
        yield

    return work


def ended(scheduler, job):
    until = time.monotonic() + PATIENCE
    while not job.over:
        scheduler.wait(job, job.number, 0.2)
        assert time.monotonic() < until, f"{job.state} for ever"
    return job.state


def test_a_look_goes_between_two_steps_of_a_run_and_training_in_what_time_is_left(scheduler):
    done = []
    first, second, training = Walk("a", done), Walk("b", done, 2), Walk("t", done, 2)
    jobs = [scheduler.submit(first, RUN, "1")]
    first.within()
    jobs += [scheduler.submit(training, TRAINING, "1"), scheduler.submit(second, RUN, "2")]
    jobs += [scheduler.submit(quick("look", done), LOOK, "3")]
    for walk in (first, second, training):
        walk.let(3)
    assert [ended(scheduler, job) for job in jobs] == ["done"] * 4
    assert done == ["a0", "look", "a1", "a2", "b0", "b1", "t0", "t1"]
    assert [job.result for job in jobs] == ["a", "t", "b", "look"]


def test_many_looks_do_not_stop_those_who_sample(scheduler):
    done, walk = [], Walk("a", [], 2)
    run = scheduler.submit(walk, RUN, "1")
    walk.within()
    walk.done = done
    looks = [scheduler.submit(quick(f"look{i}", done), LOOK, f"{i}") for i in range(3 * LOOKS)]
    walk.let(2)
    assert ended(scheduler, run) == "done" and all(ended(scheduler, look) == "done" for look in looks)
    assert done.index("a1") == LOOKS + 1  # after the first step, and as many looks as may go in a row


def test_a_look_of_many_parts_queues_with_the_runs_and_others_looks_go_between(scheduler):
    done, long = [], Walk("long", [], 3)
    long.done = done
    look = scheduler.submit(long, LOOK, "1")
    long.within()
    short = scheduler.submit(quick("short", done), LOOK, "2")
    long.let(3)
    assert ended(scheduler, look) == ended(scheduler, short) == "done" and look.kind == RUN
    assert done == ["long0", "short", "long1", "long2"]


def test_what_waits_is_stopped_at_once_and_never_begins(scheduler):
    done, walk, other = [], Walk("a", []), Walk("b", [])
    run = scheduler.submit(walk, RUN, "1")
    walk.within()
    waiting, after = scheduler.submit(other, RUN, "2"), scheduler.submit(quick("c", done), RUN, "3")
    assert [scheduler.standing(job)["ahead"] for job in (run, waiting, after)] == [0, 1, 2]
    scheduler.stop(waiting)
    assert waiting.state == "stopped" and scheduler.standing(after)["ahead"] == 1
    walk.let(3)
    assert ended(scheduler, run) == ended(scheduler, after) == "done" and not other.done


@pytest.mark.parametrize("keep", [True, False])
def test_stop_within_the_first_step_ends_after_that_step(scheduler, keep):
    walk = Walk("a", [], 50)
    run = scheduler.submit(walk, RUN, "1")
    walk.within()
    scheduler.stop(run, keep)
    walk.let(50)
    assert ended(scheduler, run) == "stopped" and walk.done == ["a0"]


def test_stop_at_any_moment_ends_a_job_once_and_the_thread_lives_on(scheduler):
    for wait in [0, 0, 0, 1e-5, 1e-4, 1e-3] * 60:
        run = scheduler.submit(lambda: iter_steps(200), RUN, "1")
        time.sleep(wait)
        scheduler.stop(run)
        assert ended(scheduler, run) == "stopped" and run.error == ""
    assert ended(scheduler, scheduler.submit(quick("last", []), LOOK, "1")) == "done"


def iter_steps(count):
    for step in range(count):
        time.sleep(1e-3)
        yield {"step": step}


@pytest.mark.parametrize("endless", [False, True])
def test_work_that_is_stopped_may_hand_out_what_it_has_and_a_second_stop_does_not_wait_for_that(scheduler, endless):
    closed = []

    def work():
        with suppress(Halt):
            yield from iter_steps(10**6)
        try:
            for part in range(10**6 if endless else 3):
                yield {"part": part}
                time.sleep(1e-3)
        finally:
            closed.append(True)
        return "what it has"

    run = scheduler.submit(work, RUN, "1")
    while run.number < 5:
        scheduler.wait(run, run.number, 1)
    scheduler.stop(run)
    if endless:
        while run.news.get("part", 0) < 5:
            scheduler.wait(run, run.number, 1)
        scheduler.stop(run)
    assert ended(scheduler, run) == "stopped" and run.result == (None if endless else "what it has") and closed


def test_what_fails_says_so_and_the_next_job_goes_on(scheduler):
    def broken():
        yield {"step": 1}
        raise MemoryError("much")

    def unmade():
        raise KeyError("nothing")

    first, second = scheduler.submit(broken, RUN, "1"), scheduler.submit(unmade, LOOK, "1")
    assert ended(scheduler, first) == ended(scheduler, second) == "failed"
    assert first.error == "MemoryError: much" and second.error == "KeyError: 'nothing'"
    assert ended(scheduler, scheduler.submit(quick("x", []), RUN, "1")) == "done"


def test_the_queue_has_a_limit_for_all_and_one_for_each(scheduler):
    walk = Walk("a", [], 1)
    held = scheduler.submit(walk, RUN, "me")
    walk.within()
    mine = [scheduler.submit(quick("x", []), RUN, "me") for _ in range(MOST_OWN[RUN] - 1)]
    with pytest.raises(Full, match="as much as one page may"):
        scheduler.submit(quick("x", []), RUN, "me")
    others = [scheduler.submit(quick("x", []), RUN, f"{i}") for i in range(MOST_WAITING[RUN] - MOST_OWN[RUN])]
    with pytest.raises(Full, match="The model is busy: 16 others wait"):
        scheduler.submit(quick("x", []), RUN, "another")
    walk.let()
    assert {ended(scheduler, job) for job in [held, *mine, *others]} == {"done"}


def test_a_run_that_nobody_asks_for_any_more_is_stopped_and_makes_room():
    scheduler = Scheduler(abandoned=0.2)
    walk = Walk("a", [], 10**6)
    walk.let(10**4)
    run = scheduler.submit(lambda: iter_steps(10**6), RUN, "gone")
    queued = [scheduler.submit(quick("x", []), RUN, f"{i}") for i in range(MOST_WAITING[RUN] - 1)]
    until = time.monotonic() + 0.5
    while time.monotonic() < until:  # who asks keeps its run
        scheduler.wait(run, run.number, 0.05)
    assert run.state == "running" and not any(job.over for job in queued)
    time.sleep(0.3)
    mine = scheduler.submit(quick("mine", []), RUN, "here")
    assert ended(scheduler, mine) == "done" and run.state == "stopped" and {job.state for job in queued} == {"stopped"}
    scheduler.close()


def test_an_idle_scheduler_holds_on_to_nothing_of_what_it_did(scheduler):
    class Large:
        pass

    def running(kept, fails):
        def work():
            large = Large()
            kept.append(weakref.ref(large))
            yield {"step": 1}
            if fails:
                raise ValueError("no")
            return large

        return work

    refs = []
    for fails in (False, True):
        job = scheduler.submit(running(refs, fails), RUN, "1")
        assert ended(scheduler, job) == ("failed" if fails else "done")
        del job
    gc.collect()
    assert [ref() for ref in refs] == [None, None]


def test_news_wakes_who_waits_and_a_job_stands_as_it_does_at_one_moment(scheduler):
    walk = Walk("a", [], 2)
    run = scheduler.submit(walk, RUN, "1")
    walk.within()
    seen = scheduler.standing(run)["seen"]
    threading.Timer(0.1, walk.let).start()
    began = time.monotonic()
    scheduler.wait(run, seen, PATIENCE)
    standing = scheduler.standing(run)
    assert time.monotonic() - began < PATIENCE / 2 and standing["news"] == {"step": 1}
    assert standing["state"] == "running" and standing["seen"] == seen + 1 and standing["result"] is None
    walk.let()
    assert ended(scheduler, run) == "done" and scheduler.standing(run)["result"] == "a"


def test_closing_ends_what_waits_and_what_runs():
    scheduler, walk = Scheduler(), Walk("a", [], 9)
    run = scheduler.submit(walk, RUN, "1")
    walk.within()
    waiting = scheduler.submit(quick("x", []), TRAINING, "1")
    threading.Timer(0.1, walk.let, [9]).start()
    scheduler.close()
    assert run.state == waiting.state == "stopped" and not scheduler.thread.is_alive() and walk.done == ["a0"]
    with pytest.raises(Full, match="closing"):
        scheduler.submit(quick("x", []), RUN, "1")
