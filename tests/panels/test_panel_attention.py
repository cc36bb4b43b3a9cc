"""The panel Attention: its weights and numbers are the trajectory's, in any model, and its page shows just those."""

import json
import math
from base64 import b64decode

import numpy as np
import pytest
import torch
from shared import random_model, random_udit
from small_host import reachable

from dit_lab.checkpoints import load
from dit_lab.inside import attended_by, attention_numbers, received, record, token_under, trajectory_rollout
from dit_lab.panels import Opened, Progress, attention, page
from dit_lab.panels.attention import NUMBERS, PANEL

OPTIONS = dict(steps=3, cfg_scale=2.0, seed=3)
MODELS = {name: random_model(name) for name in ("adaln_zero", "in_context", "cross_attention", "adaln")}
AT = dict(step=1, sample=1, half="uncond")


def opened_of(model, labels=(1, 4), **options) -> Opened:
    return Opened(record(model, list(labels), **OPTIONS | options), model, labels=list("abcde"), source="random")


def unpacked(packed) -> torch.Tensor:
    half = "half" in packed
    values = np.frombuffer(b64decode(packed["half" if half else "data"]), "<f2" if half else "<f4")
    return torch.from_numpy(values.reshape(packed["shape"]).astype("f4"))


@pytest.fixture
def opened():
    return opened_of(MODELS["adaln_zero"])


def counted(model):
    """How often a model ran: a list that grows."""
    ran = []
    model.register_forward_hook(lambda *_: ran.append(1))
    return ran


@pytest.mark.parametrize("name", [*MODELS])
def test_a_patchs_rows_are_those_of_the_trajectory_in_every_kind_of_attention_from_one_forward(name):
    opened = opened_of(MODELS[name])
    ran = counted(opened.model)
    found = PANEL.asked(opened, dict(look="rows", patch=4) | AT)
    assert len(ran) == 1
    (stage,) = found["stages"]
    kinds = PANEL.data(opened)["kinds"]
    assert kinds == (["attn", "cross"] if name == "cross_attention" else ["attn"]) and {*stage} == {"first", *kinds}
    for kind in kinds:
        for block in range(3):
            theirs = opened.trajectory.attention(opened.model, block=block, queries=[4], kind=kind, **AT)[:, 0]
            assert torch.equal(unpacked(stage[kind])[block], theirs)


@pytest.mark.parametrize("downsample", ["token", "kv", "none"])
def test_in_a_u_dit_every_stage_has_the_rows_of_the_token_over_the_patch(downsample):
    opened = opened_of(random_udit(downsample=downsample))
    run, config = opened.trajectory, opened.config
    found = PANEL.asked(opened, dict(look="rows", patch=45) | AT)
    firsts = [blocks.start for blocks in config.stage_blocks.values()]
    assert [each["first"] for each in found["stages"]] == firsts
    for stage, blocks in zip(found["stages"], config.stage_blocks.values(), strict=True):
        grid, patch = run.grid_of(blocks[0]), config.stage_of(blocks[0]).patch
        query = token_under(45, run.grid, config.stages[0].patch, grid, patch)
        theirs = torch.stack([run.attention(opened.model, block=b, queries=[query], **AT)[:, 0] for b in blocks])
        assert torch.equal(unpacked(stage["attn"]), theirs)
    strides = {"token": (2, 24), "kv": (1, 24), "none": (1, 96)}[downsample]
    first = PANEL.data(opened)["stages"][0]
    assert (first["stride"], first["keys"]) == strides


@pytest.mark.parametrize("make", [lambda: MODELS["in_context"], random_udit])
def test_who_looks_at_a_patch_what_tokens_receive_and_what_reaches_a_patch_are_the_librarys(make):
    opened = opened_of(make())
    run, model, config = opened.trajectory, opened.model, opened.config
    block = config.depth - 1
    name, blocks = [*config.stage_blocks.items()][-1]
    where = dict(stage=name, sample=1, half="uncond")
    query = token_under(5, run.grid, config.stages[0].patch, run.grid_of(block), config.stage_of(block).patch)
    theirs = {
        "attended": attended_by(run, model, 1, query, **where),
        "received": received(run, model, 1, **where),
        "rollout": trajectory_rollout(run, model, 1, **where)[query][None, None],
    }
    for look, expected in theirs.items():
        (stage,) = PANEL.asked(opened, dict(look=look, patch=5, block=block) | AT)["stages"]
        assert stage["first"] == blocks[0] and torch.equal(unpacked(stage["attn"]), expected.float())


