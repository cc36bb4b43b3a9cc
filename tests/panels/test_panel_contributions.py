"""The panel What made this: shares, sizes and the lens are those of `inside`, and they add up; its page draws them."""

import io
import json
from base64 import b64decode

import numpy as np
import pytest
import torch
from einops import reduce
from PIL import Image
from shared import random_model, random_udit, tiny_vae
from small_host import reachable

from dit_lab.checkpoints import load
from dit_lab.data import Autoencoder
from dit_lab.inside import record
from dit_lab.inside.plots import as_pictures
from dit_lab.panels import Opened, Progress, page
from dit_lab.panels.contributions import PANEL
from dit_lab.panels.contributions.pictures import coarseness, drawn

OPTIONS = dict(steps=4, cfg_scale=2.0, seed=3)
MODELS = {name: random_model(name) for name in ("adaln_zero", "cross_attention", "in_context")}
MODELS |= {"u_dit": random_udit(), "latent": random_model(in_channels=4)}


def opened_of(model, labels=(1, 4), codec=None, **options) -> Opened:
    return Opened(record(model, list(labels), **OPTIONS | options), model, codec, labels=list("abcde"))


OPENED = {name: opened_of(model, clip_x0=name != "latent") for name, model in MODELS.items()}


def unpacked(packed) -> np.ndarray:
    return np.frombuffer(b64decode(packed["data"]), "<f4").reshape(packed["shape"])


def asking(opened, look="parts", **more):
    return PANEL.asked(opened, dict(look=look, step=2, sample=1, half="guided", of="x0") | more)


def pictures_of(opened, answer) -> np.ndarray:
    """The parts' pictures as the browser puts them together, in the order of the parts."""
    inner = np.frombuffer(b64decode(answer["inner"]), np.int8).reshape(-1, *answer["shape"]).astype(np.float64)
    inner, outer = inner * unpacked(answer["fine"])[:, None, None, None], unpacked(answer["outer"])
    places, pictures = {True: iter(inner), False: iter(outer)}, []
    for _, block, *_ in PANEL.data(opened)["parts"]:
        pictures.append(next(places[block is not None]))
    return np.stack(pictures)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("of", "half"), [("x0", "guided"), ("eps", "cond"), ("x0", "uncond")])
def test_shares_of_any_region_are_inner_products_with_the_whole_and_add_up(name, of, half):
    opened = OPENED[name]
    answer = asking(opened, of=of, half=half)
    found = opened.trajectory.contributions(opened.model, 2, sample=1, half=half)
    assert answer["error"] == found.error < 1e-4
    theirs, (rows, columns) = getattr(found, of).double(), opened.trajectory.grid
    given, whole = (unpacked(answer[key]).astype(np.float64) for key in ("given", "whole"))
    given, whole = given.reshape(-1, rows, columns), whole.reshape(rows, columns)
    side = opened.config.stages[0].patch
    for top, left, high, wide in (0, 0, rows, columns), (rows - 1, 1, 1, 1), (0, 1, 2, columns - 1):
        pixels = np.s_[..., top * side : (top + high) * side, left * side : (left + wide) * side]
        total = theirs.sum(0)[pixels]
        expected = reduce(theirs[pixels] * total, "part c h w -> part", "sum") / (total**2).sum()
        patches = np.s_[..., top : top + high, left : left + wide]
        shares = given[patches].sum((-2, -1)) / whole[patches].sum()
        assert shares == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-5)
        assert shares.sum() == pytest.approx(1, abs=1e-3)
    sizes = reduce(getattr(found, of) ** 2, "part c h w -> part", "mean").sqrt()
    assert unpacked(answer["sizes"]) == pytest.approx(sizes.numpy())
    json.dumps(answer, allow_nan=False)


@pytest.mark.parametrize("name", MODELS)
def test_the_pictures_add_up_to_the_prediction_however_large_what_cancels_is(name):
    opened = OPENED[name]
    for step in 0, 3:  # at the first step x_t itself is hundreds of times the sum
        found = opened.trajectory.contributions(opened.model, step, sample=1, half="guided")
        pictures, theirs = pictures_of(opened, asking(opened, step=step)), found.x0.numpy()
        most = np.abs(theirs).max((1, 2, 3), keepdims=True)
        assert (np.abs(pictures - theirs) <= most / 254 + 1e-6).all()
        outside = [part.block is None for part in found.parts]
        assert (pictures[outside] == theirs[outside]).all()
        assert np.abs(pictures.sum(0) - theirs.sum(0)).max() <= most[~np.array(outside)].sum() / 254 + 1e-4


