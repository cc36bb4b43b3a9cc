"""A loop that is watched in a notebook: the panel is sent all that it shows, and what was seen is kept."""

import copy
import io
import json
import re
from base64 import b64decode
from html import unescape

import pytest
import torch
from PIL import Image

from dit_lab.data import open_data
from dit_lab.models import build, taking
from dit_lab.panels.training import look_steps
from dit_lab.training import TrainOptions, train
from dit_lab.widgets import monitor


@pytest.fixture(scope="module")
def digits():
    return open_data("digits")


@pytest.fixture
def model(digits):
    torch.manual_seed(0)
    return build("DiT-nano/4", depth=2, dim=16, heads=2, **taking(digits))


@pytest.fixture
def cell(monkeypatch):
    """What a cell puts out, in order: data by type, or the widget; what is updated is changed in its place."""
    out, places = [], {}

    def display(what, *, display_id=None, **_):
        places[display_id] = len(out)
        out.append(what)

    def update(what, *, display_id, **_):
        out[places[display_id]] = what

    monkeypatch.setattr("dit_lab.widgets.monitoring.display", display)
    monkeypatch.setattr("dit_lab.widgets.monitoring.update_display", update)
    return out


def kept(page):
    """The states of the panel in a page."""
    inside = unescape(page["text/html"])
    data = json.loads(re.search(r'id="lab-data">(.*?)</script>', inside, re.DOTALL)[1])
    return data["panels"][0]["data"]["states"]


def test_the_librarys_loop_is_seen_while_it_runs_and_kept_when_it_ends(model, digits, cell):
    average, options = copy.deepcopy(model), TrainOptions(steps=12, batch_size=8, precision="fp32", ema_decay=0.9)
    with monitor(average, digits, 12, name="<b>mine</b>", read=lambda x: torch.arange(len(x))) as watching:
        assert cell[:2] == [{"text/plain": ""}] * 2 and watching.widget is cell[2]
        for step in train(model, digits, options, average=average):
            watching(step.mse)
            if step.step == 8:
                live = watching.widget.get_state()
                assert (live["state"]["step"], live["state"]["state"]) == (8, "running")
                assert [look["step"] for look in live["looks"]] == [0, *range(1, 9)]
                assert all(name in live["parts"]["panel"] for name in ("mount", "data-told"))
    still, page, widget = cell
    assert Image.open(io.BytesIO(b64decode(still["image/png"]))).size[0] > 800
    [state] = kept(page)
    assert (state["state"], state["step"], state["name"]) == ("done", 12, "<b>mine</b>")
    assert [look["step"] for look in state["looks"]] == look_steps(12) and state["looks"][0]["read"] == [*range(10)]
    assert f'data-lab-saved="{widget.saved}"' in page["text/html"] and "http" not in re.findall(
        'src="(.*?)"', page["text/html"]
    )
    json.dumps(widget.get_state()["state"], allow_nan=False)


def test_watching_changes_neither_the_weights_nor_anybodys_random_numbers(model, digits, cell):
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    with monitor(model, digits, 3) as watching:
        for _ in range(3):
            watching(torch.tensor(0.5))
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert kept(cell[1])[0]["loss"]["raw"] == [0.5] * 3


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [(None, "stopped", ""), (KeyboardInterrupt(), "stopped", ""), (RuntimeError("no memory"), "failed", "no memory")],
)
def test_a_loop_that_ends_early_is_kept_as_far_as_it_came(error, status, told, model, digits, cell):
    def loop():
        with monitor(model, digits, 5) as watching:
            watching(0.5)
            if error:
                raise error

    if error:
        with pytest.raises(type(error)):
            loop()
    else:
        loop()
    [state] = kept(cell[1])
    assert (state["state"], state["told"], state["step"]) == (status, told, 1) and "image/png" in cell[0]


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ([0.5, float("nan")], "the loss of step 2 is nan: training diverged"),
        ([0.5] * 4, "told of 3 steps, and this is"),
    ],
)
def test_a_loss_that_cannot_be_shown_ends_the_loop_with_a_sentence(losses, words, model, digits, cell):
    with pytest.raises(ValueError, match=words), monitor(model, digits, 3) as watching:
        for loss in losses:
            watching(loss)
    assert words in kept(cell[1])[0]["told"]


def test_the_page_that_is_kept_replays_the_run_without_a_kernel(model, digits, cell, visit, tmp_path):
    with monitor(model, digits, 5) as watching:
        for _ in range(5):
            watching(0.5)
    (path := tmp_path / "page.html").write_text(
        f"<!doctype html><title>page</title><body>{cell[1]['text/html']}</body>"
    )
    page = visit(path.as_uri(), width=340, ready="iframe")
    frame = page.frame_locator("iframe")
    frame.locator("body[data-ready]").wait_for(state="attached")
    frame.get_by_label("Training time").press("Home")
    assert frame.locator("output[data-when]").text_content() == "after step 0"
    assert not frame.locator("[data-start]").is_visible() and not frame.locator("[data-read-told]").is_visible()
    assert "1,498 pictures" in frame.locator("[data-about]").text_content()