@pytest.mark.parametrize(("look", "token"), [("time", 0), ("label", 1)])
def test_what_every_patch_gives_a_token_of_the_condition(look, token):
    joined, crossed = opened_of(MODELS["in_context"]), opened_of(MODELS["cross_attention"])
    (stage,) = PANEL.asked(joined, dict(look=look, block=2) | AT)["stages"]
    for block in range(3):
        whole = joined.trajectory.attention(joined.model, block=block, **AT)
        torch.testing.assert_close(unpacked(stage["attn"])[block], whole[:, :, 6 + token], rtol=1e-5, atol=1e-7)
    (stage,) = PANEL.asked(crossed, dict(look=look, block=2) | AT)["stages"]
    for block in range(3):
        whole = crossed.trajectory.attention(crossed.model, block=block, kind="cross", **AT)
        assert torch.equal(unpacked(stage["attn"])[block], whole[:, :, token])
    with pytest.raises(ValueError, match="adaLN-Zero blocks attend to no token of the condition"):
        PANEL.asked(opened_of(MODELS["adaln_zero"]), dict(look=look, block=0) | AT)


@pytest.mark.parametrize("name", ["adaln_zero", "in_context", "cross_attention"])
def test_the_numbers_of_all_heads_are_those_of_attention_numbers_at_a_step_and_over_the_run(name):
    opened = opened_of(MODELS[name])
    found = PANEL.asked(opened, dict(look="numbers") | AT)
    walked = PANEL.answer(opened, dict(look="run", sample=1, half="uncond"))
    told = []
    with pytest.raises(StopIteration) as end:
        while True:
            told.append(next(walked))
    assert told == [Progress(step, 3, f"attention of step {step + 1} of 3") for step in range(3)]
    for kind in PANEL.data(opened)["kinds"]:
        theirs = attention_numbers(opened.trajectory, opened.model, sample=1, half="uncond", kind=kind)
        whole = torch.stack([getattr(theirs, number) for number in NUMBERS])  # number block head step
        same = dict(equal_nan=True, rtol=0, atol=0)
        torch.testing.assert_close(unpacked(found[kind]), whole[..., 1], **same)
        torch.testing.assert_close(unpacked(end.value.value[kind]), torch.stack(whole.unbind(-1)), **same)
    json.dumps([found, end.value.value], allow_nan=False)
    assert PANEL.answer(opened, dict(look="run", sample=1, half="uncond")) is end.value.value


@pytest.mark.parametrize("look", ["rows", "attended", "received", "rollout", "numbers"])
def test_a_repeated_look_asks_the_model_nothing(opened, look):
    ran, request = counted(opened.model), dict(look=look, patch=3, block=0) | AT
    found = PANEL.asked(opened, request)
    assert len(ran) == 1
    # Another block of the same stage is in the answer already.
    assert PANEL.asked(opened, request | dict(block=2)) is found and len(ran) == 1
    assert PANEL.asked(opened, request | dict(step=0)) is not found and len(ran) == 2


def test_a_rollout_is_kept_for_other_patches(opened):
    ran = counted(opened.model)
    for patch in range(6):
        PANEL.asked(opened, dict(look="rollout", patch=patch, block=0) | AT)
    assert len(ran) == 1


def test_many_weights_are_sent_in_half_the_bytes(opened, monkeypatch):
    request = dict(look="rows", patch=4) | AT
    exact = PANEL.asked(opened, request)["stages"][0]["attn"]
    monkeypatch.setattr(attention, "MOST_EXACT", 10)
    opened.remembered.clear()
    halved = PANEL.asked(opened, request)["stages"][0]["attn"]
    assert len(halved["half"]) < 0.6 * len(exact["data"])
    torch.testing.assert_close(unpacked(halved), unpacked(exact), rtol=5e-4, atol=1e-7)