def test_parts_too_many_to_be_sent_are_drawn_coarser():
    assert coarseness(torch.Size((40, 1, 28, 28))) == 1
    assert coarseness(torch.Size((509, 4, 64, 64))) == 2
    assert coarseness(torch.Size((509, 4, 66, 66))) == 3  # 2 is not enough
    found = OPENED["latent"].trajectory.contributions(MODELS["latent"], 1)
    pictures = found.x0.repeat(1, 1, 16, 16)[:, :, :128, :192]
    answer = drawn(found.parts, pictures)
    assert answer["coarse"] == coarseness(pictures.shape) > 1
    coarse = reduce(pictures, "part c (h p) (w q) -> part c h w", "mean", p=answer["coarse"], q=answer["coarse"])
    assert (unpacked(answer["outer"]) == coarse[[part.block is None for part in found.parts]].numpy()).all()


@pytest.mark.parametrize("name", ["adaln_zero", "u_dit"])
def test_all_steps_are_the_librarys_norms_and_the_shares_of_the_region(name):
    opened = OPENED[name]
    run, side = opened.trajectory, opened.config.stages[0].patch
    answer, told = PANEL.answer(opened, dict(look="steps", sample=1, half="cond", of="x0", region=[1, 0, 1, 2])), []
    with pytest.raises(StopIteration) as end:
        while True:
            told.append(next(answer))
    assert [each.done for each in told] == [0, 1, 2, 3] and all(isinstance(each, Progress) for each in told)
    found = end.value.value
    assert unpacked(found["norms"]) == pytest.approx(run.contribution_norms(opened.model, sample=1)[1].numpy())
    parts = run.contributions(opened.model, 3, sample=1).x0.double()[..., side : 2 * side, : 2 * side]
    total = parts.sum(0)
    expected = reduce(parts * total, "part c h w -> part", "sum") / (total**2).sum()
    assert unpacked(found["shares"])[:, 3] == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-5)
    assert unpacked(found["shares"]).sum(0) == pytest.approx(np.ones(4), abs=1e-3)


def test_a_step_taken_without_guidance_is_split_as_it_was_taken():
    opened = opened_of(MODELS["adaln_zero"], cfg_interval=(0, 400))
    assert PANEL.data(opened)["halves"] == ["guided", "cond", "uncond"]
    assert asking(opened, step=0)["half"] == "cond" and asking(opened, step=3)["half"] == "guided"
    assert asking(opened, "lens", step=0)["half"] == "cond"
    found = asking(opened, "steps", region=None)
    cond = opened.trajectory.contribution_norms(opened.model, sample=1)[1].numpy()
    assert unpacked(found["norms"])[:, 0] == pytest.approx(cond[:, 0])
    assert unpacked(found["norms"])[:, 3] != pytest.approx(cond[:, 3])
    alone = opened_of(random_model(num_classes=0), [0, 0], cfg_scale=1.0)
    assert PANEL.data(alone)["halves"] == ["cond"]
    with pytest.raises(ValueError, match="Half must be one of cond, not 'guided'"):
        asking(alone)
    assert asking(alone, half="cond")["error"] < 1e-4


@pytest.mark.parametrize("name", ["adaln_zero", "u_dit"])
def test_the_lens_is_the_librarys_and_its_last_picture_the_prediction(name):
    opened = OPENED[name]
    answer = asking(opened, "lens")
    found = opened.trajectory.lens(opened.model, 2, sample=1)
    assert answer["blocks"] == list(range(opened.config.depth))
    picture = np.asarray(Image.open(io.BytesIO(b64decode(answer["atlas"]["uri"].split(",")[1]))).convert("RGB"))
    w, h, columns = (answer["atlas"][key] for key in ("width", "height", "columns"))
    for block, expected in enumerate(as_pictures(found)):
        top, left = block // columns * h, block % columns * w
        assert (picture[top : top + h, left : left + w] == expected).all()
    assert answer["alike"] == pytest.approx(
        [np.corrcoef(each.flatten(), found[-1].flatten())[0, 1] for each in found.double().numpy()]
    )


def test_of_a_latent_models_lens_a_vae_decodes_some_blocks_with_progress():
    model = random_model(in_channels=4, depth=15)
    opened = opened_of(model, codec=Autoencoder(tiny_vae()), clip_x0=False)
    answer, told = PANEL.answer(opened, dict(look="lens", step=1, sample=0, half="guided")), []
    with pytest.raises(StopIteration) as end:
        while True:
            told.append(next(answer))
    found = end.value.value
    assert len(found["blocks"]) == 12 and (found["blocks"][0], found["blocks"][-1]) == (0, 14)
    assert len(found["alike"]) == 15 and found["atlas"]["height"] == 16  # pictures, not latents
    assert len(told) == 13 and told[-1].total == 12


