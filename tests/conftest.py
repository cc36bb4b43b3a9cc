"""What several test files share: real pictures, where they are to be found, command lines, limits, and a browser."""

import os
import resource
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several, which have a core each: more threads only wait
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is first imported, below

from shared import PATIENCE  # noqa: E402

from dit_lab.commands import cli  # noqa: E402

DATA = Path(os.environ.get("DIT_LAB_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session", autouse=True)
def own_cache():
    """Decoded pictures are kept among the tests' own files, and not in the user's cache."""
    with TemporaryDirectory(prefix="dit_lab-cache-") as folder:
        os.environ["DIT_LAB_CACHE"] = folder
        yield


@pytest.fixture(scope="session")
def real_data():
    """The folder of a real data set by name, or a skip with the reason."""

    def find(name: str) -> Path:
        if not (DATA / name).is_dir():
            pytest.skip(f"{DATA / name} is not here; set DIT_LAB_DATA to a folder that holds {name}")
        return DATA / name

    return find


@pytest.fixture
def command(monkeypatch, capsys):
    """Run a command line here; returns its exit code, what it printed and what it complained."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["dit_lab", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as left:
            code = left.code or 0
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def limited():
    """A limit of this process, for a while: `with limited(resource.RLIMIT_FSIZE, most): ...`."""

    @contextmanager
    def limit(what: int, most: int):
        before = resource.getrlimit(what)
        resource.setrlimit(what, (most, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(what, before)

    return limit


@pytest.fixture(scope="module")
def chromium():
    """Headless Chromium, or a skip with the reason."""
    playwright = pytest.importorskip("playwright.sync_api")
    if (found := shutil.which("chromium")) is None:
        pytest.skip("no chromium here: apt-get install chromium")
    flags = [f"--{flag}" for flag in ("no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking")]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """Open a page and wait until it is `ready`; an error in its scripts fails the test that opened it.

    Errors so far are in `page.broken`, and what it asks for in `page.asked`.
    """
    pages = []

    def visiting(address, width=1280, height=900, scheme="light", ready="body[data-ready]"):
        page = chromium.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        pages.append(page)
        page.set_default_timeout(PATIENCE)
        page.broken, page.asked = [], []
        page.on("pageerror", lambda error: page.broken.append(str(error)))
        page.on("console", lambda message: message.type == "error" and page.broken.append(message.text))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(address)
        page.wait_for_selector(ready)
        return page

    yield visiting
    for page in pages:
        assert page.broken == []
        page.close()
