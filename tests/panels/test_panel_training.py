"""The training panel: what is watched of a run, and the page that shows runs while they go on and afterwards."""

import copy
import json
import re
from base64 import b64decode

import numpy as np
import pytest
import torch
from shared import random_model, random_udit

from dit_lab.data import Images, open_data
from dit_lab.inside import watch
from dit_lab.models import build
from dit_lab.panels import asset
from dit_lab.panels.saved import inline
from dit_lab.panels.training import PANEL, Watching, look_steps, recorded, still
from dit_lab.training import TrainOptions, train

# A host in small: it keeps what the panel sends, and answers what the test puts into `answers`.
HOST = """<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>training</title><style>%s body { margin: 0; background: var(--lab-back); }</style></head>
<body class="lab-root"><main></main><script type="application/json" id="given">%s</script><script type="module">
const { text, script, data, live } = JSON.parse(document.getElementById("given").textContent);
const load = (text) => import(URL.createObjectURL(new Blob([text], { type: "text/javascript" })));
document.body.classList.toggle("lab-dark", matchMedia("(prefers-color-scheme: dark)").matches);
const lab = (await load(text)).createLab(live);
Object.assign(window, { sent: [], answers: {} });
const send = async (request) => {
  sent.push(request);
  const answer = answers[Object.keys(request)[0]];
  if (!answer || answer.error) throw new Error(answer?.error ?? "Nobody answers.");
  return answer;
};
window.view = (await load(script)).mount({ element: document.querySelector("main"), data, send, lab });
document.body.dataset.ready = "";
</script></body></html>"""


def run_of(block="adaln_zero", steps=40, name="a run", **settings) -> list[dict]:
    """All states of a tiny run on the digits."""
    torch.manual_seed(0)
    images = open_data("digits")
    model = build(
        "DiT-nano/2", dim=32, heads=2, depth=2, input_size=8, in_channels=1, num_classes=10, block=block,
        learned_variance=False, prediction="velocity", schedule="flow",
    )  # fmt: skip
    average = copy.deepcopy(model)
    settings = {"conditioning": block, "steps": str(steps)} | settings
    watching = Watching(average, images, steps, name=name, settings=settings, read=lambda x: [0] * len(x))
    states, options = [], TrainOptions(steps=steps, batch_size=16, lr=4e-3, precision="fp32", ema_decay=0.9)
    for _ in watching.looking():
        pass
    for step in train(model, images, options, average=average):
        watching.note(step.step, step.loss, 0.01)
        for _ in watching.looking() if watching.due() else ():
            pass
        states.append(watching.state("running" if step.step < steps else "done"))
    return states


@pytest.fixture(scope="module")
def runs():
    return [run_of(name="<b>one</b>"), run_of("in_context", name="two")]


@pytest.mark.parametrize("steps", [20, 37, 600, 3000])
def test_looks_are_close_at_first_then_even_and_the_last_is_the_end(steps):
    when = look_steps(steps)
    assert when[:4] == [0, 1, 2, 3] and when[-1] == steps and when == sorted(set(when)) and len(when) <= 38


def test_a_state_carries_curves_of_bounded_length_and_a_loss_that_is_smoothed():
    watching = Watching(random_model(in_channels=1, input_size=8, num_classes=10), open_data("digits"), 5000)
    for step in range(1, 5001):
        watching.note(step, 2.0 if step % 2 else 1.0, 0.5)
    state = watching.state()
    assert len(state["loss"]["step"]) <= 240 and state["loss"]["step"][-1] == 4998
    assert set(state["loss"]["raw"]) <= {1.0, 2.0} and state["loss"]["smooth"][-1] == pytest.approx(1.5, abs=0.03)
    assert state["perStep"] == 0.5 and state["seconds"] == 2500
    assert len(json.dumps(state)) < 20_000


