"""The app's page, served once for all tests of a file."""

import pytest
from pages import serving


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
