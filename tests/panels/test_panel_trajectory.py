"""The trajectory panel: its numbers are the library's, what it draws is what was recorded, and it needs no server."""

import io
import json
from base64 import b64decode

import numpy as np
import pytest
import torch
from einops import rearrange, reduce
from looks import run_of
from PIL import Image
from shared import random_model, random_udit
from small_host import cut_off, hosted, shown

from dit_lab.data.previews import FalseColours
from dit_lab.diffusion import sample as sampled
from dit_lab.inside import Trajectory, guidance_field, path_spectra, record, signal_to_noise, x0_changes
from dit_lab.inside.plots import as_pictures
from dit_lab.panels import Opened, Progress, page, panel
from dit_lab.panels import opened as opening
from dit_lab.panels.trajectory import PANEL, downloads, preview, trajectory_bytes
from dit_lab.panels.trajectory.pictures import final_pictures

STEPS = 6


@pytest.fixture(scope="module")
def three():
    """A small model of colour pictures and a guided run of three samples of it."""
    model = random_model()
    return Opened(record(model, [1, 5, 2], steps=STEPS, cfg_scale=2.0, seed=3), model, labels=list("abcde"))


@pytest.fixture(scope="module")
def grey():
    model = random_model(in_channels=1)
    return Opened(record(model, [1], steps=STEPS, cfg_scale=2.0), model)


@pytest.fixture(scope="module")
def latents():
    """A model of four channels that no VAE is at hand for."""
    model = random_model(in_channels=4)
    return Opened(record(model, [1], steps=STEPS, cfg_scale=2.0), model, FalseColours())


def unpacked(packed) -> torch.Tensor:
    values = np.frombuffer(b64decode(packed["data"]), dtype="<f4").reshape(packed["shape"])
    return torch.from_numpy(values.copy())


def frames_of(atlas, count) -> np.ndarray:
    """An atlas cut into its frames, `f h w 3`."""
    picture = np.asarray(Image.open(io.BytesIO(b64decode(atlas["uri"].split(",")[1]))).convert("RGB"))
    frames = rearrange(picture, "(r h) (c w) rgb -> (r c) h w rgb", h=atlas["height"], w=atlas["width"])
    return frames[:count]


def asked(opened, **request):
    return PANEL.asked(opened, request)


# ---- Numbers


def test_the_curves_are_the_library_s_numbers(three):
    run = three.trajectory
    for sample in range(3):
        told = asked(three, sample=sample)["numbers"] if sample else PANEL.data(three)["numbers"]
        size = lambda x, sample=sample: reduce(x[:, sample] ** 2, "s c h w -> s", "mean").sqrt()
        torch.testing.assert_close(unpacked(told["norms"]), torch.stack([*map(size, (run.x, run.x0, run.eps))]))
        torch.testing.assert_close(unpacked(told["change"]), x0_changes(run, sample=sample).whole)
        torch.testing.assert_close(unpacked(told["snr"]), signal_to_noise(run))
        found, drawn = path_spectra(run, sample=sample), told["spectra"]
        torch.testing.assert_close(unpacked(drawn["x"]), found.x.mean(1))
        torch.testing.assert_close(unpacked(drawn["x0"]), found.x0.mean(1))
        torch.testing.assert_close(unpacked(drawn["noise"]), found.noise)
        torch.testing.assert_close(unpacked(drawn["frequency"]), found.frequency)


@pytest.mark.parametrize("name", ["in_context", "cross_attention", "adaln", "adaln_zero", "U-DiT"])
def test_it_shows_every_model(name):
    model, run = run_of(name)
    json.dumps(PANEL.data(Opened(run, model)), allow_nan=False)


def test_it_shows_a_flow_a_model_without_classes_and_a_run_without_its_model():
    flow = random_model(schedule="flow", prediction="velocity", learned_variance=False)
    run = record(flow, [1], steps=3, cfg_scale=1.0, sampler="euler")
    json.dumps(PANEL.data(Opened(run)), allow_nan=False)
    assert unpacked(PANEL.data(Opened(run))["numbers"]["snr"])[0] == 0
    unlabelled = random_model(num_classes=0)
    opened = Opened(record(unlabelled, [0], steps=3, cfg_scale=1.0), unlabelled)
    with pytest.raises(ValueError, match="no null label, so no pass without the label"):
        asked(opened, sample=0, guidance=True)
    assert asked(Opened(run), sample=0, channels="x")["frames"]
    with pytest.raises(ValueError, match="Only the recording is open, not its model"):
        asked(Opened(run), sample=0, guidance=True)


