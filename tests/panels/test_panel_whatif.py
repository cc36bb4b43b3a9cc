"""The panel What if: its numbers are those of `effect`, its words say what was changed, its page shows both."""

import json
from dataclasses import replace

import pytest
import torch
from shared import random_model, random_udit, tiny_vae
from small_host import reachable

from dit_lab.checkpoints import load
from dit_lab.data import Autoencoder
from dit_lab.inside import Box, Cut, Label, Modulate, Scale, Temperature, controls_of, effect, record
from dit_lab.inside.plots.base import one_channel, reach_of
from dit_lab.panels import Opened, Progress, page
from dit_lab.panels.whatif import PANEL
from dit_lab.panels.whatif.edits import edit_of, region_of, said

OPTIONS = dict(steps=4, cfg_scale=2.0, seed=3)
HEAD = dict(kind="head", block=1, head=2, factor=0)


def opened_of(model, labels=(1, 4), **options) -> Opened:
    return Opened(record(model, list(labels), **OPTIONS | options), model, labels=list("abcde"), source="random")


def asking(opened, edit, **more):
    return PANEL.asked(opened, dict(edit=edit, steps=[0, 3], controls=2, region=None, sample=0) | more)


MODELS = {name: random_model(name) for name in ("adaln_zero", "in_context", "cross_attention", "adaln")}


@pytest.fixture
def opened():
    return opened_of(MODELS["adaln_zero"])


@pytest.mark.parametrize("steps", [[0, 3], [1, 2]])
@pytest.mark.parametrize("region", [None, dict(patch=4, reach=1)])
def test_the_numbers_are_those_of_effect(opened, steps, region):
    found = asking(opened, HEAD, steps=steps, region=region)
    box = Box(4, 4, 4, 4) if region else None
    edit, run = Scale(1, "attn", 0, heads=[2]), opened.trajectory
    theirs = effect(run, opened.model, edit, 2, steps=range(steps[0], steps[1] + 1), region=box)
    assert found["picture"] == [theirs.picture, *theirs.picture_controls.tolist()] and found["rank"] == theirs.rank
    assert found["x0"] == [theirs.x0.tolist(), *theirs.x0_controls.tolist()]
    assert found["said"] == [said(opened, each) for each in (edit, *theirs.controls)]
    json.dumps(found, allow_nan=False)


def test_progress_is_told_step_by_step_and_a_repeated_question_is_answered_from_memory(opened):
    answer, told = PANEL.answer(opened, dict(edit=HEAD, controls=2, sample=0)), []
    with pytest.raises(StopIteration) as end:
        while True:
            told.append(next(answer))
    assert all(isinstance(each, Progress) for each in told)
    assert [each.done for each in told] == list(range(1, 13)) and {each.total for each in told} == {12}
    assert told[0].told == "the edited run, step 1 of 4" and told[-1].told == "control 2 of 2, step 4 of 4"
    again = PANEL.answer(opened, dict(edit=HEAD, controls=2, sample=1))
    assert again is end.value.value  # a dict at once, of both samples
    (tried,) = PANEL.data(opened)["tried"]
    assert tried["said"] == "block 1, head 2: off" and tried["of"] == 3
    assert PANEL.answer(opened, tried["request"]) is again


def test_pictures_are_of_every_step_and_the_end_and_changes_are_on_one_scale(opened):
    found = asking(opened, HEAD)
    assert set(found["shown"]) == {"0", "1"}
    run, model = opened.trajectory, opened.model
    edits = [Scale(1, "attn", 0, heads=[2]), *controls_of(run, model, Scale(1, "attn", 0, heads=[2]), 2)]
    for sample, shown in ((int(name), each) for name, each in found["shown"].items()):
        walked = [run.edited(model, each) for each in edits]
        ends = [one_channel(each.sample[sample] - run.sample[sample]) for each in walked]
        ways = [one_channel(each.x0[:, sample] - run.x0[:, sample]) for each in walked]
        expected = [*(max(reach_of(way[step]) for way in ways) for step in range(4)), max(map(reach_of, ends))]
        assert shown["reach"] == pytest.approx(expected)
        assert [each["steps"] for each in shown["runs"]] == [[0, 1, 2, 3]] * 4
        assert ["change" in each for each in shown["runs"]] == [False, True, True, True]


