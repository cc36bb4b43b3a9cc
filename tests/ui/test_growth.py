"""Two hundred runs of a tab and looks into each leave no more behind than the newest: no objects, and no memory."""

import gc
from collections import Counter

import psutil
from small_workbench import Page

from dit_lab.inside import Recording, Trajectory
from dit_lab.panels import Opened
from dit_lab.ui.scheduler import Job
from dit_lab.ui.sessions import MOST_OVER, MOST_RUNS

RUNS, KINDS = 200, (Opened, Trajectory, Recording, Job)
GROWTH = 24 * 2**20  # bytes that the second hundred may add: the allocator's, for a run has 40 kB


def alive() -> Counter:
    """How many objects of the kinds that a run is made of there are, generators of this package among them."""
    gc.collect()
    found = Counter(type(each).__name__ for each in gc.get_objects() if issubclass(type(each), KINDS))
    generators = [each for each in gc.get_objects() if type(each).__name__ == "generator"]
    return found + Counter(generators=sum("/dit_lab/" in each.gi_code.co_filename for each in generators))


def use(page: Page, count: int, base: dict) -> None:
    """So many runs, each looked into; every fifth is stopped, and every seventh asks what cannot be."""
    for number in range(count):
        job = page.ok("start", settings=base | {"seed": number})["job"]
        if number % 5 == 0:
            page.ok("stop", job=job)
        run = page.follow(job).get("run")
        if run:
            asked = {"look": "rows", "step": 0, "patch": number % 6, "sample": 0, "half": "cond"}
            page.ask(run["id"], "attention", asked)
            page.ok("data", run=run["id"], panel="conditioning")
        if number % 7 == 0:
            page.error("start", settings=base | {"steps": "many"})


def test_many_runs_leave_the_newest_behind_and_no_more(bench):
    page = Page(bench)
    base, process = page.settings(steps=3), psutil.Process()
    before = alive()
    use(page, RUNS // 2, base)
    half_way, memory = alive(), process.memory_info().rss
    use(page, RUNS // 2, base)
    assert process.memory_info().rss - memory < GROWTH
    after = alive()
    assert after == half_way or all(after[kind] <= half_way[kind] for kind in after)
    for kind, most in {"Lent": MOST_RUNS, "Trajectory": MOST_RUNS, "Job": MOST_OVER + 2, "generators": 1}.items():
        assert after[kind] - before[kind] <= most, (kind, before, after)
    session = bench.sessions.get(page.token)
    assert (
        len(session.runs) == MOST_RUNS
        and len(session.jobs) <= MOST_OVER
        and set(session.runs) == set(bench.sessions.bytes)
    )


def test_tabs_that_come_and_go_leave_nothing_behind(bench):
    base, before = Page(bench).settings(steps=1), alive()
    for _ in range(30):
        page = Page(bench)
        page.follow(page.ok("start", settings=base)["job"])
        page.ok("start", settings=base | {"steps": 100})  # and closes while it goes on
        page.ok("bye")
    last = Page(bench)
    last.follow(last.ok("start", settings=base)["job"])
    last.ok("bye")
    after = alive()
    assert all(after[kind] <= before[kind] + 1 for kind in after), (before, after)
