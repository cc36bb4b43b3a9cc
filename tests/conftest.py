"""What several test files share: real pictures, where they are to be found."""

import os
import resource
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from dit_lab.commands import cli

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several, which have a core each: more threads only wait
    os.environ.setdefault("OMP_NUM_THREADS", "1")
DATA = Path(os.environ.get("DIT_LAB_DATA", Path(__file__).parents[2] / "shared" / "data"))


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
