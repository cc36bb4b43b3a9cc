"""The guided tour: what it says of the opening run is so, and it drives the page to what it speaks of."""

import json
import re
from functools import partial

import pytest
import torch
from einops import rearrange
from scipy.ndimage import label as connected
from shared import ROOT
from small_host import cut_off, hosted, shown

from dit_lab.checkpoints import load
from dit_lab.inside import Scale, Trajectory, attention_numbers, guidance_field, signal_to_noise
from dit_lab.models import BLOCKS
from dit_lab.panels import NAMES, Opened
from dit_lab.panels.anatomy import PANEL as ANATOMY
from dit_lab.panels.tour import PANEL, steps

TOUR = steps()
SETS = {"step", "sample", "patch", "block", "head", "half", "part"}
KNOWS = {"opening", "block", "classes", "stages"}
SIDES = {"left": (0, -1), "up": (-1, 0), "right": (0, 1), "down": (1, 0)}


@pytest.fixture(scope="module")
def loaded():
    return load("mnist")


@pytest.fixture(scope="module")
def run():
    """The run that the app opens with."""
    return Trajectory.load(ROOT / "dit_lab" / "zoo" / "mnist" / "run.safetensors")


def told(title: str) -> tuple[str, dict]:
    """What a step says of the run that the app opens with, its terms as words, and where it goes."""
    texts = next(step["texts"] for step in TOUR["steps"] if step["title"] == title)
    (text,) = (text for text in texts if text.get("when") == {"opening": True})
    return re.sub(r"\{\{(?:\w+\|)?(.*?)\}\}", r"\1", text["text"]), text["place"]


def alike(a, b) -> float:
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()


def size(x) -> float:
    return x.square().mean().sqrt().item()


def test_the_tour_is_short_and_its_steps_are_whole():
    assert 12 <= len(TOUR["steps"]) <= 14
    assert PANEL.data(None) is steps() and json.loads(json.dumps(TOUR)) == TOUR
    for step in TOUR["steps"]:
        assert len(step["title"]) <= 40 and step["texts"]
        *others, last = step["texts"]
        assert "when" not in last and all(text["when"] for text in others), "the last text fits any run"
        for text in step["texts"]:
            assert text.get("panel", step["panel"]) in NAMES
            assert set(text["place"]) <= SETS and set(text.get("when", {})) <= KNOWS
            assert text["text"].endswith(".") and len(text["text"]) <= 520, step["title"]
            assert set(text.get("when", {}).get("block", [])) <= BLOCKS.keys()


def test_each_block_is_told_how_the_condition_comes_in():
    step = next(step for step in TOUR["steps"] if step["title"] == "How that comes in")
    assert {name for text in step["texts"] for name in text.get("when", {}).get("block", [])} == set(BLOCKS) & {
        "adaln_zero", "adaln", "in_context", "cross_attention",
    }  # fmt: skip


def test_the_run_that_it_speaks_of_is_the_one_that_the_app_opens_with(run, loaded):
    opened = Opened(run, loaded.model, labels=loaded.labels, source="mnist").run()
    opening = TOUR["opening"]
    assert {name: opened[name] for name in ("source", "labelNumbers")} == {
        name: opening[name] for name in ("source", "labelNumbers")
    }
    assert {name: opened["options"][name] for name in opening["options"]} == opening["options"]
    text, place = told("A picture out of noise")
    assert f"This 7 took {len(run.t)} steps, from t = {run.t[0]} to t = {run.t[-1]}." in text and place["step"] == 0


def test_the_digit_is_known_before_it_is_seen(run):
    text, place = told("What it sees in the noise")
    step, final = place["step"], run.sample[0]
    assert f"At step {step + 1} of {len(run.t)} that has a correlation of {alike(run.x0[step, 0], final):.2f}" in text
    assert f"while x_t itself has {alike(run.x[step, 0], final):.2f}" in text


def test_how_many_steps_are_mostly_noise(run):
    text, place = told("How much of it is noise")
    snr, step = signal_to_noise(run).tolist(), place["step"]
    assert f"it is {snr[step]:.2f} at step {step + 1} and {snr[step + 1]:.1f} at step {step + 2}" in text
    assert f"in {sum(ratio < 1 for ratio in snr)} of {len(snr)} steps there is more noise" in text


def test_the_widest_gates(run, loaded):
    text, place = told("Gates that were shut")
    norms = run.modulation_norms(loaded.model)
    widest = max(norms[part].max().item() for part in ("gate_attn", "gate_mlp"))
    step, block = place["step"], place["block"]
    assert norms["gate_mlp"][block, step].item() == widest
    assert f"block {block}'s MLP: {widest:.2f} at step {step + 1}" in text
    assert f"its attention's is {norms['gate_attn'][block, step]:.2f} there" in text


