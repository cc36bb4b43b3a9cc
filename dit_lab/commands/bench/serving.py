"""The app under load: how soon it answers, and many tabs at once that sample, click and scrub for some minutes.

Every tab is a session of its own, which talks as the page does. It is an error where one is told anything but an
answer, where a run is not the one it asked for, and where it is shown another's.
"""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dit_lab.commands.bench.report import kept, spelt
from dit_lab.commands.bench.tabs import Notes, Tab, alone, config_of, page_part, visit

APP = Path(__file__).parents[3] / "app.py"
START = 300.0  # seconds that a server is given to begin
GRACE = 60.0  # and those that work under way is given at the end
BOUND = 2**30  # bytes that the server may grow by, whatever it serves: of runs it keeps as much
HEAD = ("", "count", "errors", "median", "worst")


@dataclass(frozen=True)
class Row:
    """What the tabs asked for of one kind: how often, how many went wrong, and seconds to the answer."""

    what: str
    count: int
    errors: int
    median: float | None
    worst: float | None

    def __str__(self):
        return f"{self.what:44}{self.count:>8}{self.errors:>8}{told(self.median):>10}{told(self.worst):>10}"


def bench_app(models: tuple[str, ...], clients: int, seconds: float, device: str, about: dict, out: Path | None):
    """Start the app, visit it with so many tabs for so long, and print what came of it; `out` keeps it."""
    import psutil  # which nothing else needs; here, so that a lack of it is said before anything starts

    with serving(models, device) as server:
        began = server.began
        config = config_of(server.address)
        first = page_part(config)["value"]["first"]
        times = {"until it says Running": server.running - began, "until its page answers": time.monotonic() - began}
        memory, notes = Memory(lambda: psutil.Process(server.process.pid).memory_info().rss, psutil.Error), Notes()
        with memory.watched():
            alone(Tab(server.address, page_part(config)["id"]), first, notes)
            load(server.address, config, first, clients, seconds, notes)
        rows = [Row(what, *notes.summed(what)) for what in notes.kinds()]
        trouble = [*notes.troubles(), *server.tracebacks()]
    about = about | {"clients": clients, "seconds": round(seconds)}
    about |= {what: spelt(took) for what, took in times.items()} | {
        "memory of the server": memory.told(),
        "went wrong": "; ".join(trouble) or "nothing",
    }
    print(f"{'':44}" + "".join(f"{name:>{width}}" for name, width in zip(HEAD[1:], (8, 8, 10, 10), strict=True)))
    print(*rows, *(f"{what}: {value}" for what, value in about.items()), sep="\n")
    kept(out, "app", about, rows, page)


def load(address: str, config: dict, first: dict, clients: int, seconds: float, notes: Notes) -> None:
    """Visit with so many tabs at once, two threads each, and wait for all."""
    tabs = [Tab(address, page_part(config)["id"]) for _ in range(clients)]
    until, latest = time.monotonic() + seconds, {}
    threads = [
        threading.Thread(target=visit, args=(way, number, tab, first, until, latest, notes), daemon=True)
        for number, tab in enumerate(tabs)
        for way in ("samples", "looks")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()) + GRACE)
    if stuck := sum(thread.is_alive() for thread in threads):
        notes.wrong("tabs", f"{stuck} still wait {GRACE:.0f} s after the end")


class Server:
    """A process that serves the app, what it says, and when it said that it runs."""

    def __init__(self, process, port: int):
        self.process, self.address, self.said = process, f"http://127.0.0.1:{port}", []
        self.began, self.running = time.monotonic(), None
        self.reader = threading.Thread(target=self.listen, daemon=True)
        self.reader.start()

    def listen(self) -> None:
        for line in self.process.stdout:
            if "Running on" in line:
                self.running = time.monotonic()
            self.said.append(line.rstrip())

    def tracebacks(self) -> list[str]:
        """What it complained of."""
        count = sum("Traceback" in line for line in self.said)
        return [f"{count} tracebacks in what the server said"] if count else []


@contextmanager
def serving(models: tuple[str, ...], device: str):
    """The app in a process of its own, on a free port. Raises ValueError with its words where it does not begin."""
    if not APP.is_file():
        raise ValueError(f"there is no {APP.name} beside the package: run this in a checkout of the repository")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = [f"--checkpoint={name}" for name in models]
    command = [sys.executable, "-u", str(APP), "--port", str(port), "--device", device, *given]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    server = Server(process, port)
    try:
        while server.running is None and process.poll() is None and time.monotonic() < server.began + START:
            time.sleep(0.01)
        if server.running is None:
            server.reader.join(1)
            raise ValueError(f"the app did not begin: {server.said[-1] if server.said else 'it said nothing'}")
        yield server
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


class Memory:
    """Bytes that a process holds, looked at twice a second by `look`; none where that raises `gone`."""

    def __init__(self, look: Callable[[], int], gone: type[Exception] = OSError):
        self.look, self.gone, self.seen = look, gone, []

    @contextmanager
    def watched(self):
        """Inside, look on."""
        ended = threading.Event()
        watching = threading.Thread(target=partial(self.look_on, ended), daemon=True)
        watching.start()
        try:
            yield
        finally:
            ended.set()
            watching.join()

    def look_on(self, ended: threading.Event) -> None:
        while True:
            with suppress(self.gone):
                self.seen.append(self.look())
            if ended.wait(0.5):
                return

    @property
    def grown(self) -> int:
        return max(self.seen) - self.seen[0]

    def told(self) -> str:
        """Before, half-way, after and at most, and whether it stayed within its bound."""
        seen = {"before": self.seen[0], "half-way": self.seen[len(self.seen) // 2], "after": self.seen[-1]}
        seen["at most"] = max(self.seen)
        kept = "within" if self.grown <= BOUND else "OVER"
        mib = ", ".join(f"{size / 2**20:.0f} MiB {when}" for when, size in seen.items())
        return f"{mib}: grown by {self.grown / 2**20:.0f} MiB, {kept} the bound of {BOUND / 2**20:.0f}"


def told(seconds: float | None) -> str:
    return "" if seconds is None else spelt(seconds)


def page(name: str, about: dict, rows: list[Row]) -> str:
    """The page of the bench."""
    lines = [f"# Bench: {name}", "", *(f"- {what}: {value}" for what, value in about.items()), ""]
    lines += [f"| {' | '.join(HEAD)} |", "| --- | ---: | ---: | ---: | ---: |"]
    for row in rows:
        lines.append(f"| {row.what} | {row.count} | {row.errors} | {told(row.median)} | {told(row.worst)} |")
    return "\n".join([*lines, ""])