def test_hostile_requests_get_a_sentence_before_any_work(opened):
    ran = counted(opened.model)
    rows = dict(look="rows", patch=4) | AT
    refused = [
        (dict(), "Look must be one of rows, attended, received, rollout, time, label, numbers, run, not None"),
        (dict(look="__class__"), "Look must be one of"),
        (dict(look=["rows"]), "Look must be one of"),
        (rows | dict(patch=6), "Patch must be a whole number from 0 to 5, not 6"),
        (rows | dict(patch=None), "Patch must be a whole number"),
        (rows | dict(patch=True), "Patch must be a whole number"),
        (rows | dict(step=float("nan")), "Step must be a whole number from 0 to 2, not nan"),
        (rows | dict(step="1; drop"), "Step must be a whole number"),
        (rows | dict(sample=-1), "Sample must be a whole number from 0 to 1, not -1"),
        (rows | dict(half="both"), "Half must be one of cond, uncond, not 'both'"),
        (rows | dict(look="attended", block=3), "Block must be a whole number from 0 to 2, not 3"),
        (rows | dict(look="rollout"), "Block must be a whole number from 0 to 2, not None"),
        (dict(look="run", sample=0), "Half must be one of"),
    ]
    for request, sentence in refused:
        with pytest.raises(ValueError, match=sentence):
            PANEL.answer(opened, request)
    assert not ran


def test_a_recording_and_a_model_of_nan_say_why():
    run = opened_of(MODELS["adaln_zero"]).trajectory
    alone = Opened(run)
    assert "Only the recording is open" in PANEL.data(alone)["why"]
    with pytest.raises(ValueError, match="Only the recording is open"):
        PANEL.asked(alone, dict(look="rows", patch=0) | AT)
    broken = opened_of(random_model())
    with torch.no_grad():
        broken.model.blocks[0].attn.qkv.bias.fill_(math.nan)
    for look in "rows", "received", "numbers":
        with pytest.raises(ValueError, match="The attention of this step is NaN or Inf"):
            PANEL.asked(broken, dict(look=look, patch=0, block=0) | AT)


def test_a_model_without_classes_has_one_pass():
    opened = opened_of(random_model(num_classes=0), [0, 0], cfg_scale=1.0)
    assert PANEL.asked(opened, dict(look="rows", patch=0, step=0, sample=0, half="cond"))["stages"]
    with pytest.raises(ValueError, match="Half must be one of cond, not 'uncond'"):
        PANEL.asked(opened, dict(look="rows", patch=0) | AT)


def test_the_still_is_the_overlay_of_the_token_over_the_patch(opened):
    assert "patch 4" in PANEL.still(opened, step=1, patch=4, block=2, half="cond").get_suptitle()
    assert "patch 1" in PANEL.still(opened_of(random_udit()), patch=14, block=2, head="mean").get_suptitle()


# In the browser ----------------------------------------------------------------------------------------------------

# A second panel beside the saved one, whose answers a test lets out one by one: window.out holds those that wait.
ASKING = """async () => {
  const { panels: [{ script, data }] } = JSON.parse(document.getElementById("lab-data").textContent);
  const module = await import(URL.createObjectURL(new Blob([script], { type: "text/javascript" })));
  document.querySelector("main").replaceChildren();
  const element = document.querySelector("main").appendChild(document.createElement("section"));
  window.out = [];
  const send = (request, told) => new Promise((resolve, reject) => out.push({ request, told, resolve, reject }));
  window.view = module.mount({ element, data, send, lab });
}"""
# Answers the oldest waiting request of a look with the saved answer of another step.
LET = """(look) => {
  const at = out.findIndex((each) => each.request.look === look), [one] = out.splice(at, 1);
  const { answers } = JSON.parse(document.getElementById("lab-data").textContent);
  one.resolve(answers.find((each) => each.request.look === look).answer);
  return one.request;
}"""