def test_the_time_left_counts_steps_and_looks():
    watching = Watching(random_model(in_channels=1, input_size=8, num_classes=10), open_data("digits"), 100)
    assert watching.left() is None
    watching.note(1, 1.0, 0.1)
    watching.look_seconds = 2.0
    assert watching.left() == pytest.approx(99 * 0.1 + 2.0 * sum(step > 1 for step in look_steps(100)))


@pytest.mark.parametrize("make", [random_model, random_udit])
@pytest.mark.parametrize("classes", [0, 3])
def test_any_model_of_the_library_can_be_watched(make, classes):
    """Colours, sides that differ, no classes; U-DiT, whose stages have other grids."""
    model = make(in_channels=3, num_classes=classes).eval()
    pixels = torch.randint(0, 255, (12, 3, 8, 12), dtype=torch.uint8).numpy()
    labels = (torch.arange(12) % max(classes, 1)).numpy()
    watching = Watching(model, Images(pixels, labels, [f"class {n}" for n in range(classes)]), 5)
    for _ in watching.looking():
        pass
    state, count = watching.state(), classes or 10
    json.dumps(state, allow_nan=False)
    assert len(state["fixed"]["names"]) == count
    for rows, (height, width), query in zip(
        state["look"]["maps"], state["fixed"]["grids"], state["fixed"]["queries"], strict=True
    ):
        assert rows["shape"][1] == height * width and 0 <= query < height * width
    with torch.no_grad(), watch(model) as seen:
        model(watching.seen, watching.time, torch.tensor(watching.labels))
    first, second = seen.features[0], seen.features[1]
    if make is random_model:  # where the second block is given what the first one gave
        told = state["gauges"][-1]["values"][0][1]
        assert told == pytest.approx(((second - first).square().mean() / first.square().mean()).sqrt().item(), rel=1e-3)


def test_a_look_changes_no_bit_of_the_weights_and_leaves_no_hook():
    model = random_model(in_channels=1, input_size=8, num_classes=10)
    before = copy.deepcopy(model.state_dict())
    watching = Watching(model, open_data("digits"), 5)
    for _ in watching.looking():
        pass
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_what_is_recorded_has_every_look_once_and_the_last_curves(runs):
    one, two = recorded([*runs[0], *runs[1], *runs[0]])
    assert one["name"] == "<b>one</b>" and two["state"] == "done"
    assert [look["step"] for look in one["looks"]] == [step for step in look_steps(40) if step > 0]
    assert one["loss"] == runs[0][-1]["loss"]
    figure = still([one, two], looks=3)
    assert len(figure.axes) == 60 and figure.axes[0].get_ylabel() == "run 1, step 1"
    with pytest.raises(ValueError, match="no look in these states"):
        still([one | {"looks": []}])


@pytest.fixture
def mounted(visit, tmp_path):
    """The panel in a page of its own, given states at first; errors in its script are kept in `page.broken`."""

    def mount(states=(), live=True, width=1280, scheme="light"):
        data = {
            "text": asset("lab.js"),
            "script": PANEL.script,
            "live": live,
            "data": PANEL.data(None) | {"states": states},
        }
        (tmp_path / "page.html").write_text(HOST % (asset("lab.css") + PANEL.looks, inline(data)))
        page = visit((tmp_path / "page.html").as_uri(), width, scheme=scheme, ready="[data-ready]")
        page.wait_for_function(
            "all => document.querySelectorAll('[data-runs] li').length >= all", arg=min(2, len(states))
        )
        return page

    return mount


def told(page) -> str:
    return page.inner_text("[data-told]")


def update(page, state):
    page.evaluate("state => view.update(state)", state)


def samples(page, run=0) -> str:
    return page.locator("[data-rows] canvas").nth(run).evaluate("canvas => canvas.toDataURL()")


def paths(page, chart) -> list[str]:
    return page.eval_on_selector_all(f"[data-{chart}] path", "all => all.map(path => path.getAttribute('d'))")


