"""The panel Compare: its runs are `record`'s, its neighbours those of `memorised`, and its page shows both."""

import json
from base64 import b64decode
from dataclasses import replace

import numpy as np
import pytest
import torch
from shared import ROOT, random_model
from small_host import reachable

from dit_lab.checkpoints import load
from dit_lab.data import Images, Pixels
from dit_lab.inside import memorised, record
from dit_lab.models import fast
from dit_lab.panels import Opened, Progress, page
from dit_lab.panels.compare import PANEL, nearest_step
from dit_lab.panels.compare.curves import shipped_curves, summary

OPTIONS = dict(steps=4, cfg_scale=2.0, seed=3)
MODEL = random_model(in_channels=1, input_size=(28, 28), num_classes=10)


def opened_of(model=MODEL, labels=(1, 4), others=None, **options) -> Opened:
    run = record(model, list(labels), **OPTIONS | options)
    return Opened(run, model, labels=list(map(str, range(10))), source="random", others=others)


def comparing(opened, factor, values, sample=0):
    return PANEL.asked(opened, dict(factor=factor, values=values, sample=sample))


def distances_of(found):
    packed = found["distances"]
    return np.frombuffer(b64decode(packed["data"]), "<f4").reshape(packed["shape"])


@pytest.fixture
def opened():
    return opened_of()


@pytest.mark.parametrize(
    ("factor", "values", "changes"),
    [
        ("guidance", [1, 2.0, 4], [dict(cfg_scale=1), dict(cfg_scale=2.0), dict(cfg_scale=4)]),
        ("sampler", ["ddim", "ddpm", "heun"], [dict(sampler="ddim"), dict(sampler="ddpm"), dict(sampler="heun")]),
        ("steps", [2, 4, 7], [dict(steps=2), dict(steps=4), dict(steps=7)]),
        ("seed", [3, 8], [dict(seed=3), dict(seed=8)]),
    ],
)
def test_runs_differ_in_one_option_and_are_those_of_record(opened, factor, values, changes):
    found, run = comparing(opened, factor, values), opened.trajectory
    theirs = [record(MODEL, [1, 4], **OPTIONS | change) for change in changes]
    assert [each["t"] for each in found["runs"]] == [each.t for each in theirs]
    ours = distances_of(found)
    assert ours.shape == (5, len(values), len(values))
    for i, a in enumerate(theirs):
        for j, b in enumerate(theirs):
            assert ours[-1, i, j] == pytest.approx((a.sample - b.sample).square().mean().sqrt().item(), abs=1e-6)
            at = [each.x0[nearest_step(each.t, run.t[2])] for each in (a, b)]
            assert ours[2, i, j] == pytest.approx((at[0] - at[1]).square().mean().sqrt().item(), abs=1e-6)
    names = [row[0] for row in found["table"]]
    assert names == [{"guidance": "guidance"}.get(factor, factor)]
    assert found["same_noise"] == (factor != "seed") and found["labels"] == ["1", "4"]
    taken = [each["seconds"] is None for each in found["runs"]]
    assert taken == [run.options == each.options for each in theirs]  # the open run is not walked again
    json.dumps(found, allow_nan=False)


def test_a_guided_samplers_eta_is_no_second_difference():
    found = comparing(opened_of(eta=0.5), "sampler", ["ddim", "heun"])
    assert [row[0] for row in found["table"]] == ["sampler"]


def test_precisions_are_those_of_fast_and_a_model_in_half_already_is_refused(opened):
    found = comparing(opened, "precision", ["fp32", "bf16"])
    theirs = record(fast(MODEL, precision="bf16"), [1, 4], **OPTIONS)
    apart = (theirs.sample - opened.trajectory.sample).square().mean().sqrt().item()
    assert 0 < distances_of(found)[-1, 0, 1] == pytest.approx(apart, rel=1e-3)
    assert found["table"] == [["precision", "fp32", "bf16"]]
    half = Opened(theirs, fast(MODEL, precision="bf16"))
    with pytest.raises(ValueError, match="in half precision already"):
        comparing(half, "precision", ["fp32", "bf16"])