def test_a_repeated_look_is_answered_from_memory():
    opened = opened_of(MODELS["adaln_zero"])
    for look in "parts", "steps", "lens":
        first = asking(opened, look)
        assert PANEL.answer(opened, dict(look=look, step=2, sample=1, half="guided", of="x0")) is first


def test_hostile_requests_get_a_sentence_before_any_work():
    opened, parts = OPENED["adaln_zero"], dict(look="parts", step=0, sample=0, half="cond", of="x0")
    steps = parts | dict(look="steps")
    refused = [
        (dict(), "Look must be one of parts, steps, lens, not None"),
        (parts | dict(step=4), "Step must be a whole number from 0 to 3, not 4"),
        (parts | dict(sample="0"), "Sample must be a whole number"),
        (parts | dict(half="both"), "Half must be one of guided, cond, uncond"),
        (parts | dict(of="output"), "Of must be one of x0, eps"),
        (steps | dict(region="all"), "A region must be \\[row, column, rows, columns\\]"),
        (steps | dict(region=[0, 0, 3, 1]), "Its rows must be a whole number from 1 to 2, not 3"),
        (steps | dict(region=[2, 0, 1, 1]), "The region's row must be a whole number from 0 to 1"),
        (steps | dict(region=[0, 0, 1, float("inf")]), "Its columns must be a whole number"),
        (steps | dict(region=[0, 0, 0, 1]), "Its rows must be a whole number from 1"),
    ]
    for request, sentence in refused:
        with pytest.raises(ValueError, match=sentence):
            PANEL.answer(opened, request)


def test_what_cannot_be_split_says_why():
    run = OPENED["adaln_zero"].trajectory
    assert "Only the recording is open" in PANEL.data(Opened(run))["why"]
    with pytest.raises(ValueError, match="Only the recording"):
        PANEL.answer(Opened(run), dict(look="parts"))
    model = random_model()
    opened = opened_of(model)
    with torch.no_grad():
        model.out.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN or Inf"):
        asking(opened)


def test_the_still_is_all_parts_as_pictures():
    assert "What each part gave to predicted x0" in PANEL.still(OPENED["adaln_zero"], step=1).get_suptitle()


# In the browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A page of the zoo's MNIST model with some looks in it, and the run."""
    loaded = load("mnist")
    run = record(loaded.model, [7], steps=6, cfg_scale=2.0, seed=0)
    opened = Opened(run, loaded.model, labels=loaded.labels, source="mnist")
    guided = dict(sample=0, half="guided")
    asked = [dict(look=look, step=step, of="x0", **guided) for look in ("parts", "lens") for step in (3, 4)]
    asked = [{k: v for k, v in each.items() if each["look"] == "parts" or k != "of"} for each in asked]
    asked += [dict(look="steps", of="x0", region=region, **guided) for region in (None, [3, 3, 1, 1])]
    asked.append(dict(look="parts", step=3, of="eps", **guided))
    html = page(opened, "contributions", asked={"contributions": asked}, place=dict(step=3, block=0))
    path = tmp_path_factory.mktemp("contributions") / "page.html"
    path.write_text(reachable(html))  # so that a test can scrub
    return path.as_uri(), opened


@pytest.fixture
def open_page(visit, shown):
    def opening(width=1280, scheme="light", tab=None):
        each = visit(shown[0], width, scheme=scheme, ready="[data-list] button")
        if tab:
            each.click(f"[data-tab={tab}]")
        return each

    return opening


def pixels(each, selector):
    return each.eval_on_selector(selector, "canvas => canvas.toDataURL()")


def said(value: float) -> str:
    """A share in the panel's words."""
    far, percent = abs(value), 100 * value
    text = f"{percent:.0f}" if far >= 0.0995 else f"{percent:.1f}" if far >= 9.5e-4 else f"{percent:.1g}"
    return (text if far >= 1e-6 else "0").replace("-", "−") + " %"


def ranking(opened, step=3, of="x0", box=np.s_[:, :], keep=lambda part: part.block is not None):
    """Shares of a box of pixels, the largest first: [(part, share)]."""
    found = opened.trajectory.contributions(opened.model, step, half="guided")
    parts = getattr(found, of).double()[(..., *box)]
    shares = (parts * parts.sum(0)).sum((1, 2, 3)) / (parts.sum(0) ** 2).sum()
    listed = [(part, share.item()) for part, share in zip(found.parts, shares, strict=True) if keep(part)]
    return sorted(listed, key=lambda line: -abs(line[1]))