def asks(opened, patch, steps=(3,), block=0, looks=("attended", "received", "rollout")):
    """Requests as the page makes them."""
    at = dict(sample=0, half="cond")
    asked = [dict(look="rows", step=step, patch=patch) | at for step in steps]
    asked += [dict(look="numbers", step=step) | at for step in steps]
    of_patch = lambda look: dict(patch=patch) if look in ("attended", "rollout") else {}
    asked += [dict(look=look, step=steps[0], block=block) | at | of_patch(look) for look in looks]
    return [*asked, dict(look="run") | at]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Pages of the panel, with their answers in them, and what was opened: zoo models by name, "wide" a random one."""
    folder, made = tmp_path_factory.mktemp("attention"), {}

    def page_of(name, **asked):
        if name not in made:
            if name == "wide":
                opened = opened_of(random_model(input_size=(16, 24), depth=12, heads=16, dim=64), [1], steps=6)
            else:
                loaded = load(name)
                run = record(loaded.model, [7], steps=6, cfg_scale=2.0)
                opened = Opened(run, loaded.model, labels=loaded.labels, source=name)
            rows, columns = opened.trajectory.grid
            patch = rows // 2 * columns + columns // 2
            place = dict(step=3, block=1, head=1, patch=patch)
            requests = asks(opened, patch, **asked)
            html = page(opened, "attention", asked={"attention": requests}, place=place)
            (folder / f"{name}.html").write_text(reachable(html))
            made[name] = opened, patch
        return (folder / f"{name}.html").as_uri(), *made[name]

    return page_of


@pytest.fixture
def open_page(visit):
    return lambda address, width=1280, scheme="light": visit(address, width, scheme=scheme)


def share(value) -> str:
    """A weight as the page says it."""
    value = float(value)
    number = "0" if not value > 0 else "<\xa00.001" if value < 1e-5 else f"{float(f'{100 * value:.3g}'):g}"
    return f"{number}\xa0%"


def pixels(each, selector):
    """A canvas's colours, `h w 3`."""
    ask = """canvas => [canvas.height, canvas.width,
        ...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data]"""
    h, w, *data = each.eval_on_selector(selector, ask)
    return np.array(data).reshape(h, w, 4)[..., :3]


def colours(each, name, shares):
    """The colours of a map, those of its legend, at shares of the scale: `h w -> h w 3`."""
    ask = "([name, shares]) => shares.map((row) => row.map((share) => lab.colour(name, share)))"
    return np.array(each.evaluate(ask, [name, shares.tolist()]))


def weights(opened, patch, block=1, step=3, half="cond", **how):
    """A patch's rows in all heads, the mean first: `head j`."""
    rows = opened.trajectory.attention(opened.model, step, block=block, half=half, queries=[patch], **how)[:, 0]
    return torch.cat([rows.mean(0, keepdim=True), rows])


def move_to(each, selector, row, column, rows, columns):
    """Point at a token of a picture."""
    box = each.locator(selector).bounding_box()
    place = {"x": (column + 0.5) / columns * box["width"], "y": (row + 0.5) / rows * box["height"]}
    each.hover(selector, position=place)


MAP, PICTURE = "[data-stack=map]", "[data-stack=picture]"


@pytest.mark.parametrize("head", ["1", "mean"])
def test_the_map_has_the_colours_of_its_legend_and_the_numbers_of_the_library(open_page, saved, head):
    address, opened, patch = saved("mnist")
    each = open_page(address)
    each.select_option("[data-head]", head)
    row = weights(opened, patch)[0 if head == "mean" else 2]
    grid = row.reshape(7, 7)
    drawn = pixels(each, "[data-over=map]")
    assert np.abs(drawn - colours(each, "inferno", grid / grid.max())).max() <= 1  # the mean is summed in another order
    assert each.text_content("[data-top]") == share(grid.max())
    assert each.eval_on_selector("[data-over=map]", "canvas => getComputedStyle(canvas).opacity") == "1"
    for r, c in ((0, 0), (4, 3), (6, 5)):
        for stack in MAP, PICTURE:
            move_to(each, stack, r, c, 7, 7)
            assert f"it gives {share(grid[r, c])} to row {r}, column {c}." in each.text_content("[data-readout]")


def test_all_heads_are_on_one_scale_and_say_their_weights(open_page, saved):
    address, opened, patch = saved("mnist")
    each, rows = open_page(address), weights(opened, patch)
    assert each.text_content("[data-all-top]") == share(rows.max())
    for number, row in enumerate(rows):
        button = f"[data-grid] button:nth-child({number + 1})"
        drawn = pixels(each, f"{button} canvas")
        assert np.abs(drawn - colours(each, "inferno", row.reshape(7, 7) / rows.max())).max() <= 1
        assert f"up to {share(row.max())}" in each.text_content(button)
        move_to(each, f"{button} .lab-attention-stack", 2, 5, 7, 7)
        assert f"it gives {share(row[19])} to row 2, column 5." in each.text_content("[data-readout]")
    each.focus("[data-grid] button:nth-child(4)")
    each.keyboard.press("Enter")
    assert each.evaluate("lab.head") == 2 and each.input_value("[data-head]") == "2"
    assert each.evaluate("[...document.activeElement.parentElement.children].indexOf(document.activeElement)") == 3


