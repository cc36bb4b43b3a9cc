"""`sample` in ways of walking that are not the usual one: uneven steps, rescaled guidance, pictures, masks."""

import numpy as np
import pytest
import torch
from PIL import Image
from shared import stirred, tiny_vae

from dit_lab.checkpoints import save
from dit_lab.commands import sample as sample_file
from dit_lab.data import Autoencoder, Pixels
from dit_lab.data.codecs import FalseColours
from dit_lab.data.given import given_picture
from dit_lab.diffusion import QUALITIES, from_picture, generate, karras, process_of, shifted
from dit_lab.inside import Trajectory

SHAPE = dict(dim=32, depth=1, heads=2, input_size=8, in_channels=1, num_classes=10)
FLOW = dict(schedule="flow", prediction="velocity", learned_variance=False)


def kept(tmp_path, **changes):
    model = stirred("DiT-nano/4", **SHAPE | changes)
    return save(tmp_path / "model", model, labels=list("0123456789"), codec_hint="pixels"), model


@pytest.fixture
def files(tmp_path):
    """A grey picture of 8 x 8, and a mask that is white on its lower half."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[4:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path / "photo.png", tmp_path / "mask.png", pixels


def drawn(command, source, out, *more):
    code, _, complaint = command(
        "sample", source, "--labels", 3, "--device", "cpu", "--precision", "fp32", "--out", out, *more
    )
    assert code == 0, complaint
    return np.asarray(Image.open(out))


def test_karras_steps_and_rescaled_guidance_are_recorded(command, tmp_path):
    source, model = kept(tmp_path)
    trace = tmp_path / "run.safetensors"
    options = ["--karras", "--steps", 6, "--cfg-scale", 4, "--guidance-rescale", 0.7, "--sampler", "dpmpp_sde"]
    drawn(command, source, tmp_path / "a.png", *options, "--trace", trace)
    run = Trajectory.load(trace)
    assert run.t == karras(process_of(model.config), 6)
    assert run.options["guide"] == {"rescaled": 0.7} and run.options["sampler"] == "dpmpp_sde"


@pytest.mark.parametrize("given, asked", [([], "auto"), (["--compile", "auto"], "auto"), (["--compile", "no"], False)])
def test_whether_to_compile_is_left_open_or_said_and_weighed_by_the_steps(given, asked, command, tmp_path, monkeypatch):
    source, _ = kept(tmp_path)
    seen, fast = [], sample_file.fast
    monkeypatch.setattr(sample_file, "fast", lambda *model, **how: seen.append(how) or fast(*model, **how))
    drawn(command, source, tmp_path / "a.png", "--steps", 7, *given)
    assert [(how["compile"], how["forwards"]) for how in seen] == [(asked, 7)]


def test_what_cannot_be_walked_is_refused_before_anything_is_timed_or_compiled(command, tmp_path, monkeypatch):
    source, _ = kept(tmp_path)
    monkeypatch.setattr(sample_file, "fast", lambda *_, **__: pytest.fail("a model was made fast"))
    options = ["--labels", 1, "--out", tmp_path / "a.png", "--device", "cpu"]
    for given in (["--steps", 5, "--eta", 7], ["--steps", 10, 900], ["--cfg-scale", 2, "--cfg-channels", 99]):
        code, _, told = command("sample", source, *options, *given)
        assert code == 2 and "Traceback" not in told, told


def test_shifted_steps_are_recorded(command, tmp_path):
    source, model = kept(tmp_path, **FLOW)
    drawn(
        command, source, tmp_path / "a.png", "--shift", 3, "--quality", "draft", "--trace", tmp_path / "run.safetensors"
    )
    assert Trajectory.load(tmp_path / "run.safetensors").t == shifted(process_of(model.config), 6, 3.0)


def test_what_a_mask_keeps_is_the_pictures_own_to_the_value(command, files, tmp_path):
    source, _ = kept(tmp_path)
    photo, mask, pixels = files
    for sampler in "ddim", "unipc":
        options = ["--from-picture", photo, "--mask", mask, "--steps", 5, "--sampler", sampler]
        picture = drawn(command, source, tmp_path / "a.png", *options)[..., 0]
        assert (picture[:4] == pixels[:4]).all() and (picture[4:] != pixels[4:]).any()


def test_a_picture_is_begun_with_as_python_begins_with_it(command, files, tmp_path):
    source, model = kept(tmp_path)
    photo, _, pixels = files
    trace = tmp_path / "run.safetensors"
    drawn(
        command, source, tmp_path / "a.png", "--from-picture", photo, "--strength", 0.5, "--steps", 8, "--trace", trace
    )
    picture = torch.from_numpy(pixels / 127.5 - 1).float()[None, None]
    ours = generate(model, [3], **from_picture(model, picture, strength=0.5, steps=8))
    run = Trajectory.load(trace)
    assert len(run.t) == 4
    torch.testing.assert_close(run.sample, ours, rtol=1e-4, atol=1e-4)


def test_strength_is_a_share_of_the_steps_whichever_they_are_as_the_help_says(command, files, tmp_path):
    source, model = kept(tmp_path)
    trace = tmp_path / "run.safetensors"
    options = ["--from-picture", files[0], "--strength", 0.5, "--trace", trace]
    for steps, walked in (
        (["--steps", 10, "--karras"], karras(process_of(model.config), 10)[5:]),
        (["--steps", 900, 800, 100, 20], [100, 20]),
    ):
        drawn(command, source, tmp_path / "a.png", *options, *steps)
        assert Trajectory.load(trace).t == walked
    _, printed, _ = command("sample", "--help")
    assert "Which share of the steps is walked from the picture" in " ".join(printed.replace("│", " ").split())


@pytest.mark.parametrize(
    "options, told",
    [
        (["--shift", 3, "--karras"], "steps are shifted or Karras', not both"),
        (["--shift", 3], "a shift is for flow matching"),
        (["--guidance-rescale", 0.7], "--guidance-rescale is for guidance: give a --cfg-scale other than 1"),
        (["--guidance-rescale", 7, "--cfg-scale", 2], "the share of guidance to rescale must be a number from 0 to 1"),
        (["--strength", 0.5], "--strength is for a picture that is begun with: give it by --from-picture"),
        (["--mask", "{mask}"], "--mask is for a picture that is begun with"),
        (["--from-picture", "nowhere.png"], "there is no file nowhere.png"),
        (["--from-picture", "{photo}", "--mask", "nowhere.png"], "there is no file nowhere.png"),
        (["--from-picture", "{photo}", "--strength", 2], "strength must be a number from 0 to 1, not 2.0"),
        (["--from-picture", "{photo}", "--strength", 0.01], "strength 0.01 leaves none of 50 steps"),
        (["--from-picture", "{text}"], "text.png cannot be read as a picture"),
        (["--from-picture", "{photo}", "--mask", "{large}"], "is 16 x 16 and the picture 8 x 8: make them the same"),
        (["--from-picture", "{photo}", "--mask", "{black}"], "the mask keeps every pixel"),
        (["--from-picture", "{photo}", "--size", 16, 8], "photo.png is 8 x 8; where the size is no square, it must be"),
        (["--from-picture", "{photo}", "--eta", 0.5, "--sampler", "heun", "--mask", "{mask}"], "eta is ddim's alone"),
    ],
)
def test_what_makes_no_sense_is_told_and_leaves_nothing(options, told, command, files, tmp_path):
    source, _ = kept(tmp_path)
    (tmp_path / "text.png").write_text("no picture")
    Image.new("L", (16, 16), 255).save(tmp_path / "large.png")
    Image.new("L", (8, 8), 0).save(tmp_path / "black.png")
    options = [str(option).format(**{each.stem: each for each in tmp_path.glob("*.png")}) for option in options]
    out = tmp_path / "out.png"
    code, _, complaint = command("sample", source, "--labels", 3, "--device", "cpu", "--out", out, *options)
    assert code == 2 and told in complaint and complaint.count("\n") == 1 and not out.exists()


@pytest.mark.parametrize(
    ("out", "trace", "twice"),
    [
        ("photo.png", None, "photo.png"),
        ("mask.png", None, "mask.png"),
        ("link.png", None, "photo.png"),
        ("out.png", "photo.png", "photo.png"),
        ("out.png", "mask.png", "mask.png"),
        ("out.png", "model/model.safetensors", "model.safetensors"),
    ],
)
def test_what_is_read_is_never_written_over(out, trace, twice, command, files, tmp_path):
    kept(tmp_path)
    (tmp_path / "link.png").symlink_to(files[0])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    options = ["--from-picture", files[0], "--mask", files[1], "--steps", 2, "--device", "cpu"]
    options += [] if trace is None else ["--trace", tmp_path / trace]
    source = tmp_path / "model" / "model.safetensors"
    code, _, told = command("sample", source, "--labels", 3, "--out", tmp_path / out, *options)
    assert code == 2 and f"{twice} are the same file; give each a name of its own" in told and told.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_latents_of_a_picture_and_of_its_mask(files):
    vae = Autoencoder(tiny_vae())
    photo, mask, pixels = files
    latents, anew = given_picture(photo, mask, vae, 4, (4, 4))
    grey = torch.from_numpy(pixels / 127.5 - 1).float()[None, None]
    torch.testing.assert_close(latents, vae.encode(grey), rtol=1e-4, atol=1e-4)
    assert anew.tolist() == [[False] * 4] * 2 + [[True] * 4] * 2
    one = np.zeros((8, 8), np.uint8)
    one[5, 3] = 255
    Image.fromarray(one).save(mask)
    assert given_picture(photo, mask, vae, 4, (4, 4))[1].nonzero().tolist() == [[2, 1]]


def test_a_picture_is_cropped_to_its_middle(tmp_path):
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, 4:12] = 200
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    picture, mask = given_picture(tmp_path / "wide.png", None, Pixels(), 3, (8, 8))
    assert mask is None
    torch.testing.assert_close(picture, torch.full((1, 3, 8, 8), 200 / 127.5 - 1))
    assert given_picture(tmp_path / "wide.png", None, Pixels(), 1, (4, 4))[0].shape == (1, 1, 4, 4)


def test_where_no_encoder_is_there_no_picture_is_begun_with(files):
    with pytest.raises(ValueError, match="a picture is begun with where it can be encoded"):
        given_picture(files[0], None, FalseColours(), 4, (4, 4))
    with pytest.raises(ValueError, match="this model draws 4 channels, which no picture has"):
        given_picture(files[0], None, Pixels(), 4, (8, 8))


def test_timesteps_of_ones_own_are_walked_and_not_spaced_anew(command, tmp_path):
    source, model = kept(tmp_path)
    trace = tmp_path / "run.safetensors"
    options = ["--sampler", "unipc", "--steps", 900, 400.5, 20]
    drawn(command, source, tmp_path / "a.png", *options, "--trace", trace)
    run = Trajectory.load(trace)
    assert run.t == [900, 400.5, 20] and run.sample.equal(generate(model, [3], sampler="unipc", steps=[900, 400.5, 20]))
    for spacing in (["--karras"], ["--shift", 3]):
        code, _, told = command("sample", source, "--labels", 3, "--out", tmp_path / "b.png", *options, *spacing)
        assert code == 2 and "timesteps of their own" in told and not (tmp_path / "b.png").exists()


def test_a_quality_of_the_checkpoints_own_is_taken(command, tmp_path):
    _, model = kept(tmp_path)
    way, trace = dict(sampler="dpmpp", steps=[999, 300]), tmp_path / "run.safetensors"
    source = save(tmp_path / "own", model, codec_hint="pixels", extra={"qualities": {"draft": way}})
    drawn(command, source, tmp_path / "a.png", "--quality", "draft", "--trace", trace)
    assert Trajectory.load(trace).t == [999, 300]
    drawn(command, source, tmp_path / "a.png", "--quality", "good", "--trace", trace)
    assert len(Trajectory.load(trace).t) == QUALITIES["good"]["steps"]


def test_a_number_that_is_another_classs_name_is_said_aloud(command, tmp_path):
    model = stirred("DiT-nano/4", **SHAPE | {"num_classes": 2})
    source = save(tmp_path / "model", model, labels=["1", "0"], codec_hint="pixels")
    options = ["--labels", "1", "--device", "cpu", "--precision", "fp32", "--steps", 1, "--out", tmp_path / "a.png"]
    code, _, said = command("sample", source, *options)
    assert code == 0 and "dit_lab: class 1 is called '0'; the class called '1' is number 0\n" in said


@pytest.mark.parametrize("steps", ["2.5", "300.0", "999.5"])
def test_one_number_that_is_not_whole_is_no_number_of_steps(steps, command, files, tmp_path, monkeypatch):
    source, _ = kept(tmp_path)
    options = ["--labels", 3, "--device", "cpu", "--out", tmp_path / "a.png", "--steps", steps]
    monkeypatch.setattr(sample_file, "load", lambda *_, **__: pytest.fail("a checkpoint was opened"))
    code, _, told = command("sample", source, *options)
    assert code == 2 and f"--steps takes a whole number of steps, or several timesteps; {steps} is one timestep" in told
    assert told.count("\n") == 1 and not (tmp_path / "a.png").exists()


def test_one_timestep_is_walked_from_a_picture(command, files, tmp_path):
    source, _ = kept(tmp_path)
    trace = tmp_path / "run.safetensors"
    options = ["--from-picture", files[0], "--strength", 1, "--steps", 2.5, "--trace", trace]
    drawn(command, source, tmp_path / "a.png", *options)
    assert Trajectory.load(trace).t == [2.5]


@pytest.mark.parametrize(
    ("changes", "steps", "told"),
    [
        ({}, [300, 200, 100], "the walk begins at t = 300 with noise alone, as is right at t = 999; there should be "
                              "0.63 of a picture in it: begin nearer t = 999, or with a picture (sample "
                              "--from-picture)"),
        ({}, [900, 400.5, 20], ""),
        ({}, [700, 20], ""),
        ({}, [1], ""),
        (FLOW, [500, 100], "begins at t = 500 with noise alone, as is right at t = 1000; there should be 0.50 of a "),
        (FLOW, [1000, 100], ""),
    ],
)  # fmt: skip
def test_a_walk_that_begins_with_noise_where_a_picture_should_be_is_said_aloud(changes, steps, told, command, tmp_path):
    source, _ = kept(tmp_path, **changes)
    options = ["--labels", 3, "--device", "cpu", "--precision", "fp32", "--out", tmp_path / "a.png"]
    code, _, said = command("sample", source, *options, "--steps", *steps)
    assert code == 0 and told in said and ("the walk begins" in said) == bool(told)


def test_a_walk_that_begins_with_a_picture_begins_where_it_likes(command, files, tmp_path):
    source, _ = kept(tmp_path)
    options = ["--labels", 3, "--device", "cpu", "--precision", "fp32", "--out", tmp_path / "a.png"]
    code, _, said = command("sample", source, *options, "--from-picture", files[0], "--steps", 300, 200, 100)
    assert code == 0 and "the walk begins" not in said