def neighbours(run, model, step, block) -> list[float]:
    """What each head gives on average to the neighbour that it is said to look at, where there is one."""
    maps = rearrange(run.attention(model, step, block=block), "head (r c) (row col) -> head r c row col", c=7, col=7)
    shares = []
    for head, (down, right) in enumerate(SIDES.values()):
        inside = [(r, c) for r in range(7) for c in range(7) if 0 <= r + down < 7 and 0 <= c + right < 7]
        shares.append(sum(maps[head, r, c, r + down, c + right].item() for r, c in inside) / len(inside))
    return shares


def test_one_patch_looks_left(run, loaded):
    text, place = told("Where a patch looks")
    step, block, head, patch = (place[name] for name in ("step", "block", "head", "patch"))
    row = run.attention(loaded.model, step, block=block, head=head, queries=[patch]).flatten()
    assert row.argmax() == patch - 1 and row.max() > 0.99 and "more than 99 % to the patch left" in text
    assert patch == 24 and run.grid == (7, 7), "the one in the middle"
    share = neighbours(run, loaded.model, step, block)[head]
    assert f"it is {100 * share:.0f} % on average; an even head would give {100 / 49:.0f} %" in text


def test_four_heads_look_at_four_neighbours(run, loaded):
    text, place = told("Four heads, four neighbours")
    shares = [f"{100 * share:.0f}" for share in neighbours(run, loaded.model, place["step"], place["block"])]
    assert (
        f"Head 0 looks left, head 1 up ({shares[1]} %), head 2 right ({shares[2]} %), head 3 down ({shares[3]} %)"
        in text
    )
    first = [f"{100 * share:.0f}" for share in neighbours(run, loaded.model, 0, place["block"])]
    assert f"only {first[0]}, {first[1]}, {first[2]} and {first[3]} %" in text
    # And no other block has all four.
    others = [neighbours(run, loaded.model, place["step"], block) for block in range(6) if block != place["block"]]
    assert all(min(each) < 0.2 for each in others)
    numbers = attention_numbers(run, loaded.model, steps=[place["step"]]).entropy.mean(dim=(1, 2))
    assert numbers.argmin() == place["block"], "and it is the sharpest block"


def test_where_the_label_matters_most(run, loaded):
    text, place = told("With the label and without")
    field = guidance_field(run, loaded.model)
    assert field.norm.argmax() == place["step"] and run.options["cfg_scale"] == 2
    assert f"largest at step {place['step'] + 1} (t = {run.t[place['step']]})" in text
    assert f"{field.angle.min():.0f} to {field.angle.max():.0f} degrees" in text


def test_the_picture_comes_in_with_block_2(run, loaded):
    text, place = told("The picture, block by block")
    step, block = place["step"], place["block"]
    seen = [alike(x0, run.x0[step, 0]) for x0 in run.lens(loaded.model, step)]
    before, after = (f"{seen[number]:.2f}".replace("-", "−") for number in (block - 1, block))
    assert f"At step {step + 1} what is read after block {block - 1} has a correlation of {before}" in text
    assert f"after block {block} of {after}" in text
    assert max(range(1, 6), key=lambda number: seen[number] - seen[number - 1]) == block, "no block changes more"


def largest(run, model, step) -> tuple[str, float]:
    """The head or MLP that gave most to predicted x0."""
    given = run.contributions(model, step)
    parts = {str(part): size(x0) for part, x0 in zip(given.parts, given.x0, strict=True) if part.block is not None}
    return max(parts.items(), key=lambda item: item[1])


def test_which_part_gave_most(run, loaded):
    text, place = told("What made it")
    name, most = largest(run, loaded.model, place["step"])
    assert name == "block 4 MLP" and f"x₀ at step {place['step'] + 1}: {most:.2f} (root mean square)" in text
    name, most = largest(run, loaded.model, len(run.t) - 1)
    assert name == "block 2 MLP" and f"At the last step it is that of block 2, with {most:.2f}" in text


def test_what_is_lost_without_a_blocks_attention(run, loaded):
    text, _ = told("What if it were gone?")
    off = [run.edited(loaded.model, Scale(block, "attn", 0)).sample for block in range(6)]
    pieces = [connected((each[0, 0] > 0).numpy(), structure=[[1] * 3] * 3)[1] for each in (run.sample, *off)]
    assert pieces[0] == 1 and f"of block 2 the stroke of this 7 falls into {pieces[3]} pieces" in text
    assert {*pieces[1:3], *pieces[4:]} == {1}, "without that of any other block it stays in 1"
    moved = [size(each - run.sample) for each in off]
    assert moved[0] == max(moved) and f"block 0's ({moved[0]:.2f} against {moved[2]:.2f}, root mean square)" in text


# ---- In the browser


@pytest.fixture
def browser(visit):
    return partial(shown, visit)


@pytest.fixture(scope="module")
def opened(run, loaded):
    return Opened(run, loaded.model, labels=loaded.labels, source="mnist")


