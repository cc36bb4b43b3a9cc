"""A JupyterLab of a test's own, on a folder."""

import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from urllib.request import urlopen

from shared import PATIENCE, ROOT


@contextmanager
def jupyterlab(folder):
    """The address of a JupyterLab on a folder, and the environment that it and its kernels run in."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    places = {f"JUPYTER_{what}_DIR": str(folder / ".jupyter" / what) for what in ("CONFIG", "DATA", "RUNTIME")}
    places |= {"IPYTHONDIR": str(folder / ".ipython"), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    environment = os.environ | places | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}"]
    command += ["--IdentityProvider.token=", "--ServerApp.password=", f"--ServerApp.root_dir={folder}"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    urlopen(f"http://127.0.0.1:{port}/api").close()
                    break
                except OSError:
                    assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
                    time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/lab/tree/nb.ipynb", environment
        finally:
            process.terminate()
            process.wait(30)


def run_all(view):
    """Run the notebook, once its kernel is there and is listened to: asked before, JupyterLab asks back which one."""
    there = """async () => (await (await fetch("/api/sessions")).json()).some(
        ({ kernel }) => kernel && kernel.connections > 0 && kernel.execution_state === "idle")"""
    deadline = time.monotonic() + PATIENCE / 1000
    while not view.evaluate(there):
        assert time.monotonic() < deadline, "the kernel does not begin"
        view.wait_for_timeout(500)
    view.get_by_role("menuitem", name="Run", exact=True).click()
    view.get_by_text("Run All Cells", exact=True).click()