def test_a_run_is_started_followed_stopped_and_kept(mounted, runs):
    page, states = mounted(), runs[0]
    assert (
        "choose, and press Start" in told(page) and page.is_disabled("[data-keep]") and page.is_disabled("[data-stop]")
    )
    page.wait_for_function("sent.some(request => request.cost)")
    page.wait_for_function("document.querySelector('[data-cost]').textContent.includes('known after its first steps')")
    page.evaluate("answers.cost = { seconds: 27, perStep: 0.04, parameters: 329000, macs: 3.4e6 }")
    page.fill("[data-name=steps]", "40")
    page.wait_for_function(
        "document.querySelector('[data-cost]').textContent.startsWith('About 27 s: 40 steps of 40 ms')"
    )
    page.select_option("[data-name=block]", "in_context")
    page.evaluate("answers.start = {}")
    page.press("[data-name=lr]", "Enter")  # from any field
    page.wait_for_function("sent.some(request => request.start)")
    asked = page.evaluate("sent.find(request => request.start).start")
    assert asked == {"block": "in_context", "depth": 4, "patch_size": 2, "lr": 0.004, "steps": 40, "seed": 0}
    assert told(page) == "Waiting to begin…"
    update(page, {"state": "queued", "told": "Waiting: 2 runs before it."})
    assert told(page) == "Waiting: 2 runs before it."
    update(page, states[4])
    assert told(page).startswith("Run 1: step 5 of 40, ") and "left" in told(page)
    early, curves = samples(page), paths(page, "loss")
    update(page, states[-2])
    assert samples(page) != early and paths(page, "loss") != curves
    page.evaluate("answers.stop = {}")
    page.click("[data-stop]")
    update(page, states[-2] | {"state": "stopped"})
    assert told(page) == "Run 1 was stopped after step 39; what it learnt stays." and page.is_disabled("[data-stop]")
    page.evaluate("answers.keep = { error: 'There is a checkpoint a already; give this one another name.' }")
    page.fill("[data-keep-name]", "a")
    page.click("[data-keep]")
    assert page.inner_text("[data-wrong]") == "There is a checkpoint a already; give this one another name."
    page.evaluate("answers.keep = { name: 'b' }")
    page.fill("[data-keep-name]", "b")
    page.press("[data-keep-name]", "Enter")
    page.wait_for_selector("[data-kept]")
    assert "kept as “b”, as it was after step 39" in page.inner_text("[data-kept]")
    assert page.evaluate("sent.filter(request => request.keep).at(-1)") == {
        "keep": "b",
        "run": states[0]["run"],
    } and page.is_hidden("[data-wrong]")
    assert page.broken == []


def test_a_setting_out_of_bounds_is_said_and_not_sent(mounted):
    page = mounted()
    for name, value, words in ("depth", "9", "The blocks must be a whole number from 1 to 8."), (
        "lr", "", "The learning rate must be a number from 0.00001 to 0.1.",
    ):  # fmt: skip
        page.fill(f"[data-name={name}]", value)
        page.click("[data-start]")
        assert page.inner_text("[data-wrong]") == words
        page.fill(f"[data-name={name}]", "0.01" if name == "lr" else "2")
    assert page.evaluate("sent.filter(request => request.start)") == []
    page.evaluate("answers.start = { error: 'Somebody else trains on this server.' }")
    page.click("[data-start]")
    assert page.inner_text("[data-wrong]") == "Somebody else trains on this server."
    assert "press Start" in told(page)


