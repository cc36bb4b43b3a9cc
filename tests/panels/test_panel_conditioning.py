"""The panel of the condition: its numbers are those of `inside`, its page follows the scrubber and can be clicked."""

import io
import json
from base64 import b64decode

import numpy as np
import pytest
import torch
from PIL import Image
from shared import random_model, random_udit
from small_host import reachable

from dit_lab.checkpoints import load
from dit_lab.inside import (
    attention_numbers,
    fit_colours,
    massive,
    record,
    token_norms,
    token_similarity,
    token_under,
)
from dit_lab.panels import Opened, Progress, page
from dit_lab.panels.conditioning import PANEL

OPTIONS = dict(steps=4, cfg_scale=2.0, seed=3)
MODELS = {name: random_model(name) for name in ("adaln_zero", "in_context", "cross_attention", "adaln")}
MODELS |= {"u_dit": random_udit(), "u_dit_cross": random_udit("cross_attention")}


def opened_of(model, labels=(1, 4), **options) -> Opened:
    return Opened(record(model, list(labels), **OPTIONS | options), model, labels=list("abcde"), source="random")


OPENED = {name: opened_of(model) for name, model in MODELS.items()}


def unpacked(packed) -> np.ndarray:
    return np.frombuffer(b64decode(packed["data"]), "<f4").reshape(packed["shape"])


def same(packed, values, tolerance=0.0):
    found = unpacked(packed)
    assert found.shape == tuple(values.shape)
    assert np.abs(found - values.numpy()).max() <= tolerance


def stages_of(opened):
    """The names by which the library asks for stages: None where there is one."""
    names = list(opened.config.stage_blocks)
    return names if len(names) > 1 else [None]


@pytest.mark.parametrize("name", ["adaln_zero", "adaln", "u_dit"])
def test_modulation_is_that_of_the_library_for_both_halves_and_beside_another_class(name):
    opened = OPENED[name]
    run, model = opened.trajectory, opened.model
    for part, norm in run.modulation_norms(model).items():
        same(PANEL.data(opened)["modulation"]["parts"][part], norm)
    found = PANEL.asked(opened, dict(look="modulation", sample=1, half="cond", beside=2))
    of_two = record(model, [2, 2], **OPTIONS)
    assert (found["label"], found["beside"]) == (4, 2)
    for part, norm in run.modulation_norms(model, sample=1).items():
        same(found["parts"][part], norm)
        same(found["other"][part], of_two.modulation_norms(model)[part])
        apart = [
            (run.modulation(model, stage=stage, sample=1)[part] - of_two.modulation(model, stage=stage)[part]) ** 2
            for stage in stages_of(opened)
        ]
        same(found["apart"][part], torch.cat([each.mean(-1).sqrt().T for each in apart]), 1e-7)
    uncond = PANEL.asked(opened, dict(look="modulation", sample=0, half="uncond"))
    assert uncond["label"] == 5 and "other" not in uncond
    same(uncond["parts"]["shift_mlp"], run.modulation_norms(model, half="uncond")["shift_mlp"])


@pytest.mark.parametrize(
    ("name", "kind"), [("in_context", "attn"), ("cross_attention", "cross"), ("u_dit_cross", "cross")]
)
def test_where_there_is_no_modulation_the_share_of_attention_on_the_condition_is_shown(name, kind):
    opened = OPENED[name]
    data = PANEL.data(opened)
    assert data["enters"] == kind and "modulation" not in data
    answer, told = PANEL.answer(opened, dict(look="shares", sample=1, half="uncond")), []
    with pytest.raises(StopIteration) as end:
        while True:
            told.append(next(answer))
    assert [each.done for each in told] == [0, 1, 2, 3] and all(isinstance(each, Progress) for each in told)
    numbers = attention_numbers(opened.trajectory, opened.model, sample=1, half="uncond", kind=kind)
    same(end.value.value["time"], numbers.time)
    same(end.value.value["label"], numbers.label)
    assert data["even"][0] == (pytest.approx(2 / 8) if kind == "attn" else 1)
    with pytest.raises(ValueError, match="blocks have no modulation"):
        PANEL.asked(opened, dict(look="modulation", sample=0, half="cond"))