def test_the_picture_through_the_map_shows_in_the_legend_too(open_page, saved):
    each = open_page(saved("mnist")[0])
    each.focus("[data-through]")
    for _ in range(8):
        each.keyboard.press("ArrowRight")
    style = "node => getComputedStyle(node).opacity"
    assert each.eval_on_selector("[data-over=map]", style) == each.eval_on_selector("[data-legend]", style) == "0.6"
    assert each.text_content("[data-through-told]") == "40 %"
    under = pixels(each, "[data-under=map]")
    assert under.std() > 20 and (under == pixels(each, "[data-under=picture]")).all()


def test_arrow_keys_move_the_patch_and_with_shift_they_read(open_page, saved):
    address, opened, patch = saved("mnist", steps=(3,))
    each = open_page(address)
    each.focus(PICTURE)
    each.keyboard.press("Shift+ArrowUp")
    each.keyboard.press("Shift+ArrowLeft")
    row = weights(opened, patch)[2]
    assert each.text_content("[data-readout]") == f"Head 1: it gives {share(row[16])} to row 2, column 2."
    assert each.evaluate("lab.patch") == patch
    each.keyboard.press("ArrowRight")
    each.keyboard.press("ArrowDown")
    assert each.evaluate("lab.patch") == patch + 8
    # That patch was not asked for: a sentence says so, and the map stays and says what it is of.
    each.wait_for_selector("[data-told].lab-wrong")
    assert "no model behind it" in each.text_content("[data-told]")
    assert each.text_content(f"{MAP} [data-badge]") == "of row 3, column 3" and each.is_visible("[data-badge] >> nth=1")
    each.focus(MAP)
    each.keyboard.press("ArrowUp")
    each.keyboard.press("ArrowLeft")
    each.wait_for_function("!document.querySelector('[data-told]').textContent")
    assert each.is_hidden(f"{MAP} [data-badge]") and each.evaluate("lab.patch") == patch


def test_a_click_chooses_the_patch_under_it(open_page, saved):
    each = open_page(saved("mnist")[0])
    for stack in PICTURE, MAP:
        each.evaluate("lab.set({ patch: 0 })")
        box = each.locator(stack).bounding_box()
        each.click(stack, position={"x": box["width"] * 3.5 / 7, "y": box["height"] * 3.5 / 7})
        assert each.evaluate("lab.patch") == 24


def test_it_follows_the_scrubber_and_the_last_map_stays_marked_until_the_new_one_is_there(open_page, saved):
    each = open_page(saved("mnist", steps=(3,))[0])
    each.evaluate(ASKING)
    assert each.text_content("[data-told]").startswith("Asking the model at step 4 of 6, t = ")
    each.evaluate(LET, "rows")
    each.wait_for_function("out.some((each) => each.request.look === 'numbers')")  # then its numbers, not before
    each.evaluate(LET, "numbers")
    each.wait_for_function("!document.querySelector('[data-counted]').textContent")
    before = pixels(each, "[data-over=map]")
    for step in (2, 1, 0):
        each.evaluate("step => lab.set({ step })", step)
    assert each.text_content("[data-badge] >> nth=1") == "of step 4" and each.is_visible("[data-badge] >> nth=1")
    assert (pixels(each, "[data-over=map]") == before).all()
    assert "Asking the model at step 1 of 6" in each.text_content("[data-told]")
    assert each.text_content("[data-now]").startswith("still of step 4")
    asked = each.evaluate("out.map((each) => each.request.look + each.request.step)")
    assert asked == ["rows2"]  # one request is out; of those that follow the last alone will go
    each.evaluate("out[0].told({ done: 0, total: 1, told: 'Third in the queue' })")
    assert each.text_content("[data-told]") == "Third in the queue"
    each.evaluate(LET, "rows")
    each.wait_for_function("out[0]?.request.look === 'rows'")
    assert each.evaluate("out[0].request.step") == 0 and each.is_visible("[data-badge] >> nth=1")
    each.evaluate(LET, "rows")
    each.wait_for_function("document.querySelectorAll('[data-badge]')[1].hidden")
    assert each.text_content("[data-told]") == ""


