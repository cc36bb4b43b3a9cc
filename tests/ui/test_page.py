"""The app as a reader meets it: `make app`'s page in headless Chromium, sampled, scrubbed and looked into.

DIT_LAB_SCREENSHOT=1 also writes the README's picture, docs/app.png, and those of docs/app.md.
"""

import os
import re

import pytest
from pages import PANELS, picture, sample, says
from shared import ROOT

import dit_lab


def test_it_opens_on_a_recorded_run_with_a_patch_chosen_and_its_attention_there(opened):
    page = opened()
    assert "class 7, seed 0, 10 steps of UniPC, guidance 2" in page.inner_text("[data-trajectory]")
    page.wait_for_function("document.querySelector('#lab-panel-attention').textContent.includes('row 3, column 3')")
    assert page.evaluate("document.querySelector('[data-sample]').getBoundingClientRect().bottom") < 900
    if os.environ.get("DIT_LAB_SCREENSHOT"):
        page.set_viewport_size({"width": 1440, "height": 1330})
        page.wait_for_timeout(2500)
        page.screenshot(path=ROOT / "docs" / "app.png")


def test_a_scrub_changes_the_pictures_without_asking_anybody_for_them(opened):
    page = opened()
    page.click("[data-panel=anatomy]")
    page.wait_for_timeout(1500)
    before, asked = picture(page), len(page.asked)
    page.focus("[data-trajectory] [data-range]")
    page.keyboard.press("Home")
    assert picture(page) != before and "step 1 of 10" in page.inner_text("[data-trajectory]")
    assert len(page.asked) == asked


def test_sampling_shows_the_run_asked_for_keeps_the_patch_and_is_in_the_address(opened):
    page = opened()
    before = picture(page)
    sample(page, label="3", seed="5", steps="6")
    assert "class 3, seed 5, 6 steps" in page.inner_text("[data-trajectory]") and picture(page) != before
    for said in ("labels=3", "seed=5", "steps=6", "patch=24"):
        assert said in page.url


def test_a_link_opened_elsewhere_restores_run_and_place(opened):
    page = opened()
    sample(page, label="4", seed="9", steps="5")
    page.focus("[data-trajectory] [data-range]")
    page.keyboard.press("Home")
    page.click("[data-panel=whatif]")
    page.wait_for_function("location.hash.includes('panel=whatif') && location.hash.includes('step=0')")
    other = opened(at=re.sub(r"^[^#]*", "", page.url))
    says(other, "Done")
    other.wait_for_function("document.querySelector('[data-trajectory]').textContent.includes('step 1 of 5')")
    assert "class 4, seed 9, 5 steps" in other.inner_text("[data-trajectory]") and picture(other) == picture(page)
    assert other.get_attribute("[data-panel=whatif]", "aria-selected") == "true"


@pytest.mark.parametrize("after", [0, 20, 400])
def test_stop_ends_a_run_whenever_it_is_pressed_and_the_next_one_runs(opened, after):
    page = opened()
    page.fill("[data-name=steps]", "900")
    page.click("[data-sample]")
    page.wait_for_timeout(after)
    page.click("[data-stop]")
    says(page, "Stopped")
    page.wait_for_selector("[data-stop][disabled]")
    sample(page, steps="4")
    assert "4 steps" in page.inner_text("[data-trajectory]")


def test_sample_during_a_run_stops_it_and_makes_the_new_one(opened):
    page = opened()
    page.fill("[data-name=steps]", "900")
    page.click("[data-sample]")
    says(page, "Sampling")
    sample(page, steps="3", label="2")
    assert "class 2, seed 0, 3 steps" in page.inner_text("[data-trajectory]")


@pytest.mark.parametrize("name", PANELS)
def test_every_panel_draws_the_run_and_breaks_nothing(opened, name):
    page = opened()
    page.click(f"[data-panel={name}]")
    page.wait_for_function(f"document.querySelector('#lab-panel-{name} .lab-card')?.innerText.length > 60")
    page.wait_for_timeout(500)
    assert page.inner_text("[data-alert] span") == ""
    if os.environ.get("DIT_LAB_SCREENSHOT"):
        if name in ("whatif", "compare"):
            page.click(f"#lab-panel-{name} .lab-main")
            page.wait_for_timeout(4000)
        if name == "training":
            page.click("#lab-panel-training [data-start]")
            page.wait_for_function(
                "document.querySelector('#lab-panel-training [data-told]').textContent.includes('done')"
            )
        page.set_viewport_size({"width": 1280, "height": 2200})
        page.wait_for_timeout(2500)
        page.locator(f"#lab-panel-{name} .lab-card").first.screenshot(path=ROOT / "docs" / "app" / f"{name}.png")


