"""The app as a reader meets it: `make app`'s page in headless Chromium, sampled, scrubbed and looked into.

DIT_LAB_SCREENSHOT=1 also writes the README's picture, docs/app.png.
"""

import os
import shutil
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest
from shared import ROOT, stirred

from dit_lab.checkpoints import save, zoo

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")

QUIET = ("no-first-run", "disable-background-networking", "disable-component-update", "disable-sync")
FLAGS = [f"--{flag}" for flag in ("no-sandbox", "disable-gpu", *QUIET)]
# Bounded, and wide enough for a machine with other work to do.
PATIENCE = 120_000


@contextmanager
def serving(*options):
    """The address of the app, started as `make app` does, on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-u", "app.py", "--port", str(port), *map(str, options)], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        lines = []
        while not (lines and "Running on" in lines[-1]):
            lines.append(process.stdout.readline())
            assert lines[-1], f"app.py stopped: {''.join(lines)}"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def address():
    """The app with the checkpoint that it opens by itself."""
    with serving() as url:
        yield url


@pytest.fixture(scope="module")
def u_dit(tmp_path_factory):
    """The app on a small U-DiT for 16 x 24 pixels: 16 x 24, 8 x 12 and 4 x 6 tokens."""
    model = stirred("U-DiT-tiny", in_channels=1, num_classes=10, input_size=(16, 24))
    labels = [str(digit) for digit in range(10)]
    folder = save(tmp_path_factory.mktemp("zoo") / "u-dit", model, labels=labels, codec_hint="pixels")
    with serving("--checkpoint", folder) as url:
        yield url


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser, request):
    """Open the page at a width; whatever it asks for is kept in `page.asked`, errors in its script in `page.broken`."""
    pages = []

    def open_page(width=1440, height=1000, scheme="light", server="address"):
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        pages.append(page)
        page.set_default_timeout(PATIENCE)
        page.asked, page.broken = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("pageerror", lambda error: page.broken.append(str(error)))
        page.on("console", lambda message: message.type == "error" and page.broken.append(message.text))
        page.goto(request.getfixturevalue(server))
        page.wait_for_selector("[data-overlay]", state="attached")
        return page

    yield open_page
    for page in pages:
        page.close()


def pixels(page, selector):
    """What a canvas shows, as a data URI."""
    return page.eval_on_selector(selector, "canvas => canvas.toDataURL()")


def sample(page, seed="3"):
    """Choose a 7, press Sample, and wait for the first preview and the finished run."""
    page.get_by_label("Class").click()
    page.get_by_role("option", name="7", exact=True).click()
    page.fill("#seed textarea, #seed input", seed)
    page.click("#sample")
    page.wait_for_selector(".lab-busy")
    wait_for_title(page, f"class 7, seed {seed},")


def wait_for_title(page, text):
    """Wait until no run is under way and the one that is shown says `text`."""
    page.wait_for_function(f"text => !document.querySelector('.lab-busy') && {TITLE}.includes(text)", arg=text)


TITLE = "document.querySelector('[data-title]').textContent"
X0 = "figure[data-kind=x0] canvas"


def look(page, patch=(0.4, 0.4), figure="x0"):
    """Click a patch, and wait for its attention to be drawn."""
    before = pixels(page, "[data-overlay]")
    box = page.locator(f"figure[data-kind={figure}] .lab-picture").bounding_box()
    page.locator(f"figure[data-kind={figure}] .lab-picture").click(
        position={"x": patch[0] * box["width"], "y": patch[1] * box["height"]}
    )
    page.wait_for_function("before => document.querySelector('[data-overlay]').toDataURL() !== before", arg=before)


def scrub(page, step):
    page.eval_on_selector(
        "[data-range]", "(bar, step) => { bar.value = step; bar.dispatchEvent(new Event('input')); }", step
    )


def test_sample_a_seven_scrub_and_look_where_a_patch_attends(opened):
    page = opened()
    sample(page)
    assert page.text_content("[data-when]") == "step 50 of 50, t = 0"

    page.wait_for_timeout(500)
    asked, seen = len(page.asked), set()
    for step in (0, 10, 25, 40, 48):
        scrub(page, step)
        assert page.text_content("[data-when]").startswith(f"step {step + 1} of 50, t = ")
        seen.add(pixels(page, X0))
    page.locator("body").press("ArrowRight")
    assert page.text_content("[data-when]").startswith("step 50 of 50")
    page.locator("body").press("ArrowLeft")
    page.wait_for_timeout(300)
    assert len(seen) == 5, "every step has a picture of its own"
    assert len(page.asked) == asked, "scrubbing asked the server for something"

    scrub(page, 30)
    look(page)
    assert "step 31 of 50" in page.text_content("[aria-label=Attention] [data-what]")
    asked, maps = len(page.asked), {pixels(page, "[data-overlay]")}
    page.select_option("[data-block]", "3")
    maps.add(pixels(page, "[data-overlay]"))
    page.select_option("[data-head]", "1")
    maps.add(pixels(page, "[data-overlay]"))
    page.locator("[data-grid] button").nth(3).click()
    maps.add(pixels(page, "[data-overlay]"))
    assert page.input_value("[data-head]") == "2"
    assert len(maps) == 4, "every block and head has a map of its own"
    assert len(page.asked) == asked, "choosing a block or head asked the server for something"

    look(page, (0.7, 0.2), figure="x")
    scrub(page, 10)
    before = pixels(page, "[data-overlay]")
    page.click("[data-update]")
    page.wait_for_function("before => document.querySelector('[data-overlay]').toDataURL() !== before", arg=before)
    assert "step 11 of 50" in page.text_content("[aria-label=Attention] [data-what]")
    assert page.broken == []


def test_the_modulation_map_follows_the_bar_and_moves_it(opened):
    page = opened()
    sample(page, seed="4")
    scrub(page, 0)
    left = page.locator("[data-marker]").bounding_box()["x"]
    scrub(page, 40)
    assert page.locator("[data-marker]").bounding_box()["x"] > left + 100
    before = pixels(page, "[data-map]")
    page.select_option("[data-part]", "shift_mlp")
    assert pixels(page, "[data-map]") != before
    page.click("[data-map]", position={"x": 2, "y": 10})
    assert page.text_content("[data-when]").startswith("step 1 of 50")


def test_a_bad_seed_is_a_message_and_the_next_run_works(opened):
    page = opened()
    page.fill("#seed textarea, #seed input", "seven")
    page.click("#sample")
    page.get_by_text("Seed must be a whole number").wait_for()
    sample(page, seed="11")


@pytest.mark.parametrize("field, bad, good", [("steps", "0", "50"), ("guidance", "-3", "2")])
def test_a_number_out_of_range_is_a_message_and_the_next_run_works(opened, field, bad, good):
    page = opened()
    page.fill(f"#{field} input", bad)
    page.click("#sample")
    page.get_by_text("must be a").wait_for()
    page.fill(f"#{field} input", good)
    sample(page, seed="12")


def test_stop_brings_the_last_run_back_and_the_next_run_works(opened):
    page = opened()
    sample(page, seed="13")
    page.fill("#steps input", "1000")
    page.click("#sample")
    page.wait_for_selector(".lab-busy")
    page.click("#stop")
    wait_for_title(page, "seed 13,")
    look(page)
    page.fill("#steps input", "50")
    sample(page, seed="14")


def test_the_page_asks_for_nothing_outside(opened, address):
    page = opened()
    sample(page, seed="5")
    outside = {url for url in page.asked if not url.startswith((address, "data:", "blob:"))}
    assert outside == set() and page.broken == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_off_at_any_width(opened, scheme):
    page = opened(390, scheme=scheme)
    sample(page, seed="6")
    look(page)
    for width in (390, 768, 1440):
        page.set_viewport_size({"width": width, "height": 900})
        assert_nothing_is_cut_off(page, width)


CHOOSER = """select => [...select.children].map((group) =>
    [group.label, group.tagName, [...group.children].map((option) => option.textContent)])"""
THUMBNAIL = """([row, column, rows, columns]) => {
    const canvas = document.querySelector('[data-grid] canvas'), side = canvas.width / columns;
    if (canvas.height !== rows * side) throw new Error(`${canvas.width} x ${canvas.height} is no ${rows} x ${columns}`);
    const at = [(column + 0.5) * side, (row + 0.5) * side];
    return [...canvas.getContext('2d').getImageData(...at, 1, 1).data].join();
}"""
DARKEST = "0,0,4,255"


def sample_u_dit(page):
    page.fill("#steps input", "4")
    page.fill("#seed textarea, #seed input", "3")
    page.click("#sample")
    wait_for_title(page, "seed 3,")


def test_the_blocks_of_a_u_dit_are_chosen_by_stage_and_each_is_drawn_on_its_own_grid(opened):
    page = opened(server="u_dit")
    sample_u_dit(page)
    look(page, ((11 + 0.5) / 24, (5 + 0.5) / 16))  # the token in row 5, column 11 of 16 x 24
    stages = page.eval_on_selector("[data-block]", CHOOSER)
    assert [name for name, _, _ in stages] == ["encoder 1", "encoder 2", "middle", "decoder 2", "decoder 1"]
    assert {kind for _, kind, _ in stages} == {"OPTGROUP"}
    assert stages[2][2] == ["block 1, pair a", "block 1, pair b", "block 2, pair a", "block 2, pair b"]

    assert "the clicked patch, row 5, column 11." in page.text_content("[data-readout]")
    assert page.text_content("[data-where]") == "encoder 1: 16 × 24 tokens"
    asked = len(page.asked)
    page.select_option("[data-block]", "7")
    assert page.text_content("[data-where]") == "middle: 4 × 6 tokens"
    assert "the token over the clicked patch, row 1, column 2." in page.text_content("[data-readout]")
    assert "of middle, block 2, pair b on one scale" in page.text_content("[data-scale]")
    assert "Evenly spread would be 17 % a token of its grid." in page.text_content("[data-scale]")  # 1 of 24 / 4
    assert len(page.asked) == asked, "choosing a block asked the server for something"
    look(page, (0.9, 0.1))
    assert page.input_value("[data-block]") == "7" and "row 0, column 5." in page.text_content("[data-readout]")
    assert page.broken == []


def test_a_token_of_a_u_dit_sees_its_own_grid_which_is_drawn_whole_or_on_the_picture(opened):
    page = opened(server="u_dit")
    sample_u_dit(page)
    look(page, (0.9, 0.9))
    page.select_option("[data-block]", "2")  # encoder 2: 8 x 12 tokens, the clicked one in row 7, column 10

    def colours():
        drawn = [[page.evaluate(THUMBNAIL, [row, column, 8, 12]) for column in range(12)] for row in range(6)]
        return [drawn[row][column::2] for row in range(2, 6) for column in (0, 1)]  # away from the outline

    own = colours()
    assert page.get_attribute("[data-overlay]", "aria-label").endswith("4 × 6 weights")
    assert own[0] == own[1] == own[2] == own[3] and own[4] == own[5] == own[6] == own[7] != own[0]
    page.select_option("[data-view]", "picture")
    raw = colours()
    assert page.get_attribute("[data-overlay]", "aria-label").endswith("8 × 12 weights")
    assert raw[2] == own[2] and raw[6] == own[6], "the clicked token's own row 3 and 5, every other column from 0"
    assert {colour for other in (0, 1, 3, 4, 5, 7) for colour in raw[other]} == {DARKEST}
    box = page.locator("[data-overlay]").bounding_box()
    page.mouse.move(box["x"] + 1.5 * box["width"] / 12, box["y"] + 1.5 * box["height"] / 8)
    assert page.text_content("[data-readout]") == "It cannot see row 1, column 1, a token of another grid."


def test_the_modulation_of_a_u_dit_is_labelled_by_stage(opened):
    page = opened(server="u_dit")
    sample_u_dit(page)
    named = page.locator("[data-blocks] span").all_text_contents()
    assert named == ["encoder 1", "encoder 2", "middle", "decoder 2", "decoder 1"]
    assert page.locator("[data-lines] b").count() == 4
    page.locator("[data-map]").scroll_into_view_if_needed()
    box = page.locator("[data-map]").bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 7.5 * box["height"] / 12)
    said = page.text_content("[aria-label=Modulation] [data-readout]")
    assert said.startswith("middle, block 2, pair b at step 1 of 4, t = 999: ")
    for width in (390, 1440):
        page.set_viewport_size({"width": width, "height": 900})
        assert_nothing_is_cut_off(page, width)


def test_the_blocks_of_a_dit_are_one_plain_list(opened):
    page = opened()
    sample(page, seed="8")
    look(page)
    texts = page.locator("[data-block] > option").all_text_contents()
    assert texts == [f"block {number}" for number in range(6)]
    assert page.is_hidden("[data-views]") and page.is_hidden("[data-why]")


def assert_nothing_is_cut_off(page, width):
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    cut = page.evaluate(
        """() => [...document.querySelectorAll('.lab-panel *, #controls button, #controls label')].filter((node) => {
            const box = node.getBoundingClientRect();
            return box.width && (box.left < 0 || box.right > innerWidth + 1);
        }).map((node) => node.outerHTML.slice(0, 80))"""
    )
    assert cut == []


def test_every_model_of_the_zoo_has_a_page_that_samples_when_it_is_shown(opened):
    page = opened()
    assert page.locator("nav a").all_inner_texts() == ["mnist", *sorted(zoo().keys() - {"mnist"})]
    page.get_by_role("link", name="mnist_udit").click()
    page.wait_for_url("**/mnist_udit")
    page.wait_for_selector("[data-overlay]", state="attached")
    wait_for_title(page, "class 7, seed 0,")
    assert "U-DiT, adaLN-Zero blocks, 1.2 M parameters" in page.locator("[data-facts]").inner_text()
    look(page)
    assert page.locator("[data-block] option").count() == 12
    assert page.locator("nav a").all_inner_texts()[0] == "mnist"
    assert page.broken == []


def test_the_readmes_picture(opened):
    """The page after a run, its attention open; written only when asked for."""
    page = opened(1440, 1000)
    sample(page, seed="7")
    scrub(page, 34)
    look(page, (0.55, 0.4))
    page.select_option("[data-block]", "2")
    page.wait_for_timeout(300)
    picture = page.screenshot(full_page=True)
    assert len(picture) > 50_000
    if os.environ.get("DIT_LAB_SCREENSHOT"):
        (ROOT / "docs" / "app.png").write_bytes(picture)
