"""Panels in a notebook: live with a kernel, a page that scrubs without one, a picture where no script runs."""

import io
import json
from base64 import b64decode
from html import unescape
from importlib.util import find_spec

import pytest
from PIL import Image
from shared import random_model

from dit_lab.inside import record
from dit_lab.panels import NAMES, Opened, panel
from dit_lab.widgets import PanelWidget, show


@pytest.fixture(scope="module")
def opened():
    model = random_model()
    return Opened(record(model, [1, 5], steps=4, cfg_scale=2.0, seed=3), model, labels=list("abcde"), source="mine")


@pytest.fixture
def widget(opened):
    """A widget whose answers are kept in `said` instead of sent."""
    made = PanelWidget("trajectory", opened)
    made.said = []
    made.send = lambda content, buffers=None: made.said.append(content)
    yield made
    made.close()


# ---- What the kernel says


def test_the_browser_is_sent_little_and_asks_for_the_rest(widget, opened):
    state = {name: widget.get_state()[name] for name in ("name", "run", "place", "saved", "version")}
    assert len(json.dumps(state)) < 300 and state["run"] == opened.id
    for number, part in enumerate(("lab", "glossary", "panel trajectory", "looks trajectory", "run", "data")):
        widget.asked(widget, {"id": number, "view": "a", "part": part}, [])
        assert widget.said[-1]["answer"] and (widget.said[-1]["id"], widget.said[-1]["view"]) == (number, "a")
    assert widget.said[4]["answer"]["id"] == opened.id and widget.said[5]["answer"]["numbers"]


def test_a_question_is_answered_with_progress_on_the_way(widget):
    widget.asked(widget, {"id": 7, "view": "a", "request": {"sample": 0, "guidance": True}}, [])
    *news, last = widget.said
    assert [each["progress"]["done"] for each in news] == [0, 1, 2, 3] and last["answer"]["norm"]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"id": 1}, "answers no such request"),
        ({"id": 1, "request": []}, "answers no such request"),
        ({"id": 1, "request": {"sample": 99}}, "Sample must be a whole number from 0 to 1"),
        ({"id": 1, "part": "../../etc/passwd"}, "A widget's part must be one of lab,"),
        ({"id": 1, "part": ["lab"]}, "A widget's part must be one of lab,"),
    ],
)
def test_nonsense_from_the_browser_gets_a_sentence(widget, message, words):
    widget.asked(widget, message, [])
    assert words in widget.said[-1]["error"]
    widget.asked(widget, "nonsense", [])
    assert len(widget.said) == 1


def test_a_failure_of_any_kind_reaches_who_asked(widget, monkeypatch):
    monkeypatch.setattr(widget, "answers", lambda message: {}["gone"])
    widget.asked(widget, {"id": 1, "view": "a"}, [])
    assert "gone" in widget.said[-1]["error"]


def test_it_opens_at_a_place_that_is_there(opened):
    shown = show("trajectory", opened, step=2, sample=1, patch=3, head="mean", live=True)
    assert shown.widget.place == {"step": 2, "sample": 1, "patch": 3, "head": "mean"}
    assert set(shown.widget.part("run")["frames"]) == {"0", "1"}
    for wrong, words in (
        ({"step": 4}, "Step must be a whole number from 0 to 3"),
        ({"head": "all"}, "Head must be a whole number"),
        ({"row": 1}, "A place must be one of step, sample"),
        ({"live": "never"}, 'live must be "auto", True or False'),
    ):
        with pytest.raises(ValueError, match=words):
            show("trajectory", opened, **wrong)
    with pytest.raises(ValueError, match="there is no panel"):
        show("nothing", opened)


def outputs(shown, monkeypatch):
    """What a notebook is given: (data by type, or the widget) in order."""
    put = []
    monkeypatch.setattr("dit_lab.widgets.shown.display", lambda what, **_: put.append(what))
    shown._ipython_display_()
    return put


def test_a_notebook_keeps_a_picture_and_a_page_and_shows_a_widget(opened, monkeypatch):
    still, page, live = outputs(show("trajectory", opened, patch=1), monkeypatch)
    assert Image.open(io.BytesIO(b64decode(still["image/png"]))).size[0] > 500
    assert "iframe" in page["text/html"] and isinstance(live, PanelWidget)
    # The page is the live one's, which finds it; nothing in it is fetched.
    assert f'data-lab-saved="{live.saved}"' in page["text/html"]
    inside = unescape(page["text/html"])
    assert '"place":{"patch":1}' in inside and 'src="http' not in inside
    assert [len(outputs(show("trajectory", opened, live=each), monkeypatch)) for each in (True, False)] == [1, 2]


def test_answers_asked_for_are_kept_in_the_page(opened):
    without, within = (show("trajectory", opened, asked=asked, live=False).html for asked in ((), [{"sample": 1}]))
    assert len(within) > len(without) + 1000
    with pytest.raises(ValueError, match="Sample must be"):
        show("trajectory", opened, asked=[{"sample": 9}])


@pytest.mark.parametrize("name", NAMES)
def test_every_panel_has_a_widget_and_a_page(name, opened):
    if find_spec(f"dit_lab.panels.{name}") is None:
        pytest.skip(f"the panel {name} is not built yet")
    shown = show(name, opened)
    assert panel(name).script in shown.widget.part(f"panel {name}") and "iframe" in shown.html
    json.dumps(shown.widget.part("data"), allow_nan=False)