@pytest.mark.parametrize(
    ("name", "asked", "edit", "words"),
    [
        ("adaln_zero", HEAD, Scale(1, "attn", 0, heads=[2]), "block 1, head 2: off"),
        ("adaln_zero", dict(kind="branch", block=0, branch="mlp", factor=0.5), Scale(0, "mlp", 0.5),
         "block 0, MLP: × 0.5"),
        ("adaln", dict(kind="part", block=2, part="scale_mlp", factor=0), Modulate(2, "scale_mlp", 0),
         "block 2, scale of the MLP: off"),
        ("cross_attention", dict(kind="temperature", block=1, attention="cross", factor=2),
         Temperature(1, 2, kind="cross"), "block 1, cross-attention: flatter, temperature × 2"),
        ("adaln_zero", dict(kind="label", label=3), Label(3), "class d"),
        ("adaln_zero", dict(kind="cut", block=1, patch=4, reach=1, way="from"), Cut(1, [4], [0, 1, 2, 3, 5]),
         "block 1: all other patches hidden from the patch in row 1, column 1"),
        ("adaln_zero", dict(kind="cut", block=1, patch=4, reach=1, way="to", head=3),
         Cut(1, [0, 1, 2, 3, 5], [4], [3]),
         "block 1, head 3: the patch in row 1, column 1 hidden from all other patches"),
        ("in_context", dict(kind="cut", block=1, patch=0, reach=3, way="label"), Cut(1, [0, 1, 3, 4], [7]),
         "block 1: the label token hidden from 4 patches (the first in row 0, column 0)"),
        ("cross_attention", dict(kind="cut", block=1, patch=0, reach=1, way="time"), Cut(1, [0], [0], kind="cross"),
         "block 1, cross-attention: the time token hidden from the patch in row 0, column 0"),
    ],
)  # fmt: skip
def test_every_kind_of_change_is_the_librarys_edit_in_words(name, asked, edit, words):
    opened = opened_of(MODELS[name])
    assert edit_of(opened, asked) == edit
    assert said(opened, edit) == words
    assert asking(opened, asked)["said"][0] == words


@pytest.mark.parametrize("downsample", ["token", "kv", "none"])
def test_a_u_dits_patches_are_cut_on_the_grid_of_the_block(downsample):
    opened = opened_of(random_udit(downsample=downsample))
    stage = opened.config.stage_of(2)
    edit = edit_of(opened, dict(kind="cut", block=2, patch=13, reach=1, way="to"))
    assert stage.patch == 2 and 0 in edit.keys and not set(edit.keys) & set(edit.queries)
    for way in "from", "to":
        assert len(asking(opened, dict(kind="cut", block=2, patch=40, reach=3, way=way), controls=1)["picture"]) == 2
    assert region_of(opened, dict(patch=13, reach=3)) == Box(0, 0, 3, 3)


def test_a_latent_run_shows_few_frames_of_the_sample_in_focus_and_of_further_controls_the_end():
    model = random_model(in_channels=4)
    run = record(model, [1, 4], **OPTIONS | dict(steps=20))
    opened = Opened(run, model, Autoencoder(tiny_vae()), labels=list("abcde"))
    found = asking(opened, HEAD, steps=[0, 19], sample=1)
    assert list(found["shown"]) == ["1"] and found["channels"] == 4
    kept = [each["steps"] for each in found["shown"]["1"]["runs"]]
    assert len(kept[0]) == 12 and kept[0][0] == 0 and kept[0][-1] == 19 and kept == [kept[0]] * 3 + [[]]
    assert found["shown"]["1"]["runs"][0]["x0"]["height"] == 16  # pictures, not latents


