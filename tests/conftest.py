"""What several test files share: real pictures, where they are to be found."""

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("DIT_LAB_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def real_data():
    """The folder of a real data set by name, or a skip with the reason."""

    def find(name: str) -> Path:
        if not (DATA / name).is_dir():
            pytest.skip(f"{DATA / name} is not here; set DIT_LAB_DATA to a folder that holds {name}")
        return DATA / name

    return find
