"""The app's page, and a small workbench without one, each served once for all tests of a file."""

import pytest
from pages import serving
from small_workbench import Page, small


@pytest.fixture(scope="module")
def address():
    with serving() as url:
        yield url


@pytest.fixture
def opened(visit, address):
    """Open the app's page; `at` is what its address says."""

    def open_page(width=1440, height=900, scheme="light", at=""):
        return visit(address + "/" + at, width, height, scheme, ready="[data-ready]")

    return open_page


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    with small(tmp_path_factory.mktemp("served")) as made:
        yield made


@pytest.fixture
def page(bench):
    return Page(bench)
