"""`pip install .`: the wheel has all that the package needs, and its command works from anywhere."""

import os
import shutil
import subprocess
import sys

import pytest
from shared import ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The package as pip installs it, without its requirements, from a copy so that building leaves nothing behind."""
    copy, target = tmp_path_factory.mktemp("copy") / "dit_lab", tmp_path_factory.mktemp("installed")
    ignore = shutil.ignore_patterns(".venv", ".git", "__pycache__", "build", "*.egg-info", "tests", "notebooks", "docs")
    shutil.copytree(ROOT, copy, ignore=ignore)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--no-index", "--no-build-isolation", "--target", str(target), str(copy)], check=True)
    return target


def python(installed, *arguments, cwd):
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=dict(os.environ, PYTHONPATH=str(installed)),
        text=True, capture_output=True,
    )  # fmt: skip


def test_every_file_of_the_package_is_installed(installed):
    kept = {".safetensors", ".json", ".jsonl", ".md", ".png", ".txt", ".js", ".css", ".html", ".py"}
    files = [path.relative_to(ROOT) for path in (ROOT / "dit_lab").rglob("*") if path.suffix in kept]
    assert [str(path) for path in files if not (installed / path).is_file()] == []


def test_the_installed_package_loads_its_zoo(installed, tmp_path):
    told = python(
        installed, "-c", "import dit_lab; print(dit_lab.__file__, dit_lab.load('mnist').labels)", cwd=tmp_path
    )
    assert told.stdout.startswith(str(installed)) and "'9'" in told.stdout, told.stderr


def test_the_installed_command_counts(installed, tmp_path):
    script = installed / "bin" / "dit_lab"
    told = python(installed, str(script), "count", "DiT-XL/2", cwd=tmp_path)
    assert told.returncode == 0 and "675,129,632" in told.stdout, told.stderr