def name_of(part) -> str:
    return f"block {part.block}, " + ("MLP" if part.kind == "mlp" else f"head {part.head}")


def test_parts_are_ranked_by_their_share_of_the_whole_and_of_a_clicked_patch(open_page, shown):
    each, opened = open_page(), shown[1]
    lines = ranking(opened)
    names, shares = (each.locator(f"[data-list] {node}") for node in (".lab-contributions-name", "b"))
    assert shares.all_text_contents() == [said(share) for _, share in lines[:16]]
    assert names.first.text_content() == name_of(lines[0][0])
    total = sum(share for _, share in lines)
    summary = each.text_content("[data-summary]")
    assert f"gave {said(total)} of the whole picture; all else gave {said(1 - total)}, that is" in summary
    box = each.query_selector("[data-box]").bounding_box()
    each.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert each.evaluate("lab.patch") == 24 and each.input_value("[data-region]") == "1"
    lines = ranking(opened, box=np.s_[12:16, 12:16])
    assert shares.all_text_contents() == [said(share) for _, share in lines[:16]]
    assert names.first.text_content() == name_of(lines[0][0])
    each.select_option("[data-region]", "3")
    assert shares.first.text_content() == said(ranking(opened, box=np.s_[8:20, 8:20])[0][1])


def test_a_dragged_rectangle_is_the_region(open_page, shown):
    each, opened = open_page(), shown[1]
    box = each.query_selector("[data-box]").bounding_box()
    each.mouse.move(box["x"] + 2, box["y"] + 2)
    each.mouse.down()
    each.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.2, steps=4)
    each.mouse.up()
    assert each.input_value("[data-region]") == "drag" and each.evaluate("lab.patch") is None
    assert "2 × 3 patches from row 0, column 0" in each.text_content("[data-summary]")
    lines = ranking(opened, box=np.s_[0:8, 0:12])
    assert each.locator("[data-list] b").first.text_content() == said(lines[0][1])


def test_the_patch_is_moved_and_a_part_is_chosen_by_keyboard(open_page):
    each = open_page()
    each.focus("[data-box]")
    for key in "ArrowRight", "ArrowDown", "ArrowLeft":
        each.keyboard.press(key)
    assert each.evaluate("lab.patch") == 7 * 4 + 2 and "row 4, column 2" in each.get_attribute(
        "[data-box]", "aria-label"
    )
    before = pixels(each, "[data-chosen]")
    each.locator("[data-list] button").nth(2).focus()
    name = each.locator("[data-list] .lab-contributions-name").nth(2).text_content()
    each.keyboard.press("Enter")
    assert pixels(each, "[data-chosen]") != before and each.text_content("[data-chosen-name]") == name
    assert each.evaluate("document.activeElement.dataset.entry") == name
    assert f"block {each.evaluate('lab.block')}, " in name


@pytest.mark.parametrize(
    ("kind", "count", "keep"),
    [
        ("heads", 24, lambda part: part.head is not None), ("mlp", 6, lambda part: part.kind == "mlp"),
        ("all", 41, lambda part: True),
    ],
)  # fmt: skip
def test_kinds_are_kept_apart_and_all_parts_are_a_hundred_percent(open_page, shown, kind, count, keep):
    each = open_page()
    each.select_option("[data-kind]", kind)
    lines = ranking(shown[1], keep=keep)
    if count > 16:
        each.click(f"text=Show all {count}")
    assert each.locator("[data-list] b").all_text_contents() == [said(share) for _, share in lines]
    if kind == "all":
        assert "all parts together gave 100 % of the whole picture." in each.text_content("[data-summary]")


def test_a_block_as_a_whole_is_the_sum_of_its_parts(open_page, shown):
    each = open_page()
    each.select_option("[data-kind]", "blocks")
    sums = {}
    for part, share in ranking(shown[1]):
        sums[part.block] = sums.get(part.block, 0) + share
    assert sorted(each.locator("[data-list] b").all_text_contents()) == sorted(map(said, sums.values()))


def test_the_running_sum_ends_at_the_prediction_and_begins_without_the_list(open_page, shown):
    each, opened = open_page(), shown[1]
    found = opened.trajectory.contributions(opened.model, 3, half="guided")
    draw = "canvas => [...canvas.getContext('2d').getImageData(0, 0, 28, 28).data].filter((_, i) => i % 4 === 0)"
    total = as_pictures(found.x0.sum(0)[None])[0, ..., 0].flatten()
    assert np.abs(np.array(each.eval_on_selector("[data-sum]", draw)) - total).max() <= 2
    each.focus("[data-first]")
    each.keyboard.press("Home")
    rest = found.x0[[part.block is None for part in found.parts]].sum(0)
    expected = as_pictures(rest[None])[0, ..., 0].flatten()
    assert np.abs(np.array(each.eval_on_selector("[data-sum]", draw)) - expected).max() <= 1
    assert each.get_attribute("[data-first]", "aria-valuetext") == "All else alone, without the list."
    each.keyboard.press("ArrowRight")
    assert each.text_content("[data-sum-told]") == "All else, and the first 1 of the list."