def test_two_runs_in_one_view_and_what_differs(mounted, runs):
    page = mounted(recorded([*runs[0], *runs[1]]))
    names = page.locator("[data-runs] li").all_inner_texts()
    assert names[0].startswith("Run 1 <b>one</b>") and names[1].startswith("Run 2 two")  # text, never HTML
    assert page.inner_text("[data-differs]") == "What differs: conditioning adaln_zero and in_context."
    assert page.locator("[data-rows] canvas").count() == 2 and len(paths(page, "loss")) == 4
    colours = "new Set([...document.querySelectorAll('[data-loss] path')].map((path) => getComputedStyle(path).stroke))"
    page.wait_for_function(f"{colours}.size === 2")
    assert page.input_value("[data-gauge]") == "change" and len(paths(page, "gates")) == 4
    page.select_option("[data-gauge]", "gate")
    assert len(paths(page, "gates")) == 2 and "Run 2 has no gates" in page.inner_text("[data-gauge-told]")
    page.select_option("[data-beside]", "")
    assert page.locator("[data-rows] canvas").count() == 1 and page.inner_text("[data-differs]") == ""
    assert page.broken == []


def test_a_saved_page_scrubs_through_training_time_by_keyboard(mounted, runs):
    page = mounted(recorded([*runs[0], *runs[1]]), live=False)
    assert page.is_hidden("[data-form]") and page.is_hidden("[data-does]")
    page.wait_for_timeout(400)  # longer than a change of the form waits before it asks
    assert page.inner_text("[data-when]") == "after step 40" and page.evaluate("sent") == []
    before = samples(page), samples(page, 1)
    page.focus("[data-range]")
    page.keyboard.press("Home")
    assert page.inner_text("[data-when]") == "after step 1" == page.get_attribute("[data-range]", "aria-valuetext")
    assert samples(page) != before[0] and samples(page, 1) != before[1]
    assert page.locator("[data-rows] b").first.inner_text() == "Run 1 after step 1: 1 of 10 read as asked"
    page.keyboard.press("ArrowRight")
    assert page.inner_text("[data-when]") == "after step 2"
    page.focus("[data-play]")
    page.keyboard.press("Space")
    page.wait_for_function("document.querySelector('[data-when]').textContent === 'after step 40'")
    page.wait_for_function("document.querySelector('[data-play]').textContent === 'Play'")
    assert (samples(page), samples(page, 1)) == before and page.broken == []


def test_numbers_of_the_map_are_the_librarys(mounted, runs):
    page, state = mounted(recorded(runs[1]), live=False), runs[1][-1]
    page.select_option("[data-block]", "1")
    page.select_option("[data-head]", "0")
    shape = state["look"]["maps"][1]["shape"]
    assert shape == [2, 18]  # 16 tokens, and the two of the condition
    row = np.frombuffer(b64decode(state["look"]["maps"][1]["data"]), "<f4").reshape(shape)[0]
    top, rest = int(row[:16].argmax()), 100 * row[16:].sum()
    share = lambda value: f"{value:.1f} %" if value < 9.95 else f"{value:.0f} %"
    caption = page.locator("[data-maps] figcaption").last.inner_text()
    assert f"most at row {top // 4}, column {top % 4} ({share(100 * row[top])})" in caption
    assert f"{share(rest)} on time and class" in caption
    told = page.get_attribute("[data-gates]", "aria-label")
    assert [float(each) for each in re.search("after step 40: (.*)", told)[1].split(", ")] == pytest.approx(
        state["gauges"][-1]["values"][-1], rel=6e-3
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [340, 390, 820, 1280])
def test_nothing_is_cut_off(mounted, runs, width, scheme):
    page = mounted(recorded([*runs[0], *runs[1]]), width=width, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    cut = page.evaluate(
        """() => [...document.querySelectorAll('main *')].filter((node) => {
            const box = node.getBoundingClientRect();
            return box.width && (box.left < 0 || box.right > innerWidth + 1);
        }).map((node) => node.outerHTML.slice(0, 80))"""
    )
    assert cut == [] and page.broken == []
    unnamed = "all => all.filter(node => !node.labels?.length && !node.getAttribute('aria-label')).length"
    assert page.eval_on_selector_all("select, input, canvas[role=img], svg[role=img]", unnamed) == 0
