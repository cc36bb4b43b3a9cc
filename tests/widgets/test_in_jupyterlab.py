"""What notebooks show, in JupyterLab with its kernel and without, and as a page with scripts and without.

One notebook holds all: two panels of a run, frames to scrub, and a loop that is watched.
"""

import subprocess
import sys
import time

import pytest
from notebook_host import jupyterlab, run_all
from shared import PATIENCE

CODE = """
import torch
from shared import random_model
from dit_lab.inside import record
from dit_lab.panels import Opened
from dit_lab.widgets import monitor, scrub, show

model = random_model()
opened = Opened(record(model, [1, 5], steps=4, cfg_scale=2.0, seed=3), model)
"""
SCRUBBED = """
frames = {(step, sign): torch.full((1, 8, 8), sign * step / 4) for step in range(5) for sign in (-1, 1)}
scrub(frames, "Grey", along=("step", "sign"), at=(2, 1))
"""
WATCHED = """
import time
from pathlib import Path
from dit_lab.data import open_data
from dit_lab.models import build, taking

digits = open_data("digits")
with monitor(build("DiT-nano/4", depth=1, dim=16, heads=2, **taking(digits)), digits, 2) as watching:
    watching(0.5)
    while not Path("seen").exists():
        time.sleep(0.1)
    watching(0.5)
"""

WHEN = "[data-when]"
# Which of a cell's outputs are seen: the still, the saved page, the widget.
OUTPUTS = """(first) => [...document.querySelectorAll(".jp-OutputArea-child")].slice(first, first + 3).map(
    (node) => node.offsetHeight > 30)"""


def test_in_jupyterlab_it_is_live_and_scrubs_on_without_its_kernel_and_as_a_page(tmp_path, chromium):
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("jupyterlab")
    cells = [CODE, 'show("trajectory", opened, step=1, patch=2)', 'show("trajectory", opened)', SCRUBBED, WATCHED]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path := tmp_path / "nb.ipynb")
    with jupyterlab(tmp_path) as (address, environment):
        view = chromium.new_page(viewport={"width": 1280, "height": 1000})
        view.set_default_timeout(PATIENCE)
        view.goto(address)
        view.wait_for_selector(".jp-Notebook .jp-Cell")
        view.wait_for_selector("[data-status=idle]", state="attached")  # the kernel
        run_all(view)
        told = "document.querySelector('.lab-training [data-told]')?.textContent.startsWith('Run 1{}')"
        view.wait_for_function(told.format(": step 1 of 2"))  # while its cell still runs
        (tmp_path / "seen").touch()
        view.wait_for_function("document.querySelectorAll('.lab-trajectory figure canvas').length === 6")
        view.wait_for_function("document.querySelectorAll('.lab-trajectory-item').length === 12")
        assert view.evaluate(OUTPUTS, 0) == [False, False, True]
        # Widgets of a run move together, and the model answers.
        view.locator(".lab-root [data-go=next]").first.click()
        assert [text[:6] for text in view.locator(f".lab-trajectory {WHEN}").all_text_contents()] == ["step 3"] * 2
        view.locator(".lab-trajectory figure select").nth(2).select_option("guidance")
        view.wait_for_function("document.querySelectorAll('.lab-trajectory .lab-bar')[2].textContent.length > 2")
        live_frames(view)
        view.wait_for_function(told.format(" is done"))
        assert [view.evaluate(OUTPUTS, first) for first in (6, 9)] == [[False, False, True]] * 2
        view.keyboard.press("Control+s")
        deadline = time.monotonic() + 60
        while path.read_text().count("data-lab-saved=") < 4:
            assert time.monotonic() < deadline, "the notebook was not saved"
            view.wait_for_timeout(200)
        view.close()
    # Another server, whose kernel knows nothing of the widget.
    with jupyterlab(tmp_path) as (address, environment):
        view = chromium.new_page(viewport={"width": 1280, "height": 1000})
        view.set_default_timeout(PATIENCE)
        view.goto(address)
        scrubs(view)
        view.wait_for_function("document.body.textContent.includes('model not found')")
        for first in 0, 6, 9:
            view.wait_for_function(f"({OUTPUTS})({first}).join() === 'false,true,false'")
        view.close()
    command = [sys.executable, "-m", "nbconvert", "--to", "html", str(path)]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)
    for scripts in True, False:
        context = chromium.new_context(offline=True, java_script_enabled=scripts)
        view = context.new_page()
        view.goto((tmp_path / "nb.html").as_uri())
        if scripts:
            scrubs(view)
        children = view.locator(".jp-OutputArea-child").all()
        for first in 0, 6, 9:
            seen = [each.is_visible() for each in children[first : first + 3]]
            assert seen == ([False, True, False] if scripts else [True, True, True])
        context.close()


def live_frames(view):
    """A slider swaps the live frames, and says their label."""
    explorer, shown = view.locator(".lab-scrub"), "() => document.querySelector('.lab-scrub img').src"
    assert explorer.locator(".widget-readout").all_text_contents() == ["2", "1"]
    for axis, labels in (0, ["3", "1"]), (1, ["3", "-1"]):
        before = view.evaluate(shown)
        explorer.locator(".noUi-handle").nth(axis).focus()
        view.keyboard.press("ArrowLeft" if axis else "ArrowRight")
        view.wait_for_function(f"({shown})() !== {before!r}")
        assert explorer.locator(".widget-readout").all_text_contents() == labels


def scrubs(view):
    """The saved page of the first panel is drawn and steps on, alone."""
    frame = view.frame_locator("iframe").first
    frame.locator("body[data-ready]").wait_for(state="attached")
    assert frame.locator(WHEN).text_content().startswith("step 2 of 4")
    frame.locator("[data-go=next]").click()
    assert frame.locator(WHEN).text_content().startswith("step 3 of 4")
    view.wait_for_function("document.querySelector('iframe').offsetHeight > 400")