@pytest.mark.parametrize("name", MODELS)
def test_norms_largest_features_and_likeness_are_the_librarys_in_every_stage(name):
    opened = OPENED[name]
    run, model = opened.trajectory, opened.model
    place = dict(step=2, sample=1, half="uncond")
    norms = PANEL.asked(opened, dict(look="norms", **place))
    alike = PANEL.asked(opened, dict(look="likeness", patch=5, **place))
    more = dict(sample=1, half="uncond")
    for number, stage in enumerate(stages_of(opened)):
        same(norms["stages"][number]["norms"], token_norms(run, model, stage=stage, steps=[2], **more)[0])
        theirs = massive(run, model, stage=stage, steps=[2], **more)
        for block, listed in enumerate(norms["stages"][number]["massive"]):
            assert [row[:2] for row in listed] == list(
                map(list, zip(theirs.feature[0, block].tolist(), theirs.token[0, block].tolist(), strict=True))
            )
            assert [row[2] for row in listed] == pytest.approx(theirs.times[0, block].tolist())
        shape, grid = (
            opened.config.stages[number],
            run.grid_of(opened.config.stage_blocks[opened.config.stages[number].name][0]),
        )
        token = token_under(5, run.grid, opened.config.stages[0].patch, grid, shape.patch)
        assert alike["stages"][number]["token"] == token
        same(alike["stages"][number]["likeness"], token_similarity(run, model, 2, token, stage=stage, **more))
    json.dumps([norms, alike], allow_nan=False)


@pytest.mark.parametrize("name", ["adaln_zero", "in_context", "u_dit"])
def test_colours_are_one_fit_a_stage_over_the_run(name):
    opened = OPENED[name]
    run, model = opened.trajectory, opened.model
    found = PANEL.asked(opened, dict(look="colours", sample=1, half="cond"))
    assert found["steps"] == [0, 1, 2, 3]
    for number, stage in enumerate(stages_of(opened)):
        colours = fit_colours(run, model, stage=stage, sample=1)
        told = found["stages"][number]
        assert told["explained"] == pytest.approx(colours.explained.tolist(), abs=1e-6)
        grid = run.grid_of(run.blocks_of(stage)[0])
        expected = torch.stack([colours.of(run.features(model, s, stage=stage, sample=1), grid) for s in range(4)])
        assert frames_of(told["atlas"], 4 * len(run.blocks_of(stage))) == pytest.approx(
            255 * expected.flatten(0, 1).numpy(), abs=0.6
        )


