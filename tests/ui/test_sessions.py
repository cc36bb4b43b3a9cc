"""Sessions: each sees its own runs and jobs alone, and all of them together have a bound."""

import gc
import secrets
import time
import weakref

import pytest
import torch
from shared import random_model

from dit_lab.inside import record
from dit_lab.panels import Opened
from dit_lab.ui import sessions as there
from dit_lab.ui.scheduler import LOOK, RUN, Scheduler
from dit_lab.ui.sessions import MOST_OVER, MOST_RUNS, MOST_SESSIONS, Sessions, size, weight


@pytest.fixture(scope="module")
def trajectory():
    return record(random_model(), [1], steps=2)


@pytest.fixture
def scheduler():
    made = Scheduler()
    yield made
    made.close()


def token():
    return secrets.token_hex(16)


def endless():
    while True:
        yield {}
        time.sleep(1e-3)


@pytest.mark.parametrize("name", [None, 7, "", "a" * 31, "G" * 32, "a" * 33, "a" * 32 + "\n", ["a" * 32], {}])
def test_what_is_no_token_opens_no_session(scheduler, name):
    sessions = Sessions(scheduler)
    with pytest.raises(ValueError, match="32 hexadecimal digits"):
        sessions.get(name)
    assert not sessions.known


def test_a_session_sees_its_own_runs_and_jobs_alone(scheduler, trajectory):
    sessions = Sessions(scheduler)
    mine, other = sessions.get(token()), sessions.get(token())
    opened = sessions.keep(mine, Opened(trajectory))
    number = sessions.note(mine, scheduler.submit(endless, RUN, mine.token))
    assert sessions.get(mine.token) is mine and mine.run(opened.id) is opened and mine.job(number).owner == mine.token
    with pytest.raises(ValueError, match="no longer kept: press Sample"):
        other.run(opened.id)
    with pytest.raises(ValueError, match="no longer known: press Sample"):
        other.job(number)
    for strange in (None, [opened.id], {}, 3):
        with pytest.raises(ValueError):
            mine.run(strange)
        with pytest.raises(ValueError):
            mine.job(strange)


def test_sessions_are_as_many_as_there_may_be_and_the_one_idle_longest_goes(scheduler):
    sessions = Sessions(scheduler)
    tokens = [token() for _ in range(MOST_SESSIONS)]
    for each in tokens:
        sessions.get(each)
    oldest = sessions.get(tokens[1])
    sessions.get(tokens[0])
    assert oldest is sessions.known[tokens[1]]
    oldest_job = scheduler.submit(endless, RUN, tokens[2])
    sessions.note(sessions.known[tokens[2]], oldest_job)
    sessions.get(token())
    assert len(sessions.known) == MOST_SESSIONS and tokens[2] not in sessions.known and tokens[1] in sessions.known
    scheduler.wait(oldest_job, 10**9, 5)
    assert oldest_job.state == "stopped"


def test_an_idle_session_goes_with_its_runs_its_folder_and_its_job(trajectory):
    scheduler = Scheduler()
    sessions = Sessions(scheduler, idle=0.1)
    session = sessions.get(token())
    run, folder = weakref.ref(sessions.keep(session, Opened(trajectory))), session.place()
    job = scheduler.submit(endless, RUN, session.token)
    sessions.note(session, job)
    assert folder.is_dir()
    time.sleep(0.15)
    sessions.get(token())
    gc.collect()
    assert session.token not in sessions.known and run() is None and not folder.exists() and not sessions.bytes
    scheduler.wait(job, 10**9, 5)
    assert job.state == "stopped"
    scheduler.close()


def test_a_session_keeps_its_newest_runs(scheduler, trajectory):
    sessions = Sessions(scheduler)
    session = sessions.get(token())
    runs = [sessions.keep(session, Opened(trajectory)).id for _ in range(MOST_RUNS)]
    sessions.used(session, session.runs[runs[0]])
    newest = sessions.keep(session, Opened(trajectory)).id
    assert list(session.runs) == [*runs[2:], runs[0], newest] and list(sessions.bytes) == list(session.runs)


def test_all_runs_together_take_no_more_than_the_bound_and_those_unused_longest_go_first(scheduler, trajectory):
    each = weight(Opened(trajectory))
    sessions = Sessions(scheduler, most_bytes=3 * each)
    one, two = sessions.get(token()), sessions.get(token())
    first, second, third = (sessions.keep(session, Opened(trajectory)) for session in (one, two, one))
    sessions.used(one, first)
    fourth = sessions.keep(two, Opened(trajectory))
    assert set(one.runs) == {first.id, third.id} and set(two.runs) == {fourth.id}
    assert second.id not in sessions.bytes
    fourth.once("answer", lambda: {"data": "x" * 2 * each})  # what is remembered of a run counts as well
    sessions.used(two, fourth)
    assert set(two.runs) == {fourth.id} and not one.runs and sum(sessions.bytes.values()) <= 3 * each
    huge = Opened(trajectory, decoded={0: torch.zeros(3 * each)})
    sessions.keep(one, huge)
    assert set(one.runs) == {huge.id} and not two.runs  # the one that is used stays, however large
    sessions.forget(one)
    sessions.used(one, huge)  # an answer that came after the page had closed
    assert not sessions.bytes


def test_a_nest_of_an_answer_is_weighed():
    assert size({"a": "xxxx", "b": [1.0, 2.0, (3, "yy")], "c": torch.zeros(3)}) == 4 + 8 + 8 + 8 + 2 + 12
    assert size(None) == 8


def test_a_job_whose_end_was_told_is_forgotten_and_of_others_the_newest_are_kept(scheduler):
    sessions = Sessions(scheduler)
    session = sessions.get(token())

    def done():
        return {"x": 1}
        yield

    numbers = []
    for _ in range(MOST_OVER + 3):
        job = scheduler.submit(done, LOOK, session.token)
        scheduler.wait(job, 10**9, 5)
        numbers.append(sessions.note(session, job))
    assert list(session.jobs) == numbers[3:]
    sessions.told(session, numbers[-1])
    assert list(session.jobs) == numbers[3:-1]
    sessions.told(session, numbers[-1])


def test_of_what_a_session_does_alone_the_one_before_stops(scheduler):
    sessions = Sessions(scheduler)
    session = sessions.get(token())
    first, second, other = (scheduler.submit(endless, RUN, session.token) for _ in range(3))
    sessions.replace(session, "run", first)
    sessions.replace(session, "training", other)
    sessions.replace(session, "run", second)
    assert second.state == other.state == "queued" and first.dropped
    scheduler.wait(first, 10**9, 5)
    assert first.state == "stopped" and session.current == {"run": second, "training": other}


def test_many_threads_may_open_sessions_at_once(scheduler, monkeypatch):
    from small_workbench import together

    monkeypatch.setattr(there, "MOST_SESSIONS", 5)
    sessions = Sessions(scheduler)
    together(*([lambda: [sessions.get(token()) for _ in range(200)]] * 8))
    assert len(sessions.known) == 5
