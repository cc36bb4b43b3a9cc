"""The glossary: every term that a panel speaks of is explained, and the page shows it where a reader asks."""

import json
import re
from types import SimpleNamespace

import pytest
from shared import ROOT
from small_host import hosted, shown

from dit_lab.diffusion import SAMPLERS
from dit_lab.panels.terms import TERMS, glossary_script

PANELS = ROOT / "dit_lab" / "panels"
# The keys of the contract of panels.
AGREED = [
    "x_t", "x0", "eps", "guidance", "null_label", "patch", "token", "attention", "head", "entropy", "rollout",
    "adaln", "adaln_zero", "in_context", "cross_attention", "shift", "scale", "gate", "residual_stream", "lens",
    "contribution", "sink", "control", "snr", "spectrum", "latent", "vae", "ddim", "ddpm", "eta", "macs", "u_dit",
    "downsampling",
]  # fmt: skip


@pytest.mark.parametrize("key", AGREED)
def test_every_agreed_term_is_there(key):
    assert key in TERMS


@pytest.mark.parametrize("key", TERMS)
def test_a_term_is_one_sentence_with_an_equation_and_a_source(key):
    term = TERMS[key]
    assert set(term) == {"term", "text", "equation", "source"} and all(term.values())
    assert term["text"].endswith(".") and not re.search(r"[.!?] [A-Z]", term["text"]) and len(term["text"]) <= 200
    assert not re.search(r"[<>]|\\", "".join(term.values())), "plain words and unicode, no markup"


def test_every_term_that_a_page_marks_is_explained():
    marked = {}
    for path in [*PANELS.rglob("*.js"), *(ROOT / "dit_lab" / "ui").rglob("*.js")]:
        text = re.sub("^//.*$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        for key in re.findall(r'data-term=\\?"([^"\\$]+)', text):
            marked.setdefault(key, path.relative_to(ROOT).as_posix())
    for key in re.findall(r"\{\{(\w+)", (PANELS / "tour" / "steps.json").read_text(encoding="utf-8")):
        marked.setdefault(key, "the tour")
    assert len(marked) > 20
    assert {key: place for key, place in marked.items() if key not in TERMS} == {}


def test_every_sampler_that_a_page_offers_is_explained():
    assert set(SAMPLERS) <= set(TERMS)


def test_the_script_holds_the_terms():
    line = next(line for line in glossary_script().splitlines() if line.startswith("const TERMS = "))
    assert json.loads(line.removeprefix("const TERMS = ").partition("; //")[0]) == TERMS


WORDS = """export function mount({ element }) {
  element.innerHTML = `<section class="lab-card"><p>First <abbr data-term="adaln">adaLN</abbr>.</p>
    <p style="text-align: right">At the edge: <abbr data-term="guidance">guidance</abbr></p>
    <button type="button">A <span data-term="head">head</span></button><p data-more></p></section>`;
  return { update() {
    element.querySelector("[data-more]").innerHTML =
      '<abbr data-term="gate">gate</abbr> <abbr data-term="none">none</abbr>';
  }, destroy() {} };
}"""


@pytest.fixture
def words(visit):
    panel = SimpleNamespace(name="words", script=WORDS, looks="")
    return lambda path, **how: shown(visit, hosted(None, [(panel, None)]), path / "words.html", **how)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_term_is_explained_on_focus_and_on_hover_and_escape_closes(words, tmp_path, scheme):
    page = words(tmp_path, width=390, scheme=scheme)
    page.keyboard.press("Tab")
    tip = page.locator("[role=tooltip]")
    assert TERMS["adaln"]["text"] in tip.inner_text() and TERMS["adaln"]["equation"] in tip.inner_text()
    assert page.evaluate("document.activeElement.getAttribute('aria-describedby')") == tip.get_attribute("id")
    page.keyboard.press("Escape")
    assert tip.count() == 0 and page.locator("[aria-describedby]").count() == 0
    assert page.evaluate("document.activeElement.dataset.term") == "adaln", "the focus stays where it was"
    page.keyboard.press("Tab")
    assert TERMS["guidance"]["text"] in tip.inner_text()
    box = tip.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") == "BUTTON", "a word in a button is reached by the button"
    assert TERMS["head"]["text"] in tip.inner_text()
    page.keyboard.press("Escape")
    page.hover("[data-term=adaln]")
    assert TERMS["adaln"]["text"] in tip.inner_text()
    page.mouse.move(380, 880)
    tip.wait_for(state="detached")
    assert page.broken == []


def test_a_term_that_is_drawn_later_is_explained_and_an_unknown_one_is_left_alone(words, tmp_path):
    page = words(tmp_path)
    page.evaluate("views.words.update()")
    page.wait_for_selector("[data-term=gate][tabindex='0']")
    page.hover("[data-term=gate]")
    assert TERMS["gate"]["text"] in page.locator("[role=tooltip]").inner_text()
    assert page.get_attribute("[data-term=none]", "tabindex") is None
    page.evaluate("document.querySelector('[data-more]').replaceChildren()")
    page.wait_for_selector("[role=tooltip]", state="detached")
    assert page.broken == []