def frames_of(atlas, count):
    picture = np.asarray(Image.open(io.BytesIO(b64decode(atlas["uri"].split(",")[1]))).convert("RGB"))
    w, h, columns = atlas["width"], atlas["height"], atlas["columns"]
    place = lambda i: (slice(i // columns * h, i // columns * h + h), slice(i % columns * w, i % columns * w + w))
    return np.stack([picture[place(i)] for i in range(count)]).astype(float)


def test_a_repeated_look_is_answered_from_memory():
    opened = opened_of(MODELS["adaln_zero"])
    for request in (
        dict(look="norms", step=1, sample=0, half="cond"), dict(look="colours", sample=0, half="cond"),
        dict(look="modulation", sample=0, half="cond", beside=1),
    ):  # fmt: skip
        first = PANEL.asked(opened, request)
        assert PANEL.answer(opened, request) is first


def test_hostile_requests_get_a_sentence():
    opened = OPENED["adaln_zero"]
    norms = dict(look="norms", step=0, sample=0, half="cond")
    refused = [
        (dict(look="__class__"), "Look must be one of modulation, shares, norms, likeness, colours"),
        (dict(look=["norms"]), "Look must be one of"),
        (norms | dict(step=4), "Step must be a whole number from 0 to 3, not 4"),
        (norms | dict(step=float("nan")), "Step must be a whole number"),
        (norms | dict(sample=True), "Sample must be a whole number"),
        (norms | dict(half="guided"), "Half must be one of cond, uncond"),
        (norms | dict(look="likeness"), "Patch must be a whole number from 0 to 5, not None"),
        (norms | dict(look="likeness", patch=10**9), "Patch must be a whole number"),
        (norms | dict(look="modulation", beside=6), "Class must be a whole number from 0 to 5, not 6"),
        (norms | dict(look="modulation", beside="a"), "Class must be a whole number"),
    ]
    for request, sentence in refused:
        with pytest.raises(ValueError, match=sentence):
            PANEL.answer(opened, request)
    with pytest.raises(ValueError, match="no attention has the condition among its keys"):
        PANEL.asked(opened, dict(look="shares", sample=0, half="cond"))


def test_models_without_classes_nan_and_recordings_alone_say_so():
    plain = opened_of(random_model(num_classes=0), [0, 0], cfg_scale=1.0)
    assert PANEL.data(plain)["classes"] == [] and PANEL.data(plain)["modulation"]["label"] == 0
    with pytest.raises(ValueError, match="has no classes"):
        PANEL.answer(plain, dict(look="modulation", sample=0, half="cond", beside=0))
    with torch.no_grad():
        plain.model.blocks[0].mlp.down.bias.fill_(float("nan"))
    for look in "norms", "likeness":
        with pytest.raises(ValueError, match="hold NaN or Inf"):
            PANEL.asked(plain, dict(look=look, step=0, sample=0, half="cond", patch=0))
    recording = Opened(OPENED["adaln"].trajectory)
    assert "Only the recording is open" in PANEL.data(recording)["why"]
    with pytest.raises(ValueError, match="Only the recording"):
        PANEL.answer(recording, dict(look="norms", step=0, sample=0, half="cond"))


def test_two_classes_of_one_name_are_told_apart():
    model = MODELS["adaln_zero"]
    opened = Opened(record(model, [1], **OPTIONS), model, labels=["crane", "dog", "crane", "<b>", "e"])
    names = [name for _, name in PANEL.data(opened)["classes"]]
    assert names == ["crane (0)", "dog", "crane (2)", "<b>", "e", "no class"]


def test_the_still_is_modulation_or_where_there_is_none_attention():
    assert "Modulation" in PANEL.still(OPENED["adaln_zero"]).get_suptitle()
    assert "ttention" in PANEL.still(OPENED["cross_attention"]).get_suptitle()


# In the browser ----------------------------------------------------------------------------------------------------

PLACE = dict(step=3, block=2, patch=24)


def page_of(opened, path, asked):
    html = page(opened, "conditioning", asked={"conditioning": asked}, place=PLACE)
    path.write_text(reachable(html))  # so that a test can scrub
    return path.as_uri()


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Pages of two zoo models with some looks in them, and the first one's run."""
    folder = tmp_path_factory.mktemp("conditioning")
    looks = [dict(look="colours", sample=0, half="cond"), dict(look="modulation", sample=0, half="cond", beside=3)]
    for step in 3, 4:
        place = dict(step=step, sample=0, half="cond")
        looks += [dict(look="norms", **place), dict(look="likeness", patch=24, **place)]
    looks.append(dict(look="likeness", step=3, sample=0, half="cond", patch=25))
    zoo = {name: load(name) for name in ("mnist", "mnist_in_context")}
    opened = {
        name: Opened(
            record(each.model, [7], steps=6, cfg_scale=2.0, seed=0), each.model, labels=each.labels, source=name
        )
        for name, each in zoo.items()
    }
    shares = [dict(look="shares", sample=0, half="cond")]
    pages = {"mnist": page_of(opened["mnist"], folder / "mnist.html", looks)}
    pages["mnist_in_context"] = page_of(opened["mnist_in_context"], folder / "in_context.html", shares)
    return pages, opened


@pytest.fixture
def open_page(visit, shown):
    def opening(width=1280, scheme="light", name="mnist", tab=None):
        each = visit(shown[0][name], width, scheme=scheme)
        if tab:
            each.click(f"[data-tab={tab}]")
        return each

    return opening


def pixels(each, selector):
    return each.eval_on_selector(selector, "canvas => canvas.toDataURL()")


HEAT = "[data-parts] canvas"


def test_the_heat_maps_numbers_are_the_librarys_and_a_click_sets_step_and_block(open_page, shown):
    each, opened = open_page(), shown[1]["mnist"]
    each.wait_for_selector(HEAT)
    norms = opened.trajectory.modulation_norms(opened.model)
    assert each.locator(HEAT).count() == 6
    tops = each.locator("[data-parts] .lab-bar span:last-child").all_text_contents()
    assert tops == [f"{norm.max().item():.3g}" for norm in norms.values()]
    each.locator(HEAT).nth(5).click(position={"x": 5, "y": 5})  # of the MLP's gate
    assert each.evaluate("[lab.step, lab.block]") == [0, 0]
    assert f"{norms['gate_mlp'][0, 0].item():.3g}" in each.text_content("[data-read]")
    each.keyboard.press("ArrowRight")
    each.keyboard.press("ArrowDown")
    assert each.evaluate("[lab.step, lab.block]") == [1, 1]
    said = each.locator(HEAT).nth(5).get_attribute("aria-label")
    assert f"block 1 at step 2 of 6, t = 799: {norms['gate_mlp'][1, 1].item():.3g}" in said


def test_the_cursor_follows_the_scrubber(open_page):
    each = open_page()
    each.wait_for_selector(HEAT)
    place = lambda: each.eval_on_selector("[data-parts] .lab-conditioning-column", "node => node.style.left")
    before, read = place(), each.text_content("[data-read]")
    each.evaluate("lab.set({ step: 5 })")
    assert place() != before and each.text_content("[data-read]") != read


def test_a_second_class_is_put_beside_with_the_signed_difference(open_page, shown):
    each, opened = open_page(), shown[1]["mnist"]
    each.select_option("[data-other]", label="3")
    each.wait_for_selector("[data-beside]:not([hidden]) canvas")
    assert each.text_content("[data-beside-title]") == "gate, attention: class 7 beside class 3"
    mine = opened.trajectory.modulation_norms(opened.model)["gate_attn"]
    other = record(opened.model, [3], steps=6, cfg_scale=2.0, seed=0).modulation_norms(opened.model)["gate_attn"]
    far = f"{(other - mine).abs().max().item():.3g}"
    ends = each.locator("[data-compared] figure").nth(2).locator(".lab-bar span").all_text_contents()
    assert ends == ["−" + far, far]
    each.evaluate("lab.set({ block: 3 })")
    each.hover("[data-compared] figure:nth-child(3) canvas", position={"x": 2, "y": 2})
    value = f"{(other - mine)[0, 0].item():.3g}".replace("-", "−")
    assert each.text_content("[data-read]").endswith(f"class 3 minus class 7, block 0 at step 1 of 6, t = 999: {value}")
    before = pixels(each, "[data-compared] figure:nth-child(3) canvas")
    each.click("[data-part=gate_mlp]")
    assert pixels(each, "[data-compared] figure:nth-child(3) canvas") != before


def test_norms_stand_under_the_cursor_and_the_largest_are_named(open_page, shown):
    each, opened = open_page(tab="norms"), shown[1]["mnist"]
    each.wait_for_selector("[data-largest] li")
    (norms,) = token_norms(opened.trajectory, opened.model, steps=[3])
    values = norms[2]
    assert each.text_content("[data-cell]").startswith(f"Row 3, column 3: norm {values[24].item():.3g}")
    top = values.argmax().item()
    place, times = f"row {top // 7}, column {top % 7}", (values[top] / values.median()).item()
    longest = each.locator("[data-largest] li").first.text_content()
    assert longest == f"Longest: {place}, {values[top].item():.3g}, {times:.3g} × the median"
    feature = massive(opened.trajectory, opened.model, steps=[3]).feature[0, 2, 0].item()
    assert f"number {feature}," in each.locator("[data-largest] li").nth(3).text_content()
    each.hover("[data-place=map] .lab-conditioning-box", position={"x": 4, "y": 4})
    assert each.text_content("[data-cell]").startswith(f"Row 0, column 0: norm {values[0].item():.3g}")
    ends = each.locator("[data-bar] > span").all_text_contents()
    assert ends == [f"{values.min().item():.3g}", f"{values.max().item():.3g}"]


def test_token_maps_follow_step_block_and_patch_and_can_be_moved_by_keyboard(open_page, shown):
    each, opened = open_page(tab="likeness"), shown[1]["mnist"]
    each.wait_for_selector("[data-many] button")
    before = pixels(each, "[data-map]")
    each.click("[data-many] button >> nth=4")
    assert each.evaluate("lab.block") == 4 and pixels(each, "[data-map]") != before
    before = pixels(each, "[data-map]")
    each.evaluate("lab.set({ step: 4 })")
    each.wait_for_selector("text=After every block at step 5 of 6")
    assert pixels(each, "[data-map]") != before
    each.evaluate("lab.set({ step: 3 })")
    each.focus("[data-place=map] .lab-conditioning-box")
    each.keyboard.press("ArrowRight")
    each.wait_for_selector("[data-largest] >> text=Patch: row 3, column 4")
    assert each.evaluate("lab.patch") == 25
    likeness = token_similarity(opened.trajectory, opened.model, 3, 25)[4]
    least = likeness.argmin().item()
    assert (
        each.locator("[data-largest] li")
        .last.text_content()
        .startswith(f"Least alike: row {least // 7}, column {least % 7}")
    )


def test_a_map_laid_over_the_picture_has_a_bar_in_the_same_colours(open_page):
    each = open_page(tab="norms")
    each.wait_for_selector("[data-largest] li")
    each.check("[data-over]")
    assert each.eval_on_selector("[data-map]", "node => node.style.opacity") == "0.6"
    assert each.eval_on_selector("[data-bar] u", "node => node.style.opacity") == "0.6"


def test_colours_are_drawn_for_every_block_and_step(open_page, shown):
    each, opened = open_page(tab="colours"), shown[1]["mnist"]
    each.wait_for_selector("[data-matrix] canvas")
    colours = fit_colours(opened.trajectory, opened.model)
    features = opened.trajectory.features(opened.model, 3)
    expected = (255 * colours.of(features, (7, 7))[2, 3, 3]).round()
    drawn = "canvas => [...canvas.getContext('2d').getImageData(3, 3, 1, 1).data].slice(0, 3)"
    assert each.eval_on_selector("[data-map]", drawn) == pytest.approx(expected.tolist(), abs=1)
    first = each.evaluate("value => lab.percent(value)", colours.explained[0].item())
    assert f"They hold {first}" in each.text_content("[data-hold]")
    each.click("[data-matrix] canvas", position={"x": 3, "y": 3})
    assert each.evaluate("[lab.step, lab.block]") == [0, 0]


def test_in_context_models_say_how_the_condition_enters_and_show_its_share(open_page, shown):
    each, opened = open_page(name="mnist_in_context"), shown[1]["mnist_in_context"]
    each.wait_for_selector("[data-shares] canvas")
    assert "there is no shift, scale or gate" in each.text_content("[data-enters]")
    assert not each.is_visible("[data-tab=modulation]")
    numbers = attention_numbers(opened.trajectory, opened.model)
    assert each.text_content("[data-read]").endswith(f": {100 * numbers.condition[2].mean(0)[3].item():.3g} %")
    each.select_option("[data-head]", "1")
    each.select_option("[data-token]", "label")
    assert each.evaluate("lab.head") == 1
    assert each.text_content("[data-read]").endswith(f": {100 * numbers.label[2, 1, 3].item():.3g} %")


def test_what_a_saved_page_was_not_asked_is_refused_and_another_run_clears_all(open_page):
    each = open_page(tab="norms")
    each.wait_for_selector("[data-largest] li")
    each.evaluate("lab.set({ step: 0 })")
    each.wait_for_selector(".lab-told.lab-wrong")
    assert "no model behind it" in each.text_content("[data-told]")
    assert "at step 4 of 6" in each.text_content("[data-many-title]")  # what was seen stays, and says of when it is
    each.evaluate("lab.set({ run: { ...lab.run, id: 'another' } })")  # whose data is not there yet
    assert each.text_content("[data-why]") == "…" and not each.is_visible("[data-body]")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [340, 390, 820, 1280])
def test_nothing_overflows(open_page, width, scheme):
    each = open_page(width, scheme)
    for tab in "modulation", "norms", "likeness", "colours":
        each.click(f"[data-tab={tab}]")
        each.wait_for_selector({"modulation": HEAT, "colours": "[data-matrix] canvas"}.get(tab, "[data-many] button"))
        assert each.evaluate("document.documentElement.scrollWidth") <= width
        wide = "all => all.filter(e => e.getBoundingClientRect().right > innerWidth + 1).length"
        assert each.eval_on_selector_all(".lab-conditioning *", wide) == 0