def test_hostile_requests_get_a_sentence_before_any_work(opened):
    refused = [
        (dict(edit=None), "An edit must be values by name, not None"),
        (dict(edit=dict(kind="delete")), "What is edited must be one of head, branch"),
        (dict(edit=HEAD | dict(block=3)), "Block must be a whole number from 0 to 2, not 3"),
        (dict(edit=HEAD | dict(block=True)), "Block must be a whole number"),
        (dict(edit=HEAD | dict(head="x" * 999)), "Head must be a whole number from 0 to 3"),
        (dict(edit=HEAD | dict(factor=float("nan"))), "Factor must be a number from 0 to 4, not nan"),
        (dict(edit=HEAD | dict(factor=1e30)), "Factor must be a number from 0 to 4"),
        (dict(edit=HEAD | dict(attention="cross")), "Attention must be one of attn, not 'cross'"),
        (dict(edit=dict(kind="branch", block=0, branch="__class__", factor=0)), "Branch must be one of attn, mlp"),
        (dict(edit=dict(kind="part", block=0, part="gate", factor=0)), "Part must be one of shift_attn"),
        (dict(edit=dict(kind="label", label=6)), "Class must be a whole number from 0 to 5, not 6"),
        (dict(edit=dict(kind="temperature", block=0, factor=0)), "Temperature must be a number from 0.1 to 10"),
        (dict(edit=dict(kind="cut", block=0, way="from", reach=1)), "Patch must be a whole number from 0 to 5"),
        (dict(edit=dict(kind="cut", block=0, patch=1, way="label", reach=1)), "adaLN-Zero blocks have no label token"),
        (dict(edit=dict(kind="cut", block=0, patch=1, way="from", reach=5)), "there is no other patch left"),
        (dict(edit=dict(kind="cut", block=0, patch=1, way="from", reach=10**9)), "Square must be one of 1, 3, 5"),
        (dict(edit=HEAD, controls=10**6), "Controls must be a whole number from 1 to 16"),
        (dict(edit=HEAD, steps=[2, 1]), "The last step must be a whole number from 2 to 3, not 1"),
        (dict(edit=HEAD, steps="all"), "Steps must be the first and the last one"),
        (dict(edit=HEAD, region=[1]), "A region must be a patch and a square around it"),
        (dict(edit=HEAD, sample=2), "Sample must be a whole number from 0 to 1, not 2"),
    ]  # fmt: skip
    for more, sentence in refused:
        with pytest.raises(ValueError, match=sentence):
            PANEL.answer(opened, dict(edit=HEAD, sample=0, controls=2) | more)  # at once: nothing is walked
    same = opened_of(MODELS["adaln_zero"], [2, 2])
    with pytest.raises(ValueError, match="The run's label is c already"):
        PANEL.answer(same, dict(edit=dict(kind="label", label=2), sample=0))
    assert PANEL.data(opened)["tried"] == []


def test_a_run_that_cannot_be_walked_again_says_why(opened):
    run = opened.trajectory
    recording = Opened(run)
    assert "Only the recording is open" in PANEL.data(recording)["why"]
    noisy = Opened(replace(run, options=run.options | {"seed": None}), opened.model)
    assert "sample with a seed" in PANEL.data(noisy)["why"]
    for each in recording, noisy:
        with pytest.raises(ValueError, match="Only the recording|noise was given"):
            PANEL.answer(each, dict(edit=HEAD, sample=0))


def test_models_without_classes_offer_no_class_and_nan_is_a_sentence():
    opened = opened_of(random_model(num_classes=0), [0, 0], cfg_scale=1.0)
    assert PANEL.data(opened)["labels"] == [] and PANEL.data(opened)["passes"] == 4
    assert asking(opened, HEAD)["rank"] in (1, 2, 3)
    with torch.no_grad():
        opened.model.blocks[0].mlp.down.bias.fill_(float("inf"))
    with pytest.raises(ValueError, match="comes to NaN or Inf"):
        asking(opened, HEAD, controls=1)


def test_the_still_is_the_effect_of_the_chosen_head(opened):
    assert "Scale block 1 attn" in PANEL.still(opened, block=1, head=2, step=0).get_suptitle()


# In the browser ----------------------------------------------------------------------------------------------------

GATE = dict(kind="part", block=0, part="gate_attn", factor=0)


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A page of the panel on the zoo's MNIST model, with two edits asked before, and what was answered."""
    loaded = load("mnist")
    opened = Opened(
        record(loaded.model, [7], steps=6, cfg_scale=2.0), loaded.model, labels=loaded.labels, source="mnist"
    )
    asked = [
        dict(edit=dict(kind="head", attention="attn") | HEAD, steps=[1, 5], controls=2, region=None, sample=0),
        dict(edit=GATE, steps=[0, 5], controls=3, region=None, sample=0),
    ]  # fmt: skip
    path = tmp_path_factory.mktemp("whatif") / "page.html"
    html = page(opened, "whatif", asked={"whatif": asked}, place=dict(step=3, block=1, head=2))
    path.write_text(reachable(html))  # so that a test can scrub
    return path.as_uri(), [PANEL.asked(opened, each) for each in asked]


@pytest.fixture
def open_page(visit, shown):
    return lambda width=1000, scheme="light": visit(shown[0], width, scheme=scheme)


def canvas(each, picture):
    return each.eval_on_selector(f"[data-picture='{picture}'] canvas", "canvas => canvas.toDataURL()")


