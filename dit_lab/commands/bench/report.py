"""What a bench found: a line a contestant, as a table to read at once, and kept as JSON and a page."""

import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from dit_lab.commands.bench.timing import race
from dit_lab.files import atomic, make_folder, write_json

FAILURES = (RuntimeError, ValueError, ImportError, AttributeError, TypeError)  # of a contestant: the others go on
LATE = "no time is left"
CPUS = Path("/proc/cpuinfo")
HEAD = ("", "time", "spread", "ratio", "of peak", "error")


@dataclass(frozen=True)
class Line:
    """One contestant at one kind of work: seconds a call (median and quartiles), how many times as fast as the first.

    `share` is of the matrix-product peak that the same run measured, `error` relative to fp32; None where there is
    nothing to compare. `why` says, instead of all figures, why there are none.
    """

    work: str
    who: str
    median: float | None = None
    low: float | None = None
    high: float | None = None
    ratio: float | None = None
    share: float | None = None
    error: float | None = None
    why: str = ""

    def __str__(self):
        if self.median is None:
            return f"  {self.who:34}{self.why}"
        spread = (self.high - self.low) / self.median
        ratio = f"{self.ratio:.2f}x" if self.ratio else ""
        share = "" if self.share is None else f"{self.share:.0%}"
        error = "" if self.error is None else f"{self.error:.1e}"
        return f"  {self.who:34}{spelt(self.median):>10}{spread:>8.0%}{ratio:>9}{share:>9}{error:>10}"


def late(until: float) -> bool:
    """Whether a time of `time.monotonic` is over."""
    return time.monotonic() > until


def checked(
    ways: dict[str, object], check: Callable, until: float = math.inf
) -> tuple[dict[str, Callable], dict[str, float]]:
    """The contestants' calls and their errors, both by `check(way) -> call, error`, as long as there is time.

    The call of one that fails there, or comes too late, fails again, so that `compete` says why.
    """
    calls, errors = {}, {}
    for who, way in ways.items():
        try:
            in_time(until)
            calls[who], errors[who] = check(way)
        except FAILURES as error:
            calls[who] = partial(failing, error.with_traceback(None))
    return calls, errors


def in_time(until: float) -> None:
    """Raise RuntimeError where it is too late to begin something."""
    if late(until):
        raise RuntimeError(LATE)


def failing(error: Exception) -> None:
    """Fail as before."""
    raise error


def reason(error: Exception) -> str:
    """Why something failed, on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]


def left_out(work: str, who: str, error: Exception) -> Line:
    """The line, printed, of a whole code base that cannot take part."""
    line = Line(work, who, why=f"left out: {' '.join(str(error).split())}")
    print(line)
    return line


def compete(
    work: str, calls: dict[str, Callable], rounds: int, device, *, flops: float = 0, peaks=None, errors=None,
    until: float = math.inf,
) -> list[Line]:  # fmt: skip
    """Race the contestants at one kind of work of `flops`, and print a line each; the first is what others are held to.

    A contestant that fails in its first call says why and is out, and so is one whose first call would come after
    `until`, a time of `time.monotonic`. `peaks` (FLOP/s) and `errors` are by contestant.
    """
    print(f"{work:36}" + "".join(f"{name:>{width}}" for name, width in zip(HEAD[1:], (10, 8, 9, 9, 10), strict=True)))
    able, failed = {}, {}
    for who, call in calls.items():
        if late(until):
            failed[who] = LATE
            continue
        try:
            call()
            able[who] = call
        except FAILURES as error:
            failed[who] = reason(error)
    times = race(able, rounds, device)
    first = times.get(next(iter(calls), None))
    lines = []
    for who in calls:
        if who in failed:
            lines.append(Line(work, who, why=failed[who]))
        else:
            took = times[who]
            share = flops / took.median / peaks[who] if flops and peaks else None
            ratio = first.median / took.median if first else None
            lines.append(Line(work, who, *took, ratio, share, (errors or {}).get(who)))
        print(lines[-1], flush=True)
    return lines


def spelt(seconds: float) -> str:
    """A duration with its unit: `0.0123 -> 12.3 ms`."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size or unit == "us":
            return f"{seconds / size:.3g} {unit}"


def machine(device: torch.device) -> str:
    """What the figures were measured on, in a few words."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    able = [name for name, has in torch.cpu.get_capabilities().items() if has is True and "bf16" in name]
    threads = f"{(count := torch.get_num_threads())} thread{'s' * (count != 1)}"
    return f"{processor()}, {threads}, {' '.join(able) or 'no bf16 instructions'}, torch {torch.__version__}"


def processor() -> str:
    """The CPU's model where the system tells it, and what code it runs."""
    try:
        rows = [row.partition(":") for row in CPUS.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        rows = []
    models = [value for name, _, value in rows if name.strip() == "model name"]
    told, runs = " ".join((models or [platform.processor()])[0].split()), platform.machine()
    return f"{runs} CPU" if told in ("", runs) else f"{told} ({runs})"


def note(about: dict, what: str, value: str) -> None:
    """Print a finding that is no line, and add it to those of its kind in what is kept about a bench."""
    print(f"{what}: {value}")
    about[what] = f"{about[what]}, {value}" if what in about else value


def kept(folder: Path | None, name: str, about: dict, lines: list, page: Callable | None = None) -> None:
    """`keep` what was found where there is a folder for it, and say where."""
    if folder is not None:
        keep(folder, name, about, lines, page)
        print(f"{folder / f'bench-{name}.md'}: {len(lines)} lines")


def keep(folder: Path, name: str, about: dict, lines: list, page: Callable | None = None) -> None:
    """Write `bench-NAME.json` and `bench-NAME.md` into a folder; `page(name, about, lines)` is what the second says."""
    make_folder(folder)
    content = {"about": about, "lines": [asdict(line) for line in lines]}
    write_json(folder / f"bench-{name}.json", content)
    with atomic(folder / f"bench-{name}.md") as partial:
        partial.write_text((page or table)(name, about, lines), encoding="utf-8")


def table(name: str, about: dict, lines: list[Line]) -> str:
    """The page of a bench: what was measured on what, and a table for each kind of work."""
    told = [f"# Bench: {name}", "", *(f"- {what}: {value}" for what, value in about.items())]
    for work in dict.fromkeys(line.work for line in lines):
        told += ["", f"## {work}", "", f"| {' | '.join(HEAD)} |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
        for line in lines:
            if line.work == work:
                told.append(row(line))
    return "\n".join([*told, ""])


def row(line: Line) -> str:
    """A line of a page's table."""
    if line.median is None:
        return f"| {line.who} | {line.why.replace('|', '/')} | | | | |"
    share, error = "" if line.share is None else f"{line.share:.0%}", "" if line.error is None else f"{line.error:.1e}"
    ratio, spread = f"{line.ratio:.2f}x" if line.ratio else "", (line.high - line.low) / line.median
    return f"| {line.who} | {spelt(line.median)} | {spread:.0%} | {ratio} | {share} | {error} |"