def test_it_follows_the_scrubber_and_what_is_given_to(open_page, shown):
    each, opened = open_page(), shown[1]
    first = each.locator("[data-list] b").first
    each.evaluate("lab.set({ step: 4 })")
    each.wait_for_selector("[data-summary]:has-text('At step 5 of 6')")
    assert first.text_content() == said(ranking(opened, 4)[0][1])
    each.evaluate("lab.set({ step: 3 })")
    each.select_option("[data-of]", "eps")
    each.wait_for_selector("[data-drawn]:has-text('a pixel of the noise')")
    assert first.text_content() == said(ranking(opened, of="eps")[0][1])
    each.evaluate("lab.set({ step: 0 })")
    each.wait_for_selector(".lab-told.lab-wrong")
    assert "no model behind it" in each.text_content("[data-told]")
    assert "At step 4 of 6" in each.text_content("[data-summary]")  # what was seen stays, and says of when it is
    each.evaluate("lab.set({ run: { ...lab.run, id: 'another' } })")  # whose data is not there yet
    assert each.text_content("[data-why]") == "…" and not each.is_visible("[data-body]")


def test_all_steps_show_sizes_and_shares_and_a_click_sets_step_and_part(open_page, shown):
    each, opened = open_page(tab="steps"), shown[1]
    each.wait_for_selector("[data-steps-found]:not([hidden])")
    parts, norms = opened.trajectory.contribution_norms(opened.model, half="guided")
    each.click("[data-map]", position={"x": 4, "y": 4})
    assert each.evaluate("[lab.step, lab.block, lab.head]") == [0, 0, 0]
    row = parts.index(next(part for part in parts if (part.block, part.head) == (0, 0)))
    assert each.text_content("[data-read]") == f"block 0, head 0 at step 1 of 6, t = 999: {norms[row, 0].item():.3g}"
    each.keyboard.press("ArrowRight")
    assert each.text_content("[data-read]").endswith(f"{norms[row, 1].item():.3g}")
    each.evaluate("lab.set({ patch: 24 })")
    each.select_option("[data-shown]", "shares")
    each.select_option("[data-region]", "1")
    each.wait_for_selector("text=What share of the patch in row 3, column 3")
    lines = dict((str(part), share) for part, share in ranking(opened, 1, box=np.s_[12:16, 12:16]))
    assert each.text_content("[data-read]").endswith(": " + said(lines["block 0 head 0"]))


def test_the_lens_is_a_picture_a_block_and_one_can_be_chosen(open_page, shown):
    each, opened = open_page(tab="lens"), shown[1]
    each.wait_for_selector("[data-lens] button")
    found = opened.trajectory.lens(opened.model, 3)
    alike = [np.corrcoef(one.flatten(), found[-1].flatten())[0, 1] for one in found.double().numpy()]
    told = each.locator("[data-lens] small").all_text_contents()
    assert told == [f"{value:.2f}".replace("-", "−") for value in alike[:-1]] + ["the prediction"]
    each.focus("[data-lens] [data-block='4']")
    each.keyboard.press("Enter")
    assert each.evaluate("lab.block") == 4
    assert each.get_attribute("[data-lens] [data-block='4']", "aria-pressed") == "true"
    before = pixels(each, "[data-lens] [data-block='2'] canvas")
    each.evaluate("lab.set({ step: 4 })")
    each.wait_for_selector("[data-lens-told]:has-text('At step 5 of 6')")
    assert pixels(each, "[data-lens] [data-block='2'] canvas") != before


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [340, 390, 820, 1280])
def test_nothing_overflows(open_page, width, scheme):
    each = open_page(width, scheme)
    for tab, there in ("parts", "[data-list] button"), ("steps", "[data-map]"), ("lens", "[data-lens] button"):
        each.click(f"[data-tab={tab}]")
        each.wait_for_selector(there)
        assert each.evaluate("document.documentElement.scrollWidth") <= width
        wide = "all => all.filter(e => e.getBoundingClientRect().right > innerWidth + 1).length"
        assert each.eval_on_selector_all(".lab-contributions *", wide) == 0