@pytest.mark.parametrize("name", ["whatif", "compare"])
def test_a_question_that_takes_samplings_is_answered_with_pictures(opened, name):
    page = opened()
    page.click(f"[data-panel={name}]")
    page.wait_for_selector(f"#lab-panel-{name} .lab-main")
    page.fill("[data-name=steps]", "12")
    drawn = f"[...document.querySelectorAll('#lab-panel-{name} canvas')].filter(each => each.width > 8).length"
    before = page.evaluate(drawn)
    page.click(f"#lab-panel-{name} .lab-main")
    page.wait_for_function(f"{drawn} > {before + 2}")


def test_another_checkpoint_is_shown_by_its_recorded_run(opened):
    page = opened()
    page.select_option("[data-checkpoint]", "mnist_udit")
    page.wait_for_function("document.querySelector('[data-facts]').textContent.includes('U-DiT')")
    page.wait_for_function("location.hash.includes('checkpoint=mnist_udit')")
    assert "10 steps" in page.inner_text("[data-trajectory]")


def test_what_makes_no_sense_is_said_and_what_was_shown_stays(opened):
    page = opened()
    before = picture(page)
    page.fill("[data-name=seed]", "minus one")
    page.click("[data-sample]")
    page.wait_for_selector("[data-alert]:not([hidden])")
    assert "Seed must be a whole number" in page.inner_text("[data-alert]") and picture(page) == before


def test_the_python_that_is_shown_makes_the_picture_that_is_shown(opened):
    page = opened()
    page.click("[data-act=python]")
    page.wait_for_selector("dialog[open]")
    names = {}
    exec(page.inner_text("dialog code"), names)
    shown = dit_lab.Trajectory.load(ROOT / "dit_lab" / "zoo" / "mnist" / "run.safetensors")
    assert (names["run"].sample - shown.sample).abs().mean() < 1e-3


def test_the_tour_goes_through_its_steps_and_shows_the_panels_it_speaks_of(opened):
    page = opened()
    page.click("[data-act=tour]")
    for _ in range(13):
        page.get_by_role("button", name="Next").click()
    assert "step 14 of 14" in page.inner_text("[data-tour]")
    assert page.get_attribute("[data-panel=compare]", "aria-selected") == "true"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 820, 1280, 1920])
def test_nothing_reaches_out_of_the_page(opened, width, scheme):
    page = opened(width=width, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_gradios_own_looks_do_not_show_through_those_of_the_panels(opened):
    page = opened()
    page.click("[data-panel=anatomy]")
    card, box = "#lab-panel-anatomy .lab-card", "#lab-panel-anatomy .lab-anatomy-side .lab-anatomy-box"
    page.wait_for_selector(box)
    behind = "node => getComputedStyle(node).backgroundColor"  # of a box, or lines would run through its words
    assert page.eval_on_selector(box, behind) == page.eval_on_selector(card, behind)
    ticks = page.eval_on_selector_all(
        ".lab-app input[type=checkbox]", "all => all.map(x => getComputedStyle(x).appearance)"
    )
    assert ticks and set(ticks) == {"auto"}


def test_space_plays_and_arrows_step(opened):
    page = opened()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("document.querySelector('[data-trajectory]').textContent.includes('step 6 of 10')")
    page.keyboard.press("Space")
    page.wait_for_function("document.querySelector('[data-trajectory]').textContent.includes('step 10 of 10')")


def test_a_model_that_is_trained_in_the_page_is_kept_and_every_panel_opens_it(opened):
    page = opened()
    page.click("[data-panel=training]")
    page.wait_for_selector("#lab-panel-training [data-name=steps]")
    page.wait_for_function("document.querySelector('#lab-panel-training [data-name=steps]').value === '600'")
    page.fill("#lab-panel-training [data-name=steps]", "20")
    page.click("#lab-panel-training [data-start]")
    told = "document.querySelector('#lab-panel-training [data-told]').textContent"
    page.wait_for_function(f"{told}.includes('is done: 20 steps')")
    page.fill("#lab-panel-training [data-keep-name]", "mine")
    page.click("#lab-panel-training [data-keep]")
    page.wait_for_selector("[data-checkpoint] option[value=mine]", state="attached")
    page.select_option("[data-checkpoint]", "mine")
    says(page, "Done")
    assert "8 × 8 picture" in page.inner_text("[data-facts]")
    page.click("[data-panel=attention]")
    page.wait_for_function("document.querySelector('#lab-panel-attention').textContent.includes('4 × 4')")
