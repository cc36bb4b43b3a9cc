"""The app's page as a reader has it: served as `make app` serves it, and what is done and read there."""

import socket
import subprocess
import sys
from contextlib import contextmanager

from shared import ROOT

PANELS = ["attention", "conditioning", "contributions", "whatif", "compare", "anatomy", "training"]


@contextmanager
def serving(*options):
    """The address of the app, started as `make app` does, on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-u", "app.py", "--port", str(port), *map(str, options)], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        lines = []
        while not (lines and "Running on" in lines[-1]):
            lines.append(process.stdout.readline())
            assert lines[-1], f"app.py stopped: {''.join(lines)}"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def says(page, words):
    page.wait_for_function("words => document.querySelector('[data-says]').textContent.includes(words)", arg=words)


def picture(page, kind="x0"):
    """The pixels of one of the trajectory's pictures."""
    return page.evaluate(f"document.querySelector('[data-trajectory] [data-kind={kind}] canvas').toDataURL()")


def sample(page, **settings):
    for name, value in settings.items():
        page.fill(f"[data-name={name}]", str(value))
    page.click("[data-sample]")
    says(page, "Done")
