"""Frames that were made before: live they are linked in the browser, a page scrubs them without a kernel."""

import io
from html import unescape

import ipywidgets
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from dit_lab.widgets import scrub

GREY = {step: np.full((8, 8), step / 4) for step in range(5)}


def pictures(explorer):
    """The frames of the live view, in order, as arrays."""
    found = []

    def walk(widget):
        if isinstance(widget, ipywidgets.Image):
            found.append(np.asarray(Image.open(io.BytesIO(widget.value)).convert("RGB")))
        for child in getattr(widget, "children", ()):
            walk(child)

    walk(explorer)
    return found


@pytest.mark.parametrize(
    ("frame", "colour"),
    [
        (np.full((8, 8), 0.2), (51, 51, 51)),
        (np.full((8, 8), 51, np.uint8), (51, 51, 51)),
        (np.tile([1.0, 0.0, 0.2], (8, 8, 1)), (255, 0, 51)),
        (torch.full((1, 8, 8), -0.6), (51, 51, 51)),
        (torch.tensor([1.0, -1.0, -0.6]).reshape(3, 1, 1).expand(3, 8, 8), (255, 0, 51)),
    ],
)
def test_arrays_and_tensors_become_the_colours_that_they_mean(frame, colour):
    [shown] = pictures(scrub({0: frame}, "One").widget)
    assert shown.shape == (320, 320, 3) and (shown == colour).all()


def test_small_pictures_are_enlarged_pixel_by_pixel_and_large_ones_are_not():
    random = np.random.default_rng(0).random((28, 56))
    for times, frame in (10, random), (1, np.tile(random, (12, 6))):
        [shown] = pictures(scrub({0: frame}, "One").widget)
        assert shown.shape[:2] == tuple(times * side for side in frame.shape)
        assert (shown[::times, ::times, 0] == (frame * 255).round()).all()


def test_figures_are_closed_so_that_none_is_shown_twice():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    before, own = pyplot.get_fignums(), pyplot.figure(figsize=(3, 2))
    shown = pictures(scrub({0: own, 1: Figure(figsize=(3, 2))}, "Two").widget)
    assert pyplot.get_fignums() == before and [each.shape for each in shown] == [(220, 330, 3)] * 2


def test_it_opens_at_a_label_which_the_still_and_the_page_say():
    shown = scrub(GREY, "Five <greys>", at=1)
    slider = shown.widget.children[1].children[0]
    assert (slider.label, shown.widget.children[-1].selected_index) == ("1", 1)
    assert '"place":[1]' in unescape(shown.html) and "Five &lt;greys&gt;" in unescape(shown.html)
    still = np.asarray(Image.open(io.BytesIO(shown.png)).convert("RGB"))
    assert (still[60:300, 20:300] == 64).all()
    assert scrub(GREY, "Five").widget.children[-1].selected_index == 4


def test_frames_may_come_in_any_order_of_their_combinations():
    frames = {
        (step, name): np.full((8, 8), (10 * step + shade) / 51)
        for name, shade in (("a", 0), ("b", 1))
        for step in range(3)
    }
    shown = scrub(frames, "Two axes", along=("step", "name"))
    assert [picture[0, 0, 0] / 5 for picture in pictures(shown.widget)] == [0, 1, 10, 11, 20, 21]


def test_labels_that_are_spelt_alike_keep_their_frames():
    assert len(pictures(scrub({0.123451: GREY[0], 0.123452: GREY[1]}, "Two", along="t").widget)) == 2


@pytest.mark.parametrize(
    ("frames", "more", "words"),
    [
        ({}, {}, "frames by label, such as"),
        ([GREY[0]], {}, "frames by label, such as"),
        (GREY, {"at": 9}, "no frame at step 9; step is one of 0, 1, 2, 3, 4"),
        (GREY, {"at": (1, 2)}, "no frame at"),
        (GREY, {"along": ("step", "name")}, "must have 2 parts, step, name"),
        ({(0, "a"): GREY[0], (1, "b"): GREY[1]}, {"along": ("step", "name")}, "no frame at step 0, name b.*2 of 4"),
        (GREY | {5: np.zeros((8, 9))}, {}, "of one size: at step 0 it is 8 x 8 pixels.*at step 5 it is 9 x 8"),
        ({0: "picture"}, {}, "the frame at step 0 must be a Matplotlib figure.*not a str"),
        ({0: np.zeros((3, 8, 8))}, {}, r"not a ndarray of shape \(3, 8, 8\)"),
    ],
)
def test_what_cannot_be_scrubbed_gets_a_sentence(frames, more, words):
    with pytest.raises(ValueError, match=words):
        scrub(frames, "None", **more)


@pytest.mark.parametrize("width", [900, 340])
def test_the_page_scrubs_by_keyboard_without_a_kernel(width, visit, tmp_path):
    frames = {(step, name): np.full((8, 8), step / 4) for step in range(5) for name in ("a", "a longer name")}
    shown = scrub(frames, "Two axes", along=("step", "name"), at=(1, "a"))
    (path := tmp_path / "page.html").write_text(f"<!doctype html><title>page</title><body>{shown.html}</body>")
    page = visit(path.as_uri(), width=width, scheme="dark", ready="iframe")
    frame = page.frame_locator("iframe")
    frame.locator("body.lab-dark[data-ready]").wait_for()
    image, step = frame.locator("img"), frame.get_by_label("step", exact=True)
    before = image.get_attribute("src")
    step.press("ArrowRight")
    assert image.get_attribute("src") != before and image.get_attribute("alt") == "step 2, name a"
    frame.get_by_label("name", exact=True).press("End")
    assert frame.locator("output").all_text_contents() == ["2", "a longer name"]
    assert step.get_attribute("aria-valuetext") == "2"
    frame.get_by_role("button", name="Play").click()
    frame.locator('img[alt="step 4, name a longer name"]').wait_for()
    frame.get_by_role("button", name="Play").wait_for()
    inside = page.frames[1].evaluate(
        "[document.documentElement.scrollWidth, innerWidth, innerHeight, document.querySelector('main').offsetHeight]"
    )
    assert inside[0] <= inside[1] and inside[2] >= inside[3]
    assert not [asked for asked in page.asked if asked.startswith("http")]