def test_a_refusal_is_a_sentence_and_another_run_clears_the_map(open_page, saved):
    each = open_page(saved("mnist")[0])
    each.evaluate(ASKING)
    each.evaluate("out.shift().reject(new Error('<b>The queue is full.</b>'))")
    each.wait_for_selector("[data-told].lab-wrong")
    assert each.text_content("[data-told]") == "<b>The queue is full.</b>"
    each.evaluate("lab.set({ run: { ...lab.run, id: 'another' } })")  # whose data is not there yet
    assert each.text_content("[data-why]") == "…" and each.is_hidden("[data-body]")
    each.evaluate(
        "view.update({ ...JSON.parse(document.getElementById('lab-data').textContent).panels[0].data, run: 'another' })"
    )
    assert each.is_visible("[data-body]") and each.is_hidden("[data-over=map]")


@pytest.mark.parametrize("look", ["attended", "received", "rollout"])
def test_each_way_of_looking_is_drawn_with_its_numbers(open_page, saved, look):
    address, opened, patch = saved("mnist")
    each = open_page(address)
    each.select_option("[data-look]", look)
    run, model = opened.trajectory, opened.model
    row = {
        "attended": lambda: attended_by(run, model, 3, patch)[1, 1], "received": lambda: received(run, model, 3)[1, 1],
        "rollout": lambda: trajectory_rollout(run, model, 3)[patch],
    }[look]()  # fmt: skip
    words = {"attended": "row 0, column 6 gives it {}", "received": "{} goes to row 0, column 6",
             "rollout": "{} of it is from row 0, column 6"}[look]  # fmt: skip
    each.wait_for_function("document.querySelector('[data-told]').textContent === ''")
    others = row.clone()
    if look == "rollout":
        others[patch] = 0
        assert each.text_content("[data-top]") == share(others.max()) + " and more" * bool(row[patch] > others.max())
        assert f"{share(row[patch])} of it stays there" in each.text_content("[data-readout]")
        assert each.is_hidden("[data-heads]") and each.is_disabled("[data-head]")
    shares = (row / others.max()).clamp(max=1).reshape(7, 7)
    assert np.abs(pixels(each, "[data-over=map]") - colours(each, "inferno", shares)).max() <= 1
    move_to(each, MAP, 0, 6, 7, 7)
    assert words.format(share(row[6])) in each.text_content("[data-readout]")


def test_in_a_u_dit_a_stage_is_named_and_a_token_sees_its_own_grid_only(open_page, saved):
    address, opened, patch = saved("mnist_udit")
    each = open_page(address)
    assert "encoder 1: 16 × 16 tokens in four grids" in each.text_content("[data-where]")
    assert each.is_visible("[data-views]") and each.is_visible("[data-interleaved]")
    row = weights(opened, patch)[2].reshape(16, 16)
    own = row[::2, ::2].repeat_interleave(2, 0).repeat_interleave(2, 1)  # the patch is in row 8 and column 8
    assert np.abs(pixels(each, "[data-over=map]") - colours(each, "inferno", own / row.max())).max() <= 1
    each.select_option("[data-view]", "picture")
    assert np.abs(pixels(each, "[data-over=map]") - colours(each, "inferno", row / row.max())).max() <= 1
    move_to(each, MAP, 3, 4, 16, 16)
    assert each.text_content("[data-readout]") == "The patch cannot see row 3, column 4, a token of another grid."
    middle = next(stage for stage in opened.stages() if stage["name"] == "middle")
    each.select_option("[data-block]", str(middle["first"]))
    assert "middle: 4 × 4 tokens" in each.text_content("[data-where]")
    assert pixels(each, "[data-over=map]").shape == (4, 4, 3)
    assert "Outlined: row 2, column 2, the token over the patch." in each.text_content("[data-readout]")
    stages = each.locator(".lab-attention-stage").all_text_contents()
    assert stages == [stage["name"] for stage in opened.stages()]


def test_in_context_models_show_the_two_tokens_of_the_condition_beside_the_map(open_page, saved):
    address, opened, patch = saved("mnist_in_context", looks=("time", "label"))
    each, row = open_page(address), weights(opened, patch)[2]
    told = each.locator("[data-tokens] > span").all_text_contents()
    assert told == [f"the time token gets {share(row[16])}", f"the class token gets {share(row[17])}"]
    assert f"condition {share(row[16:].sum())}" in each.text_content("[data-grid] button:nth-child(3)")
    each.select_option("[data-look]", "label")
    each.wait_for_function("document.querySelector('[data-tokens]').textContent.includes('gives')")
    column = attended_by(opened.trajectory, opened.model, 3, 17)[1, 1]
    move_to(each, MAP, 1, 2, 4, 4)
    assert f"row 1, column 2 gives {share(column[6])} to the class token" in each.text_content("[data-readout]")
    each.select_option("[data-measure]", "attn label")
    numbers = attention_numbers(opened.trajectory, opened.model)
    assert (
        each.text_content("[data-cell]")
        == f"block 1, head 1: {share(numbers.label[1, 1, 3])}, share on the class token."
    )