def test_guidance_is_the_library_s_field_with_its_numbers(three):
    found, told = guidance_field(three.trajectory, three.model, sample=2), asked(three, sample=2, guidance=True)
    torch.testing.assert_close(unpacked(told["norm"]), found.norm)
    torch.testing.assert_close(unpacked(told["angle"]), found.angle)
    assert told["active"] == found.active.tolist()
    mean = found.field.mean(1, keepdim=True)
    assert told["reach"] == pytest.approx(mean.abs().max().item())
    assert told["channelReach"] == pytest.approx(found.field.abs().max().item())
    drawn = as_pictures(mean / told["reach"])
    assert np.abs(frames_of(told["frames"]["guidance"], STEPS).astype(int) - drawn).max() <= 1
    one = as_pictures(found.field[:, [1]] / told["channelReach"])
    assert np.abs(frames_of(told["frames"]["guidance.1"], STEPS).astype(int) - one).max() <= 1


def test_guidance_says_how_far_it_is_a_forward_at_a_time_and_is_asked_for_once(three):
    model, opened, calls = three.model, Opened(three.trajectory, three.model), []
    hook = model.register_forward_hook(lambda *_: calls.append(1))
    walking, said = PANEL.answer(opened, {"sample": 0, "guidance": True}), []
    for news in walking:
        said.append((news, len(calls)))
    again = asked(opened, sample=0, guidance=True)
    hook.remove()
    assert [(news.done, done) for news, done in said] == [(step, step) for step in range(STEPS)]
    assert all(isinstance(news, Progress) and news.total == STEPS for news, _ in said)
    assert len(calls) == STEPS and again["norm"]


@pytest.mark.parametrize("kind", ["x", "x0", "eps"])
def test_each_channel_of_a_latent_is_had_alone_on_a_scale_that_is_told(latents, kind):
    told = asked(latents, sample=0, channels=kind)
    assert list(told["frames"]) == [f"{kind}.{channel}" for channel in range(4)] and told["reach"] == 3
    for channel in range(4):
        drawn = as_pictures(getattr(latents.trajectory, kind)[:, 0, [channel]] / 3)
        assert (frames_of(told["frames"][f"{kind}.{channel}"], STEPS) == drawn).all()


def test_what_a_batch_ended_with_is_shown_and_only_a_batch_has_it(three, grey):
    drawn = as_pictures(three.codec.decode(three.trajectory.sample))
    assert (frames_of(PANEL.data(three)["finals"], 3) == drawn).all()
    assert asked(three, finals=True)["finals"] == PANEL.data(three)["finals"]
    assert PANEL.data(grey)["finals"] is None


def test_a_vae_decodes_a_sample_with_progress_once_and_few_samples_are_kept(monkeypatch, three):
    calls, opened = [], Opened(three.trajectory, three.model)
    monkeypatch.setattr(opening, "DECODED", 2)
    monkeypatch.setattr(type(opened.codec), "decode", lambda self, x: calls.append(1) or x)
    said = list(PANEL.answer(opened, {"sample": 1}))
    assert [news.done for news in said] == list(range(STEPS)) and len(calls) >= STEPS
    before = len(calls)
    asked(opened, sample=1)
    assert len(calls) == before
    for sample in (0, 2):
        opened.pictures(sample)
    assert list(opened.decoded) == [0, 2]


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({}, "Sample must be a whole number from 0 to 2, not None"),
        ({"sample": 3}, "Sample must be a whole number from 0 to 2, not 3"),
        ({"sample": "0"}, "Sample must be a whole number"),
        ({"sample": True, "guidance": True}, "Sample must be a whole number"),
        ({"sample": 0, "channels": "../x"}, "Channels must be one of x, x0, eps"),
        ({"sample": 0, "channels": ["x"]}, "Channels must be one of"),
        ({"sample": 0, "download": "exe"}, "Download must be one of gif, mp4, svg, trajectory"),
        ([], "answers no such request"),
    ],
)
def test_a_hostile_request_gets_a_sentence(three, request_, words):
    with pytest.raises(ValueError, match=words):
        PANEL.asked(three, request_)


