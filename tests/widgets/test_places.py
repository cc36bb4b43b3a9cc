"""Where widgets of one run open in a page: at the place that was asked for, whichever of them is there first."""

import pytest
from shared import random_model

from dit_lab.inside import record
from dit_lab.panels import Opened
from dit_lab.widgets import PanelWidget

PARTS = "lab", "glossary", "panel trajectory", "looks trajectory", "run", "data"
# A widget of the page as JupyterLab has it, whose kernel takes its time to answer.
HOST = """async ({ script, parts }) => {
    const { default: widget } = await import(URL.createObjectURL(new Blob([script], { type: "text/javascript" })));
    window.put = (saved, place, wait) => {
        const listeners = new Set(), given = { name: "trajectory", run: "one", version: "1", saved, place };
        const answer = ({ id, view, part }) => listeners.forEach((hear) => hear({ id, view, answer: parts[part] }));
        const model = {
            get: (name) => given[name], send: (question) => setTimeout(answer, wait, question),
            on: (_, hear) => listeners.add(hear), off: (_, hear) => listeners.delete(hear),
        };
        widget.render({ model, el: document.body.appendChild(document.createElement("div")) });
    };
}"""
SHOWN = "[...document.querySelectorAll('[data-when]')].map((node) => node.textContent.slice(0, 6)).join()"


@pytest.fixture
def view(chromium):
    """A page with no widget yet: `put(saved, place, milliseconds)` puts one there."""
    model = random_model()
    made = PanelWidget("trajectory", Opened(record(model, [1], steps=4, seed=3), model))
    said = {}
    made.send = lambda content, buffers=None: said.update({content["id"]: content["answer"]})
    for part in PARTS:
        made.asked(made, {"id": part, "view": "a", "part": part}, [])
    page = chromium.new_page()
    page.evaluate(HOST, {"script": PanelWidget._esm, "parts": said})
    yield page
    page.close()
    made.close()


def test_a_place_asked_for_is_opened_at_however_late_its_widget_is(view):
    view.evaluate("put('soon', {}, 0), put('late', { step: 1 }, 400)")
    view.wait_for_function(f"{SHOWN} === 'step 4'")
    view.wait_for_function(f"{SHOWN} === 'step 2,step 2'")


def test_a_later_widgets_place_is_where_all_are_and_one_drawn_again_moves_none(view):
    view.evaluate("put('first', { step: 1 }, 0)")
    view.wait_for_function(f"{SHOWN} === 'step 2'")
    view.evaluate("put('second', { step: 2 }, 0)")
    view.wait_for_function(f"{SHOWN} === 'step 3,step 3'")
    view.evaluate("put('first', { step: 1 }, 0)")
    view.wait_for_function(f"{SHOWN} === 'step 3,step 3,step 3'")