def test_cross_attention_is_shown_beside_self_attention(open_page, saved):
    address, opened, patch = saved("mnist_cross_attention", looks=("time", "label"))
    each, rows = open_page(address), weights(opened, patch, kind="cross")
    told = [cell.removesuffix("\xa0%") for cell in each.locator("[data-cross] td").all_text_contents() if cell]
    said = np.array(told, float).reshape(-1, 2)
    np.testing.assert_allclose(said, 100 * rows.numpy(), rtol=5.1e-3, atol=1e-3)
    each.select_option("[data-measure]", "cross label")
    numbers = attention_numbers(opened.trajectory, opened.model, kind="cross")
    cell = f"block 1, head 1: {share(numbers.label[1, 1, 3])}, share on the class token in cross-attention."
    assert each.text_content("[data-cell]") == cell
    each.select_option("[data-look]", "label")
    each.wait_for_function("document.querySelector('[data-crossing]').hidden")
    where = opened.trajectory.attention(opened.model, 3, block=1, kind="cross")[1, :, 1]
    assert (
        np.abs(pixels(each, "[data-over=map]") - colours(each, "inferno", (where / where.max()).reshape(4, 4))).max()
        <= 1
    )


@pytest.mark.parametrize("measure", ["entropy", "distance", "itself"])
def test_every_block_and_head_at_a_glance_and_over_the_run(open_page, saved, measure):
    address, opened, _ = saved("mnist")
    each = open_page(address)
    each.select_option("[data-measure]", f"attn {measure}")
    theirs = getattr(attention_numbers(opened.trajectory, opened.model), measure)
    said = (lambda value: share(value)) if measure == "itself" else (
        lambda value: f"{float(f'{float(value):.3g}'):g} {'nats' if measure == 'entropy' else 'patches'}")  # fmt: skip
    blocks, heads, steps = theirs.shape
    names = each.eval_on_selector_all("[data-cell-block]", "all => all.map((cell) => cell.getAttribute('aria-label'))")
    here = [f"block {b}, head {h}: {said(theirs[b, h, 3])}" for b in range(blocks) for h in range(heads)]
    assert names == here
    assert each.text_content("[data-most]") == said(theirs[..., 3].max())
    each.click("[data-measure-all]")
    each.wait_for_selector("[data-run]:not([hidden])")
    assert each.text_content("[data-most]") == f"{said(theirs.max())}, the largest of the run"
    drawn = pixels(each, "[data-over=run]")
    assert np.abs(drawn - colours(each, "viridis", theirs[1] / theirs.max())).max() <= 1
    each.focus("[data-stack=run]")
    each.keyboard.press("ArrowRight")
    each.keyboard.press("ArrowDown")
    assert each.evaluate("[lab.step, lab.head]") == [4, 2]
    assert each.text_content("[data-run-at]") == f"head 2, step 5: {said(theirs[1, 2, 4])}"
    assert each.text_content("[data-cell]").startswith(f"block 1, head 2: {said(theirs[1, 2, 4])}")


def test_the_glance_chooses_block_and_head_by_click_and_by_keys(open_page, saved):
    each = open_page(saved("mnist")[0])
    each.click("[data-cell-block='3'][data-cell-head='2']")
    assert each.evaluate("[lab.block, lab.head]") == [3, 2]
    each.keyboard.press("ArrowLeft")
    each.keyboard.press("ArrowDown")
    assert each.evaluate("[lab.block, lab.head]") == [4, 1]
    focused = "[document.activeElement.dataset.cellBlock, document.activeElement.dataset.cellHead]"
    assert each.evaluate(focused) == ["4", "1"]
    assert each.locator("[data-glance] [tabindex='0']").count() == 1
    assert each.text_content("[data-mapped]") == "block 4, head 1"