def test_an_edit_is_tried_by_keyboard_alone_and_its_numbers_are_the_librarys(open_page, shown):
    each, found = open_page(), shown[1][0]
    each.focus("[data-first]")
    each.keyboard.press("ArrowRight")
    assert each.text_content("[data-steps]") == "steps 2 (t = 799) to 6 (t = 0)"
    each.focus("[data-controls]")
    each.keyboard.press("Control+a")
    each.keyboard.type("2")
    assert "3 samplings, 36 forwards of a picture" in each.text_content("[data-cost]")
    each.keyboard.press("Enter")
    each.wait_for_selector("[data-found]:not([hidden])")
    assert each.text_content("[data-told]") == "Done: block 1, head 2: off."
    beaten = 3 - found["rank"]
    verdict = each.text_content("[data-verdict]")
    assert f"moved the picture by {found['picture'][0]:.3g}, further than {beaten} of 2 random others" in verdict
    order = sorted(range(3), key=lambda i: -found["picture"][i])
    assert each.locator("[data-ranks] b").all_text_contents() == [f"{found['picture'][i]:.3g}" for i in order]
    here = [line[3] for line in found["x0"]]
    assert f"the edit {here[0]:.3g}, controls {min(here[1:]):.3g} to {max(here[1:]):.3g}" in each.text_content(
        "[data-here]"
    )
    reach = found["shown"]["0"]["reach"]
    assert each.text_content("[data-scale='end']") == f"−{reach[-1]:.3g} to {reach[-1]:.3g}"


def test_pictures_follow_the_chosen_control(open_page):
    each = open_page()
    each.click("[data-tried] button >> nth=0")
    each.wait_for_selector("[data-found]:not([hidden])")
    assert "gate of attention" in each.text_content("[data-verdict]")
    untouched, control = canvas(each, "0-end"), canvas(each, "2-end")
    assert canvas(each, "1-end") != untouched
    each.focus("[data-control='2']")
    each.keyboard.press("Enter")
    assert canvas(each, "2-end") != control and canvas(each, "0-end") == untouched
    assert each.evaluate("document.activeElement.dataset.control") == "2"
    assert each.get_attribute("[data-control='2']", "aria-pressed") == "true"


def test_pictures_and_curve_follow_the_scrubber_and_another_run_clears_them(open_page):
    each = open_page()
    each.click("[data-tried] button >> nth=0")
    each.wait_for_selector("[data-found]:not([hidden])")
    way, end, told = canvas(each, "1-x0"), canvas(each, "1-end"), each.text_content("[data-here]")
    each.evaluate("lab.set({ step: 1 })")
    assert canvas(each, "1-x0") != way and canvas(each, "1-end") == end
    assert each.text_content("[data-here]") != told and each.text_content("[data-when]") == "at step 2 of 6, t = 799"
    each.evaluate("lab.set({ run: { ...lab.run, id: 'another' } })")  # whose data is not there yet
    assert each.text_content("[data-why]") == "…"
    assert not each.is_visible("[data-found]") and not each.is_visible("[data-form]")


def test_what_a_saved_page_was_not_asked_is_refused_in_a_sentence_and_what_was_seen_stays(open_page):
    each = open_page()
    each.click("[data-tried] button >> nth=0")
    each.wait_for_selector("[data-found]:not([hidden])")
    each.select_option("[data-kind]", "label")  # the form was that of the edit that is seen again
    each.click("[data-try]")
    each.wait_for_selector(".lab-told.lab-wrong")
    assert "no model behind it" in each.text_content("[data-told]")
    assert each.is_visible("[data-verdict]") and each.is_enabled("[data-try]")


@pytest.mark.parametrize("kind", ["head", "branch", "part", "cut", "temperature", "label"])
def test_each_kind_shows_its_own_fields_and_a_cut_asks_for_a_patch_first(open_page, kind):
    each = open_page()
    each.select_option("[data-kind]", kind)
    visible = each.eval_on_selector_all("[data-of]", "all => all.filter(e => !e.hidden).map(e => e.dataset.of)")
    assert visible == {
        "head": ["block", "head", "factor"], "branch": ["block", "branch", "factor"],
        "part": ["block", "part", "factor"],
        "cut": ["block", "anyhead", "way", "reach"], "temperature": ["block", "anyhead", "warmth"], "label": ["label"],
    }[kind]  # fmt: skip
    assert each.is_enabled("[data-try]") == (kind != "cut")
    if kind == "cut":
        assert "Click a patch" in each.text_content("[data-cost]")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [340, 390, 820, 1280])
def test_nothing_overflows(open_page, width, scheme):
    each = open_page(width, scheme)
    each.click("[data-tried] button >> nth=0")
    each.wait_for_selector("[data-found]:not([hidden])")
    assert each.evaluate("document.documentElement.scrollWidth") <= width
    wide = "all => all.filter(e => e.getBoundingClientRect().right > innerWidth + 1).length"
    assert each.eval_on_selector_all(".lab-whatif *", wide) == 0