def test_the_four_blocks_are_the_zoos_from_the_same_noise(opened):
    names = ["in_context", "cross_attention", "adaln", "adaln_zero"]
    assert PANEL.data(opened)["factors"]["block"]["first"] == names
    found = comparing(opened, "block", names)
    theirs = [record(load(f"mnist_{name}").model, [1, 4], **OPTIONS) for name in names]
    for i, a in enumerate(theirs):
        for j, b in enumerate(theirs):
            apart = (a.sample - b.sample).square().mean().sqrt().item()
            assert distances_of(found)[-1, i, j] == pytest.approx(apart, abs=1e-5)
    rows = {row[0]: row[1:] for row in found["table"]}
    assert set(rows) == {"block", "parameters", "million MACs a forward"}
    told = shipped_curves()["blocks"]
    assert rows["parameters"] == [f"{told[name]['parameters']:,}" for name in names]
    assert rows["million MACs a forward"] == [f"{told[name]['macs'] / 1e6:.4g}" for name in names]


def test_labels_that_the_four_lack_become_a_digit_and_that_is_said():
    found = comparing(opened_of(random_model(num_classes=1000), [207]), "block", ["adaln", "adaln_zero"])
    assert found["other_labels"] and found["labels"] == ["7"]


def test_the_hosts_checkpoints_come_before_the_zoos_and_other_noise_or_classes_are_refused(opened):
    other, small = random_model(in_channels=1, input_size=(28, 28), num_classes=10, depth=2), random_model()
    few = random_model(in_channels=1, input_size=(28, 28), num_classes=3)
    mine = {"other": other, "small": small, "few": few}
    asked = []

    def opens(name):
        return lambda: (asked.append(name), (mine[name], Pixels(), list("abcdefghij")))[1]

    opened = opened_of(others={name: opens(name) for name in mine})
    choices = [name for name, _ in PANEL.data(opened)["factors"]["checkpoint"]["choices"]]
    assert choices == ["the open one", "other", "small", "few"]
    found = comparing(opened, "checkpoint", ["the open one", "other"])
    apart = (record(other, [1, 4], **OPTIONS).sample - opened.trajectory.sample).square().mean().sqrt().item()
    assert distances_of(found)[-1, 0, 1] == pytest.approx(apart, abs=1e-6)
    assert [row[0] for row in found["table"]][:2] == ["class", "depth"] and asked == ["other"]
    with pytest.raises(ValueError, match="cannot start from the same noise.*random starts from 1 x 28 x 28, small"):
        comparing(opened, "checkpoint", ["the open one", "small"])
    with pytest.raises(ValueError, match="few has no class 4"):
        comparing(opened, "checkpoint", ["the open one", "few"])


def test_of_a_recording_without_its_model_the_zoo_is_compared(opened):
    recording = Opened(opened.trajectory)
    assert list(PANEL.data(recording)["factors"]) == ["block", "checkpoint"]
    assert len(comparing(recording, "block", ["adaln", "adaln_zero"])["runs"]) == 2
    with pytest.raises(ValueError, match="What differs must be one of block, checkpoint, not 'seed'"):
        comparing(recording, "seed", [1, 2])


def test_progress_is_told_step_by_step_and_a_repeated_question_is_answered_from_memory(opened):
    answer, told = PANEL.answer(opened, dict(factor="steps", values=[2, 3], sample=0)), []
    with pytest.raises(StopIteration) as end:
        while True:
            told.append(next(answer))
    assert all(isinstance(each, Progress) for each in told)
    assert [each.done for each in told if "step " in each.told] == [1, 2, 3, 4, 5]
    assert PANEL.answer(opened, dict(factor="steps", values=[2, 3], sample=1)) is end.value.value


def test_given_noise_is_not_kept_and_that_is_said(opened):
    run = opened.trajectory
    given = Opened(replace(run, options=run.options | {"seed": None}), MODEL)
    assert comparing(given, "steps", [1, 2])["other_noise"] and not comparing(opened, "steps", [1, 2])["other_noise"]


def test_hostile_requests_get_a_sentence(opened):
    refused = [
        (dict(factor="steps", values=[1, 10**6]), "Steps must be a whole number from 1 to 1000, not 1000000"),
        (dict(factor="steps", values=list(range(1, 101))), "Compare 2 to 4 settings"),
        (dict(factor="steps", values=[5]), "Compare 2 to 4 settings"),
        (dict(factor="steps", values="99"), "Compare 2 to 4 settings"),
        (dict(factor="steps", values=[2, 2.0]), "Two settings are the same steps"),
        (dict(factor="guidance", values=[1, float("inf")]), "Guidance must be a number from 0 to 20"),
        (dict(factor="guidance", values=[1, True]), "Guidance must be a number"),
        (dict(factor="seed", values=[0, -1]), "Seed must be a whole number from 0"),
        (dict(factor="sampler", values=["ddim", "../../etc"]), "Sampler must be one of ddim"),
        (dict(factor="checkpoint", values=["/etc/passwd", "mnist"]), "Checkpoint must be one of the open one"),
        (dict(factor="checkpoint", values=[["mnist"], "mnist"]), "Checkpoint must be one of the open one"),
        (dict(factor="__class__", values=[1, 2]), "What differs must be one of block"),
        (dict(factor="seed", values=[0, 1], sample=9), "Sample must be a whole number from 0 to 1"),
        (dict(nearest="all"), "Sample must be a whole number from 0 to 1"),
    ]
    for request, sentence in refused:
        with pytest.raises(ValueError, match=sentence):
            PANEL.answer(opened, dict(sample=0) | request)  # at once: nothing is sampled
    unguided = opened_of(random_model(null_label=False), [1], cfg_scale=1.0)
    assert "guidance" not in PANEL.data(unguided)["factors"]