def test_next_goes_through_all_steps_and_sets_the_page(browser, opened, tmp_path):
    page = browser(hosted(opened.run(), [(PANEL, steps())]), tmp_path / "tour.html")
    places = []
    for number, step in enumerate(TOUR["steps"]):
        page.wait_for_function(
            "title => document.querySelector('[data-title]').textContent === title", arg=step["title"]
        )
        assert page.text_content("[data-count]") == f"step {number + 1} of {len(TOUR['steps'])}"
        expected, place = (
            told(step["title"]) if {"opening": True} in [text.get("when") for text in step["texts"]] else (None, {})
        )
        if expected:
            assert page.text_content("[data-text]") == expected
        page.wait_for_timeout(30)
        there = page.evaluate(
            "({ step: lab.step, patch: lab.patch, block: lab.block, head: lab.head, part: lab.part })"
        )
        assert {name: there[name] for name in place if name in there} == {n: v for n, v in place.items() if n in there}
        assert "…" not in page.text_content("[data-text]") and "{" not in page.text_content("[data-text]")
        places.append(there)
        page.click("[data-next]")
    assert page.is_hidden("[aria-label='Guided tour']"), "Done closes it"
    assert page.evaluate("shown") == [step["panel"] for step in TOUR["steps"]]
    assert len({json.dumps(place) for place in places}) > 8 and page.broken == []


def test_back_dots_and_close_work_by_keyboard_and_an_explained_word_is_at_hand(browser, opened, tmp_path):
    panels = [(PANEL, steps()), (ANATOMY, ANATOMY.data(opened))]
    page = browser(hosted(opened.run(), panels), tmp_path / "tour.html")
    assert page.is_disabled("[data-back]")
    page.get_by_role("button", name="Step 4: A picture becomes tokens").press("Enter")
    page.wait_for_selector("#lab-panel-anatomy.lab-tour-lit [data-name=patchify].lab-anatomy-lit")
    page.get_by_role("button", name="Step 9: Four heads, four neighbours").press("Enter")
    assert page.text_content("[data-title]") == "Four heads, four neighbours"
    assert page.locator("[aria-current=step]").count() == 1
    page.press("[data-back]", "Enter")
    assert page.text_content("[data-title]") == "Where a patch looks"
    page.hover("[data-term=attention]")
    assert "Each token looks at the others" in page.locator("[role=tooltip]").inner_text()
    page.press("[data-close]", "Enter")
    assert page.is_hidden("[data-text]") and page.locator(".lab-tour-lit").count() == 0 and page.broken == []


@pytest.mark.parametrize(
    ("name", "titles", "words"),
    [
        (
            "mnist_cross_attention",
            13,
            {"How that comes in": "cross-attention", "A picture becomes tokens": "4 × 4 patches"},
        ),
        ("mnist_in_context", 13, {"How that comes in": "in-context conditioning"}),
        ("mnist_udit", 14, {"A picture becomes tokens": "16 × 16 tokens"}),
        (None, 12, {"A picture out of noise": "Everything begins"}),
    ],
)
def test_other_models_and_none_get_words_of_their_own(browser, tmp_path, name, titles, words):
    run = None
    if name:
        there = load(name)
        saved = Trajectory.load(ROOT / "dit_lab" / "zoo" / name / "run.safetensors")
        run = Opened(saved, there.model, labels=there.labels, source=name).run()
    page = browser(hosted(run, [(PANEL, steps())]), tmp_path / "tour.html")
    seen = {}
    for number in range(page.locator("[data-dots] button").count()):
        page.locator("[data-dots] button").nth(number).click()
        seen[page.text_content("[data-title]")] = page.text_content("[data-text]")
        assert "{" not in page.text_content("[data-text]")
        if run:
            page.wait_for_timeout(20)
            assert page.evaluate("lab.step < lab.run.t.length && lab.block < lab.run.depth")
            assert page.evaluate("lab.patch === null || lab.patch < lab.run.grid[0] * lab.run.grid[1]")
    assert len(seen) == titles and page.broken == []
    for title, word in words.items():
        assert word in seen[title]
    assert not any("This 7" in text or "of this 7" in text for text in seen.values())


def test_another_run_of_the_same_model_is_told_no_numbers_of_the_first(browser, opened, tmp_path):
    other = opened.run() | {"id": "other", "labelNumbers": [3]}
    page = browser(hosted(opened.run(), [(PANEL, steps())]), tmp_path / "tour.html")
    assert "This 7 took" in page.text_content("[data-text]")
    page.evaluate("run => lab.open(run)", other)
    page.wait_for_function("!document.querySelector('[data-text]').textContent.includes('This 7')")


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_of_the_tour_is_cut_off(browser, opened, tmp_path, width, scheme):
    page = browser(hosted(opened.run(), [(PANEL, steps())]), tmp_path / "tour.html", width=width, scheme=scheme)
    for number in range(len(TOUR["steps"])):
        page.locator("[data-dots] button").nth(number).click()
        assert cut_off(page) == []