def test_a_process_of_one_s_own_leaves_the_curves_that_need_none(three):
    run = three.trajectory
    parts = {name: getattr(run, name) for name in ("config", "labels", "options", "t", "x", "x0", "sample")}
    told = PANEL.data(Opened(Trajectory(**parts, eps=run.eps + 1)))["numbers"]
    assert told["snr"] is None and told["spectra"] is None and told["norms"]


# ---- Files


def test_a_gif_has_a_frame_a_step_and_holds_its_last(three):
    told = asked(three, sample=0, download="gif")
    film = Image.open(io.BytesIO(b64decode(told["data"])))
    assert told["name"].endswith("-sample-1.gif") and told["mime"] == "image/gif"
    assert film.n_frames == STEPS and film.info["loop"] == 0
    film.seek(STEPS - 1)
    assert film.info["duration"] == 1500
    shown, times = np.asarray(film.convert("RGB")).astype(int), 24
    x0 = as_pictures(three.pictures(0)[[-1]])[0].repeat(times, 0).repeat(times, 1)
    middle = shown[:, 12 * times + 8 : 24 * times + 8]
    assert middle.shape == x0.shape and np.abs(middle - x0).mean() < 12  # of 256 colours


def test_a_film_plays(three, tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    (tmp_path / "run.mp4").write_bytes(b64decode(asked(three, sample=0, download="mp4")["data"]))
    frames = ffmpeg.read_frames(str(tmp_path / "run.mp4"))
    about = next(frames)
    assert about["codec"] == "h264" and about["size"] == (3 * 12 * 24 + 16, 8 * 24)
    assert sum(1 for _ in frames) >= STEPS


def test_without_ffmpeg_a_film_says_what_to_install(three, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    with pytest.raises(ValueError, match="pip install imageio-ffmpeg"):
        asked(three, sample=0, download="mp4")


def test_the_figure_is_an_svg_and_the_trajectory_opens_again(three, tmp_path, monkeypatch):
    assert b"<svg" in b64decode(asked(three, sample=1, download="svg")["data"])[:500]
    (tmp_path / "run.safetensors").write_bytes(b64decode(asked(three, sample=1, download="trajectory")["data"]))
    again = Trajectory.load(tmp_path / "run.safetensors")
    assert torch.equal(again.x, three.trajectory.x) and again.labels == three.trajectory.labels
    monkeypatch.setattr(downloads, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="save it in Python"):
        trajectory_bytes(three)


def test_a_file_s_name_holds_nothing_but_letters(three):
    opened = Opened(three.trajectory, three.model, source='../../etc/<script>"')
    assert asked(opened, sample=0, download="svg")["name"] == "etc-script-seed-3-sample-1.svg"


def test_a_run_under_way_is_previewed_on_the_scales_of_the_finished_one(three, latents):
    for opened in (three, latents):
        run = opened.trajectory
        step = next(sampled(opened.model, run.labels, **run.options))
        shown = preview(step, opened.codec)
        for kind, uri in shown.items():
            drawn = np.asarray(Image.open(io.BytesIO(b64decode(uri.split(",")[1]))).convert("RGB"))
            assert (drawn == frames_of(opened.frames(0)[kind], 1)[0]).all(), kind


def test_a_long_batch_shows_its_first(three, monkeypatch):
    monkeypatch.setattr("dit_lab.panels.trajectory.pictures.MOST_FINALS", 2)
    assert len(list(final_pictures(three))) == 2


# ---- In the browser

WHEN, TOLD = "[data-when]", "[data-told]"


@pytest.fixture
def opened_page(visit, tmp_path):
    return lambda html, **options: shown(visit, html, tmp_path / "page.html", **options)


def canvas(view, slot) -> np.ndarray:
    """What a picture shows, `h w 3`."""
    uri = view.locator("figure canvas").nth(slot).evaluate("canvas => canvas.toDataURL()")
    return np.asarray(Image.open(io.BytesIO(b64decode(uri.split(",")[1]))).convert("RGB"))


def expected(opened, kind, step, sample=0) -> np.ndarray:
    return frames_of(opened.frames(sample)[kind], STEPS)[step]


def test_every_step_shows_its_frames_and_asks_nobody(three, opened_page):
    view = opened_page(page(three, "trajectory"))
    before = len(view.asked)
    for step in (0, 3, STEPS - 1):
        view.locator("[data-range]").fill(str(step))
        for slot, kind in enumerate(("x", "x0", "eps")):
            assert (canvas(view, slot) == expected(three, kind, step)).all(), (kind, step)
        t = three.run()["t"][step]
        assert view.text_content(WHEN) == f"step {step + 1} of {STEPS}, t = {t}"
    assert len(view.asked) == before


def test_the_numbers_beside_the_curves_are_the_library_s(three, opened_page):
    view = opened_page(page(three, "trajectory", place={"step": 2}))
    run, said = three.trajectory, lambda value: f"{float(f'{value:.3g}'):g}"
    size = lambda x: reduce(x[2, 0] ** 2, "c h w ->", "mean").sqrt().item()
    numbers = lambda: view.locator("[data-curve] .lab-trajectory-item b").all_text_contents()
    assert numbers() == [said(size(x)) for x in (run.x, run.x0, run.eps)]
    choose = view.locator("[data-curve] select")
    choose.select_option("change")
    assert numbers() == [said(x0_changes(run).whole[1].item())]
    choose.select_option("snr")
    assert numbers() == [said(signal_to_noise(run)[2].item())]
    found = path_spectra(run, sample=0)
    spectra = view.locator("[data-spectra] .lab-trajectory-item b").all_text_contents()
    coarsest = found.x[2, :, 0].mean(), found.x0[2, :, 0].mean(), found.noise[2]
    assert spectra == [said(power.item()) for power in coarsest]
    # Under the pointer, and a click goes there.
    box = view.locator("[data-curve] svg").bounding_box()
    view.mouse.move(box["x"] + box["width"] - 11, box["y"] + 60)
    assert numbers() == [said(signal_to_noise(run)[STEPS - 1].item())]
    view.mouse.click(box["x"] + box["width"] - 11, box["y"] + 60)
    assert view.text_content(WHEN).startswith(f"step {STEPS} of {STEPS}")


def test_guidance_and_single_channels_take_a_picture_s_place_with_their_scale(three, opened_page):
    view = opened_page(page(three, "trajectory", asked={"trajectory": [{"sample": 0, "guidance": True}]}))
    field = guidance_field(three.trajectory, three.model).field[:, :].mean(1)
    choose, bar = view.locator("figure select"), view.locator("figure .lab-bar")
    choose.nth(2).select_option("guidance")
    reach = f"{float(f'{field.abs().max():.3g}'):g}"
    bar.nth(2).get_by_text(reach, exact=True).wait_for()
    assert bar.nth(2).text_content() == f"−{reach}{reach}"
    drawn, values = canvas(view, 2).astype(int), field[-1].numpy()
    strong = np.abs(values) > 0.3 * np.abs(values).max()
    # Orange where it is positive, blue where it is negative.
    assert (np.sign(drawn[..., 0] - drawn[..., 2])[strong] == np.sign(values)[strong]).all()
    choose.nth(0).select_option("x.1")
    green = expected(three, "x", STEPS - 1)[..., 1]
    assert (canvas(view, 0) == green[..., None]).all()
    assert "black −3, white 3" in view.locator("figure").nth(0).text_content()
    assert "−1 (none) to 1 (full)" in view.locator("figure").nth(1).text_content()


def test_latents_are_said_to_be_none_of_a_picture(latents, opened_page):
    view = opened_page(page(latents, "trajectory", asked={"trajectory": [{"sample": 0, "channels": "x"}]}))
    told = view.locator("figure .lab-trajectory-scale").all_text_contents()
    assert told == ["latents in false colours, not a picture"] * 3
    view.locator("figure select").nth(0).select_option("x.3")
    drawn = as_pictures(latents.trajectory.x[[-1], 0][:, [3]] / 3)[0]
    view.wait_for_function("document.querySelector('figure .lab-trajectory-scale').textContent.includes('white 3')")
    assert (canvas(view, 0) == drawn).all()
    view.locator("figure select").nth(2).select_option("guidance")
    view.wait_for_selector(f"{TOLD}.lab-wrong")
    assert "A saved page has no model behind it" in view.text_content(TOLD)


def test_the_patch_is_marked_in_all_pictures_and_moved_by_keys(grey, opened_page):
    view = opened_page(page(grey, "trajectory"))
    view.locator(".lab-picture").nth(1).click(position={"x": 9, "y": 9})
    places = "all => all.map(box => box.style.left + box.style.top)"
    marks = lambda: view.eval_on_selector_all(".lab-marked:not([hidden])", places)
    assert marks() == ["0%0%"] * 3
    view.locator(".lab-picture").nth(0).focus()
    for key in ("Shift+ArrowRight", "Shift+ArrowDown", "Shift+ArrowDown"):
        view.keyboard.press(key)
    assert [mark.startswith("33.3") and mark.endswith("50%") for mark in marks()] == [True] * 3  # of a grid of 2 x 3
    assert "patch row 1, column 1" in view.locator(".lab-picture").nth(2).get_attribute("aria-label")
    for key, step in (("Home", 1), ("ArrowRight", 2), ("End", STEPS), ("ArrowLeft", STEPS - 1)):
        view.keyboard.press(key)
        assert view.text_content(WHEN).startswith(f"step {step} of {STEPS}")
    view.keyboard.press("Escape")
    assert marks() == []


def test_it_plays_to_the_end_and_in_a_loop_goes_on(grey, opened_page):
    view = opened_page(page(grey, "trajectory"))
    view.evaluate(
        """() => {
            const when = document.querySelector("[data-when]");
            const see = () => seen.push(parseInt(when.textContent.slice(5)));
            window.seen = [];
            new MutationObserver(see).observe(when, { childList: true });
        }"""
    )
    view.locator("[data-speed]").select_option("4")
    view.get_by_role("button", name="Play").click()
    view.wait_for_selector("[data-play][aria-label=Play]")
    assert view.evaluate("seen") == list(range(1, STEPS + 1))
    view.get_by_label("loop").check()
    view.locator("[data-range]").focus()
    view.keyboard.press("Space")
    view.wait_for_function("seen.filter((step) => step === 1).length > 2")
    view.keyboard.press("Space")
    assert view.get_attribute("[data-play]", "aria-label") == "Play"


def test_another_sample_comes_into_focus_and_one_that_is_not_there_leaves_what_was_seen(three, opened_page):
    view = opened_page(page(three, "trajectory", asked={"trajectory": [{"sample": 1}]}))
    buttons = view.locator(".lab-trajectory-samples button")
    assert buttons.count() == 3 and buttons.nth(0).get_attribute("aria-pressed") == "true"
    buttons.nth(1).click()
    view.wait_for_selector(".lab-trajectory-samples button:nth-child(2)[aria-pressed=true]")
    assert (canvas(view, 1) == expected(three, "x0", STEPS - 1, 1)).all()
    buttons.nth(2).click()
    view.wait_for_selector(f"{TOLD}.lab-wrong")
    assert (canvas(view, 1) == expected(three, "x0", STEPS - 1, 1)).all()


def test_what_a_saved_page_cannot_make_it_says_and_the_strip_it_makes(three, opened_page, tmp_path):
    view = opened_page(page(three, "trajectory", asked={"trajectory": [{"sample": 0, "download": "svg"}]}))
    view.get_by_role("button", name="GIF").click()
    view.wait_for_selector(f"{TOLD}.lab-wrong")
    assert "The GIF was not put into this page" in view.text_content(TOLD)
    with view.expect_download() as got:
        view.get_by_role("button", name="SVG").click()
    assert got.value.suggested_filename.endswith(".svg")
    with view.expect_download() as got:
        view.get_by_role("button", name="PNG strip").click()
    got.value.save_as(tmp_path / "strip.png")
    strip = np.asarray(Image.open(tmp_path / "strip.png").convert("RGB")).astype(int)
    high = 80  # of a cell of 120 for pictures of 8 x 12
    last = strip[46 + high + 6 : 46 + 2 * high + 6, 132 + (STEPS - 1) * 126 :][:, :120]
    x0 = expected(three, "x0", STEPS - 1).repeat(10, 0).repeat(10, 1)
    assert np.abs(last - x0).mean() < 3
    assert view.text_content(WHEN).startswith(f"step {STEPS} of")


def test_a_run_under_way_is_seen_in_the_same_places_and_a_stopped_one_is_told(three, opened_page):
    view = opened_page(hosted(three.run(), [(PANEL, PANEL.data(three))]))
    view.locator("figure select").nth(2).select_option("eps.0")
    pictures = {kind: three.frames(1)[kind]["uri"] for kind in ("x", "x0", "eps")}  # any other pictures
    view.evaluate(
        """given => views.trajectory.update(
            { kind: "preview", pictures: given, step: 11, steps: 50, t: 741, left: 8.2 })""",
        pictures,
    )
    view.wait_for_function("document.querySelector('figure canvas').width > 12")
    assert view.text_content(WHEN) == "step 12 of 50, t = 741" and "about 8 s left" in view.text_content(TOLD)
    for slot, kind in enumerate(pictures):
        whole = Image.open(io.BytesIO(b64decode(pictures[kind].split(",")[1]))).convert("RGB")
        assert (canvas(view, slot) == np.asarray(whole)).all()
    assert view.eval_on_selector("[data-progress]", "bar => [bar.value, bar.max, bar.hidden]") == [12, 50, False]
    assert view.get_attribute("section[aria-label=Trajectory]", "aria-busy") == "true"
    assert view.locator("[data-range]").is_hidden() and view.locator("[data-play]").is_disabled()
    view.evaluate("views.trajectory.update({ kind: 'stopped' })")
    assert view.text_content(TOLD) == "Stopped after step 12 of 50."
    assert (canvas(view, 0) == expected(three, "x", STEPS - 1)).all()
    assert view.locator("[data-range]").is_enabled() and view.locator("figure select").nth(2).input_value() == "eps.0"
    # The run that comes next ends it as well, and nobody's old numbers stay.
    view.evaluate("views.trajectory.update({ kind: 'preview', pictures: {}, step: 0, steps: 50 })")
    view.evaluate("run => lab.open({ ...run, id: 'next' })", three.run())
    view.wait_for_selector("section[aria-label=Trajectory]:not([aria-busy])")
    assert view.text_content(TOLD) == "" and view.locator(".lab-trajectory-item").count() == 0
    assert view.text_content("[data-curve] p") == "…"


def test_before_a_run_is_open_it_says_so(three, opened_page):
    view = opened_page(hosted(None, [(PANEL, None)]))
    assert view.text_content(TOLD) == "No run is open yet."
    view.evaluate("run => lab.open(run)", three.run())
    view.wait_for_function("document.querySelector('[data-title]').textContent.includes('steps of')")
    view.evaluate("data => views.trajectory.update(data)", PANEL.data(three))
    assert view.locator(".lab-trajectory-item").count() == 6 and view.text_content(TOLD) == ""


@pytest.mark.parametrize("width", [340, 390, 820, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_off(three, opened_page, width, scheme):
    view = opened_page(page(three, "trajectory", place={"patch": 1}), width=width, scheme=scheme)
    assert cut_off(view) == []


def test_a_udit_of_another_size_is_shown(opened_page):
    model = random_udit()
    opened = Opened(record(model, [1], steps=3, cfg_scale=1.0), model)
    view = opened_page(page(opened, "trajectory", place={"patch": 5}))
    assert view.eval_on_selector(".lab-picture", "box => Math.round(100 * box.clientWidth / box.clientHeight)") == 150
    assert panel("trajectory") is PANEL