def test_what_is_shipped_of_the_curves_is_what_docs_say():
    """Where it is not, write it anew as the docstring of `summary` says."""
    table = json.loads((ROOT / "docs/results/blocks.json").read_text())
    shipped = json.loads((ROOT / "dit_lab/panels/compare/blocks.json").read_text())
    assert shipped == summary(table)
    page = (ROOT / "docs/results/blocks.md").read_text()
    for name, each in shipped["blocks"].items():
        title = shipped_curves()["titles"][name]
        (line,) = [line for line in page.splitlines() if line.startswith(f"| {title} |")]
        assert f"{each['frechet'][-1][1]:.1f} ±" in line and f"{each['test_mse'][-1][1]:.4f} ±" in line


def pictures(count, seed):
    random = np.random.default_rng(seed)
    return Images(
        random.integers(0, 256, (count, 1, 28, 28), dtype=np.uint8), np.arange(count) % 10, list("abcdefghij")
    )


def test_neighbours_and_their_scale_are_those_of_memorised(opened, monkeypatch):
    monkeypatch.setattr("dit_lab.panels.compare.nearest.CHUNK", 70)
    split = {"train": pictures(300, 0), "test": pictures(40, 1)}
    asked = dict(nearest=1)
    with pytest.raises(ValueError, match="Start the app with --data"):
        PANEL.asked(opened, asked)
    opened.training_pictures = split.__getitem__
    assert PANEL.data(opened)["pictures"]
    found = PANEL.asked(opened, asked)
    theirs = memorised(opened.trajectory.sample[[1]], split["train"], split["test"], k=5)
    np.testing.assert_allclose(found["distances"], theirs.neighbours.distances[0], rtol=1e-5)
    assert found["labels"] == [split["train"].names[label] for label in theirs.neighbours.labels[0]]
    np.testing.assert_allclose(found["test"], theirs.test_distances, rtol=1e-5)
    assert found["share"] == pytest.approx(theirs.share.item()) and found["searched"] == 300
    opened.training_pictures = None
    assert PANEL.asked(opened, asked) is found  # from memory


def test_a_copy_is_found_and_other_shapes_are_refused(opened):
    train = pictures(50, 0)
    x, _ = train.batch([17])
    copied = Opened(replace(opened.trajectory, sample=torch.cat([x, x])), MODEL)
    copied.training_pictures = lambda name: train if name == "train" else pictures(20, 1)
    found = PANEL.asked(copied, dict(nearest=0))
    assert found["distances"][0] == 0 and found["labels"][0] == "h" and found["share"] == 0
    small = opened_of(random_model(), [1])
    small.training_pictures = copied.training_pictures
    with pytest.raises(ValueError, match=r"This sample is 3 x 8 x 12 .* are 1 x 28 x 28"):
        PANEL.asked(small, dict(nearest=0))


def test_the_still_shows_the_run_in_fewer_steps(opened):
    assert [axis.get_title() for axis in PANEL.still(opened, step=1).axes] == ["1 steps", "2 steps", "4 steps"]


# In the browser ----------------------------------------------------------------------------------------------------

FOUR = dict(factor="block", values=["in_context", "cross_attention", "adaln", "adaln_zero"], sample=0)
STEPS = dict(factor="steps", values=[1, 3, 6], sample=0)


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A page of the panel on the zoo's MNIST model, with three answers in it, and what they are."""
    loaded = load("mnist")
    opened = Opened(
        record(loaded.model, [7], steps=6, cfg_scale=2.0), loaded.model, labels=loaded.labels, source="mnist"
    )
    opened.training_pictures = lambda name: pictures(200, 0) if name == "train" else pictures(40, 1)
    asked = [FOUR, STEPS, dict(nearest=0)]
    html = page(opened, "compare", asked={"compare": asked}, place=dict(step=3))
    path = tmp_path_factory.mktemp("compare") / "page.html"
    path.write_text(reachable(html))  # so that a test can scrub
    return path.as_uri(), [PANEL.asked(opened, each) for each in asked]