def test_it_says_which_pass_it_looks_into(open_page, saved):
    each = open_page(saved("mnist")[0])
    assert each.locator("[data-half] option").all_text_contents() == ["with class 7", "without a class"]
    assert "in the pass with class 7" in each.text_content("[data-what]")
    each.select_option("[data-half]", "uncond")
    assert each.evaluate("lab.half") == "uncond" and "in the pass without a class" in each.text_content("[data-what]")
    assert each.text_content("[data-badge] >> nth=1") == "of the pass with class 7"
    each.evaluate("lab.set({ run: { ...lab.run, labelNumbers: [10], labels: ['no class'] }, half: 'cond' })")
    assert "in the pass without a class" in each.text_content("[data-what]") and each.is_hidden("[data-passes]")
    each.evaluate(
        "lab.set({ run: { ...lab.run, labelNumbers: [7], guided: lab.run.guided.map(() => false) }, half: 'uncond' })"
    )
    assert "only for this look" in each.text_content("[data-pass]")


def test_weights_that_came_in_half_the_bytes_are_read_right(open_page, saved, monkeypatch):
    monkeypatch.setattr(attention, "MOST_EXACT", 100)
    address, opened, patch = saved("wide")
    each, row = open_page(address), weights(opened, patch)[2].reshape(4, 6)
    move_to(each, MAP, 2, 3, 4, 6)
    said = each.text_content("[data-readout]").split("gives ")[1].split("\xa0%")[0]
    assert float(said) == pytest.approx(100 * row[2, 3].item(), rel=6e-3)
    assert np.abs(pixels(each, "[data-over=map]") - colours(each, "inferno", row / row.max())).max() <= 2


def test_before_a_run_and_with_a_recording_alone_a_sentence_stands_there(open_page, saved, tmp_path):
    from small_host import hosted

    (tmp_path / "none.html").write_text(hosted(None, [(PANEL, None)]))
    each = open_page((tmp_path / "none.html").as_uri())
    assert each.text_content("[data-why]") == "Sample a picture first, then click a patch of it."
    run = saved("mnist")[1].trajectory
    (tmp_path / "recording.html").write_text(page(Opened(run), "attention"))
    each = open_page((tmp_path / "recording.html").as_uri())
    assert "Only the recording is open" in each.text_content("[data-why]") and each.is_hidden("[data-body]")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [340, 390, 820, 1280])
@pytest.mark.parametrize("name", ["mnist_udit", "mnist_cross_attention", "wide"])
def test_nothing_overflows(open_page, saved, name, width, scheme):
    more = dict(looks=("time", "label")) if "cross" in name else {}
    each = open_page(saved(name, **more)[0], width, scheme)
    each.click("[data-measure-all]")
    each.wait_for_selector("[data-run]:not([hidden])")
    assert each.evaluate("document.documentElement.scrollWidth") <= width
    wide = "all => all.filter((node) => node.getBoundingClientRect().right > innerWidth + 1).length"
    assert each.eval_on_selector_all(".lab-attention *:not(.lab-attention-sr)", wide) == 0
    # A picture is never smaller than its thumbnails, and all of its controls are above it or beside.
    sides = [each.locator(one).first.bounding_box()["width"] for one in (PICTURE, "[data-grid] .lab-attention-stack")]
    assert sides[0] > sides[1]


def test_without_a_patch_it_asks_for_one_and_the_numbers_are_there_already(open_page, saved):
    each = open_page(saved("mnist")[0])
    each.evaluate("lab.set({ patch: null })")
    each.evaluate(ASKING)
    assert each.text_content("[data-told]") == "Click a patch on the picture to see where it looks."
    assert each.is_visible("[data-empty] >> nth=1") and each.is_hidden("[data-heads]")
    each.wait_for_function("out.some((each) => each.request.look === 'numbers')")
    each.focus(PICTURE)
    each.keyboard.press("ArrowLeft")
    assert each.evaluate("lab.patch") == 24  # the middle one
    assert each.evaluate("out.map((each) => each.request.look)") == ["numbers", "rows"]


@pytest.mark.parametrize("width", [340, 1280])
def test_numbers_that_arrive_move_nothing_under_a_pointer(open_page, saved, width):
    each = open_page(saved("mnist")[0], width)
    each.evaluate(ASKING)
    each.evaluate(LET, "rows")
    button = each.locator("[data-measure-all]")
    button.scroll_into_view_if_needed()
    each.wait_for_function("out.some((each) => each.request.look === 'numbers')")
    before = button.bounding_box()
    each.evaluate(LET, "numbers")
    each.wait_for_function("document.querySelector('[data-now]').textContent")
    assert abs(button.bounding_box()["y"] - before["y"]) < 1