@pytest.fixture
def open_page(visit, shown):
    return lambda width=1000, scheme="light": visit(shown[0], width, scheme=scheme)


def canvas(each, kind, run):
    return each.eval_on_selector(f"[data-kind={kind}][data-run='{run}'] canvas", "canvas => canvas.toDataURL()")


def steps_by_keyboard(each):
    each.focus("[data-factor]")
    each.select_option("[data-factor]", "steps")
    for number, value in enumerate(["1", "3", "6"]):
        each.focus(f"[data-slots] label:nth-child({number + 1}) input")
        each.keyboard.press("Control+a")
        each.keyboard.type(value)
    assert "3 samplings, 10 steps in all" in each.text_content("[data-cost]")
    each.keyboard.press("Enter")
    each.wait_for_selector("[data-found]:not([hidden])")


def test_the_four_blocks_are_one_click_away_with_their_curves_and_the_librarys_distances(open_page, shown):
    each, found = open_page(), shown[1][0]
    each.click("[data-four]")
    each.wait_for_selector("[data-found]:not([hidden])")
    assert each.locator("[data-runs] h3").all_text_contents() == [
        "A in-context",
        "B cross-attention",
        "C adaLN",
        "D adaLN-Zero",
    ]
    assert len({canvas(each, "end", run) for run in range(4)}) == 4
    told = each.locator("[data-distances] table >> nth=1").locator("tr >> nth=1").locator("td").all_text_contents()
    assert told == ["·", *(f"{value:.3g}" for value in distances_of(found)[-1, 0, 1:])]
    assert "498,434" in each.text_content("[data-table]")
    assert (
        "Fréchet 133.0" in each.text_content("[data-legend]") and each.locator("[data-charts] polyline").count() == 12
    )


def test_runs_of_different_steps_are_matched_by_time_and_follow_the_scrubber(open_page, shown):
    each = open_page()
    steps_by_keyboard(each)
    captions = "[data-kind=way] figcaption"
    t = [run["t"] for run in shown[1][1]["runs"]]
    for step in 3, 1:
        each.evaluate("step => lab.set({ step })", step)
        at = [nearest_step(times, t[2][step]) for times in t]
        said = [f"x0 step {i + 1} of {len(times)}, t = {times[i]}" for i, times in zip(at, t, strict=True)]
        assert each.locator(captions).all_text_contents() == said
        assert f"t = {t[2][step]}" in each.text_content("[data-distances] caption")
    way, end = canvas(each, "way", 2), canvas(each, "end", 2)
    each.evaluate("lab.set({ step: 4 })")
    assert canvas(each, "way", 2) != way and canvas(each, "end", 2) == end


def test_nearest_training_pictures_are_shown_with_the_distances_of_the_library(open_page, shown):
    each, found = open_page(), shown[1][2]
    each.focus("[data-near]")
    each.keyboard.press("Enter")
    each.wait_for_selector("[data-near-found]:not([hidden])")
    said = [f"{label}, {far:.3g}" for label, far in zip(found["labels"], found["distances"], strict=True)]
    assert each.locator("[data-neighbours] figcaption").all_text_contents() == ["this sample", *said]
    assert each.locator("[data-histogram] rect").count() == 30


def test_what_a_saved_page_was_not_asked_is_refused_in_a_sentence_and_another_run_clears_it(open_page):
    each = open_page()
    steps_by_keyboard(each)
    each.select_option("[data-factor]", "guidance")
    each.click("[data-go]")
    each.wait_for_selector("[data-told].lab-wrong")
    assert "no model behind it" in each.text_content("[data-told]") and each.is_visible("[data-runs]")
    each.evaluate("lab.set({ run: { ...lab.run, id: 'another' } })")  # whose data is not there yet
    assert each.text_content("[data-why]") == "…"
    assert not each.is_visible("[data-found]") and not each.is_visible("[data-form]")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [340, 390, 820, 1280])
def test_nothing_overflows(open_page, width, scheme):
    each = open_page(width, scheme)
    each.click("[data-four]")
    each.wait_for_selector("[data-found]:not([hidden])")
    each.click("[data-near]")
    each.wait_for_selector("[data-near-found]:not([hidden])")
    assert each.evaluate("document.documentElement.scrollWidth") <= width
    wide = "all => all.filter(e => !e.closest('table') && e.getBoundingClientRect().right > innerWidth + 1).length"
    assert each.eval_on_selector_all(".lab-compare *", wide) == 0
