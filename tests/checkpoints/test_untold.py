"""What an original file does not say is read where it is, asked for, or said aloud: never guessed in silence."""

import argparse
import json

import pytest
import torch
from einops import rearrange
from shared import assert_same, drawn

from dit_lab.checkpoints import CheckpointError, load, meta_dit, save, udit
from dit_lab.diffusion import generate
from dit_lab.models import build
from dit_lab.models.layers import position_table

SMALL = dict(depth=1, input_size=8, num_classes=10)
SIT = dict(path_type="Linear", prediction="velocity", model="SiT-S/2", num_classes=10)
UNKNOWN = "nothing says what it was trained for, so it is taken for a DiT's"


def theirs(seed=0, **changes) -> dict:
    """The tensors of a small original file, none of them zero."""
    model = drawn(build("DiT-nano/2", **SMALL | changes), seed)
    return meta_dit.to_theirs(model.state_dict(), model.config)


def write(path, tensors, **args):
    """A file as the training scripts write it, or flat without arguments."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": tensors, "ema": tensors, "args": argparse.Namespace(**args)} if args else tensors, path)
    return path


def complaint(source, **options) -> str:
    """The one sentence that `load` refuses a source with."""
    with pytest.raises(CheckpointError) as caught:
        load(source, **options)
    said = str(caught.value)
    assert said.isprintable() and len(said.replace(str(source), "")) < 300
    return said


# --- SiT


def half(tensors: dict) -> dict:
    """The tensors without the second half of the outputs, whose rows are (p q c)."""
    ends = {name: tensors[name] for name in tensors if name.startswith("final_layer.linear")}
    return tensors | {n: rearrange(t, "(pq c) ... -> pq c ...", c=8)[:, :4].flatten(0, 1) for n, t in ends.items()}


@pytest.mark.parametrize(
    ("name", "args", "options"),
    [
        ("a.pt", {}, dict(trained_as="sit")),
        ("a.pt", SIT, {}),
        ("a.pt", dict(prediction="velocity"), {}),
        ("a.pt", dict(model="SiT-XL/2"), {}),
        ("SiT-XL-2-256x256.pt", {}, {}),
        ("sit_xl_2.pt", {}, {}),
        ("results/000-SiT-S-2-Linear-velocity-None/checkpoints/0050000.pt", {}, {}),
    ],
)
def test_a_sit_is_known_by_what_is_told_its_arguments_or_its_name(name, args, options, tmp_path):
    tensors = theirs()
    loaded = load(write(tmp_path / name, tensors, **args), **options)
    config = loaded.config
    assert (config.schedule, config.prediction, config.learned_variance) == ("sit", "sit_velocity", False)
    assert UNKNOWN not in loaded.note
    assert_same(meta_dit.to_theirs(loaded.model.state_dict(), config), half(tensors))


def test_a_sit_samples_as_an_euler_solver_of_a_few_lines(tmp_path):
    """From the file's own network, eight channels and all: s from 0 to 1, told as it is, the first half d x / d s."""
    network = drawn(build("DiT-nano/2", **SMALL), 3).eval()
    tensors = meta_dit.to_theirs(network.state_dict(), network.config)
    start, y = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 9])
    x, null = start, torch.full_like(y, 10)
    with torch.no_grad():
        for k in range(8):
            cond, uncond = (network(x, torch.full((2,), k / 8), label)[:, :4] for label in (y, null))
            x = x + (uncond + 2.0 * (cond - uncond)) / 8
    model = load(write(tmp_path / "SiT-S-2.pt", tensors)).model
    ours = generate(model, y.tolist(), sampler="euler", steps=8, cfg_scale=2.0, noise=lambda shape: start)
    torch.testing.assert_close(ours, x, rtol=1e-3, atol=1e-3)
    as_dit = load(tmp_path / "SiT-S-2.pt", trained_as="dit").model
    assert as_dit.config.prediction == "eps" and as_dit.config.learned_variance


def test_a_sit_of_four_channels_opens_as_it_is(tmp_path):
    tensors = theirs(learned_variance=False)
    loaded = load(write(tmp_path / "SiT.pt", tensors))
    assert loaded.config.schedule == "sit"
    assert_same(meta_dit.to_theirs(loaded.model.state_dict(), loaded.config), tensors)


@pytest.mark.parametrize(
    ("name", "args", "told"),
    [
        ("a.pt", SIT | dict(path_type="GVP"), "trained with path_type 'GVP'; of SiT's transports"),
        ("a.pt", SIT | dict(prediction="score"), "trained with prediction 'score'"),
        ("a.pt", SIT | dict(path_type="linear", prediction="v"), "path_type 'linear' and prediction 'v'"),  # REPA's
        ("a.pt", SIT | dict(path_type=[["x"] * 9 for _ in range(99)]), "trained with path_type [["),
        ("000-SiT-S-2-VP-noise-None/checkpoints/1.pt", {}, "path_type 'VP' and prediction 'noise'"),
    ],
)
def test_other_transports_of_sit_are_refused_by_name(name, args, told, tmp_path):
    path = write(tmp_path / name, theirs(), **args)
    assert told in complaint(path)
    assert told in complaint(path, trained_as="sit")


@pytest.mark.parametrize(
    ("name", "args"),
    [("DiT-XL-2-256x256.pt", {}), ("a.pt", dict(model="DiT-S/2")), ("001-DiT-S-2/checkpoints/1.pt", {})],
)
def test_what_says_that_it_is_a_dit_is_not_noted(name, args, tmp_path):
    loaded = load(write(tmp_path / name, theirs(), **args))
    assert loaded.config.schedule == "linear" and UNKNOWN not in loaded.note


@pytest.mark.parametrize("name", ["a.pt", "transit.pt", "LightningDiT.pt", "SiT-or-DiT.pt"])
def test_where_nothing_says_what_it_was_trained_for_a_note_says_what_it_was_taken_for(name, tmp_path):
    note = load(write(tmp_path / name, theirs())).note
    assert UNKNOWN in note and 'trained_as="sit" (--trained-as sit)' in note and len(note) < 400
    assert UNKNOWN not in load(tmp_path / name, trained_as="dit").note


def test_what_says_of_itself_what_it_is_leaves_nothing_to_note(tmp_path):
    assert load("mnist").note == ""
    folder = save(tmp_path / "own", drawn(build("DiT-nano/2", **SMALL), 0))
    assert load(folder, trained_as="dit", heads=4, num_classes=10, input_size=(8, 8)).note == ""
    for name, value in dict(trained_as="sit", heads=2, num_classes=11, input_size=16).items():
        assert f"it says of itself {name} " in complaint(folder, **{name: value})


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (dict(trained_as="flow"), "trained_as must be dit or sit, not 'flow'"),
        (dict(heads=0), "heads must be a whole number of at least 1, not 0"),
        (dict(num_classes=-1), "num_classes must be a whole number of at least 0"),
        (dict(num_classes=True), "num_classes must be"),
        (dict(input_size=(8, 8, 8)), "input_size must be one or two whole numbers of at least 1"),
        (dict(input_size=4000), "2000 x 2000 tokens, the most are"),
    ],
)
def test_what_no_model_has_cannot_be_told(wrong, told, tmp_path):
    tensors = theirs()
    del tensors["pos_embed"]
    path = write(tmp_path / "DiT.pt", tensors)
    assert told in complaint(path, **wrong)


# --- classes, and the null label


@pytest.mark.parametrize(
    ("rows", "args", "options", "classes", "null"),
    [
        (11, {}, {}, 10, True),
        (11, {}, dict(num_classes=11), 11, False),
        (11, {}, dict(num_classes=10), 10, True),
        (11, dict(num_classes=11), {}, 11, False),
        (11, dict(num_classes=10), {}, 10, True),
        (11, dict(num_classes=10), dict(num_classes=11), 11, False),
        (11, dict(num_classes=1000), {}, 10, True),  # U-DiT's script takes it and does without
        (1000, {}, {}, 1000, False),
        (1001, {}, {}, 1000, True),
        (1, {}, {}, 0, True),
        (1, dict(num_classes=1), {}, 1, False),
    ],
)
def test_a_label_table_has_a_null_row_or_not(rows, args, options, classes, null, tmp_path):
    tensors = theirs(num_classes=rows - 1)
    loaded = load(write(tmp_path / "DiT.pt", tensors, **args), **options)
    assert (loaded.config.num_classes, loaded.config.null_label, len(loaded.labels)) == (classes, null, classes)
    assert_same(meta_dit.to_theirs(loaded.model.state_dict(), loaded.config), tensors)
    if classes == 1000:
        assert loaded.labels[0] == "tench" and loaded.labels[999].startswith("toilet")
    assert ("taken for 10 classes" in loaded.note) == (
        rows == 11 and not options and args.get("num_classes") in (None, 1000)
    )
    path = write(tmp_path / "U.pt", udit_theirs(num_classes=rows - 1), **args)
    assert (load(path, **options).config.num_classes, load(path, **options).config.null_label) == (classes, null)


def udit_theirs(**changes) -> dict:
    """The tensors of a small U-DiT under the released names."""
    model = drawn(build("U-DiT-S", dim=16, heads=2, depths=(1, 1, 1, 1, 1), **changes), 0)
    return udit.to_theirs(model.state_dict(), model.config)


@pytest.mark.parametrize("classes", [0, 9, 12, 10**5000], ids=["0", "9", "12", "endless"])
def test_classes_that_a_label_table_cannot_have_are_refused(classes, tmp_path):
    path, told = write(tmp_path / "DiT.pt", theirs()), "so num_classes is 10 (and the null label) or 11 (without), not"
    assert f"its label table has 11 rows, {told}" in complaint(path, num_classes=classes)


@pytest.fixture
def nullless(tmp_path):
    """A file of eleven classes without a null label."""
    return load(write(tmp_path / "DiT.pt", theirs(), num_classes=11))


def test_a_model_without_a_null_label_samples_every_class_and_refuses_guidance(nullless):
    from dit_lab.inside import record

    model = nullless.model
    assert generate(model, list(range(11)), steps=2).isfinite().all()
    x, t = torch.zeros(1, 4, 8, 8), torch.tensor([1])
    for call, told in (
        (lambda: generate(model, [10], steps=2, cfg_scale=2.0), "cannot be guided: leave cfg_scale at 1"),
        (lambda: generate(model, [11], steps=2), r"from 0 to 10 \(this model has no null label\), not 11"),
        (lambda: model(x, t), "this model has no null label"),
        (lambda: record(model, [1], steps=2).attention(model, 0, half="uncond"), "no null label, so no unconditional"),
    ):
        with pytest.raises(ValueError, match=told):
            call()
    assert torch.equal(model(x, t, torch.tensor([10])), model(x, t, torch.tensor([10])))


def test_a_model_without_a_null_label_is_kept_so_in_every_format_that_can_say_it(nullless, command, tmp_path):
    folder = save(tmp_path / "own", nullless.model)
    assert json.loads((folder / "config.json").read_text())["model"]["null_label"] is False
    assert load(folder).config == nullless.config
    for out, form in ("a.pt", "meta_dit"), ("again", "dit_lab"):
        assert command("convert", folder, tmp_path / out, "--to", form)[0] == 0
        assert load(tmp_path / out).config == nullless.config
    (tmp_path / "a.json").unlink()
    assert load(tmp_path / "a.pt", num_classes=11).config == nullless.config
    code, _, said = command("convert", folder, tmp_path / "pipe", "--to", "diffusers")
    assert code == 2 and "has a null label" in said and not (tmp_path / "pipe").exists()


def test_a_model_without_a_null_label_is_trained_on_without_dropped_labels(tmp_path):
    from dit_lab.data import open_data
    from dit_lab.training import TrainOptions, adapted, train

    images = open_data("digits")
    model = drawn(
        build("DiT-nano/2", **SMALL | dict(dim=16, heads=2, patch_size=4, in_channels=1, null_label=False)), 0
    )
    options = dict(steps=1, batch_size=4, sample_every=1)
    with pytest.raises(ValueError, match="no null label that dropped labels could become; give label_dropout=0"):
        train(model, images, TrainOptions(**options))
    list(train(model, images, TrainOptions(**options, label_dropout=0), out=tmp_path / "run"))
    before = load(tmp_path / "run")
    assert not before.config.null_label
    again, changes = adapted(before, images)
    assert changes == []
    assert_same(again.state_dict(), before.model.state_dict())


@pytest.mark.parametrize("wrong", [dict(null_label=1), dict(null_label=None), dict(num_classes=0, null_label=False)])
def test_a_null_label_is_there_or_not_and_always_without_classes(wrong):
    with pytest.raises(ValueError, match="null_label must be true or false, and true in a model without classes"):
        build("DiT-nano/2", **SMALL | wrong)


# --- sizes, and the VAE


@pytest.mark.parametrize(
    ("args", "options", "size"),
    [
        ({}, {}, 32),
        (dict(image_size=512), {}, 64),
        (dict(image_size=256), {}, 32),
        (dict(image_size=512), dict(input_size=48), 48),
        ({}, dict(input_size=(32, 64)), (32, 64)),
    ],
)
def test_a_u_dits_size_is_the_one_that_is_said(args, options, size, tmp_path):
    loaded = load(write(tmp_path / "U-DiT.pt", udit_theirs(), **args), **options)
    assert loaded.config.input_size == size
    assert ("nothing says the input's side, so it is taken for 32" in loaded.note) == (not args and not options)


def test_a_u_dits_heads_are_in_its_tensors(tmp_path):
    path = write(tmp_path / "U-DiT.pt", udit_theirs())
    assert load(path, heads=2).config.heads == 2
    assert "it says of itself trained_as dit, not 'sit'" in complaint(path, trained_as="sit")


@pytest.mark.parametrize(
    ("args", "options", "size"),
    [
        ({}, dict(input_size=8), 8),
        ({}, dict(input_size=(8, 12)), (8, 12)),
        (dict(image_size=64), {}, 8),
        (dict(image_size=512), dict(input_size=8), 8),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_position_table_that_was_left_out_is_computed_once_the_size_is_said(dtype, args, options, size, tmp_path):
    tensors = {name: tensor.to(dtype) for name, tensor in theirs(input_size=size).items()}
    path = write(tmp_path / "DiT.pt", {name: t for name, t in tensors.items() if name != "pos_embed"}, **args)
    loaded = load(path, dtype=None, **options)
    assert loaded.config.input_size == size
    assert_same(meta_dit.to_theirs(loaded.model.state_dict(), loaded.config), tensors)
    assert torch.equal(loaded.model.positions, position_table(96, *loaded.config.grid).to(dtype))


def test_without_a_size_a_left_out_position_table_is_told(tmp_path):
    tensors = theirs()
    del tensors["pos_embed"]
    assert (
        "its position table (pos_embed) is left out, so say the input's side: input_size=32 (--input-size 32)"
        in complaint(write(tmp_path / "DiT.pt", tensors))
    )
    assert "patch_size 2" in complaint(tmp_path / "DiT.pt", input_size=9)


def test_a_size_that_the_position_table_contradicts_is_refused(tmp_path):
    path = write(tmp_path / "DiT.pt", theirs())
    assert load(path, input_size=8).config.input_size == 8
    assert "it says of itself input_size (8, 8), not (16, 16); leave input_size out" in complaint(path, input_size=16)


@pytest.mark.parametrize("side", ["512", 0, -8, 12, 3.5, True, [[8] * 9 for _ in range(99)]])
def test_a_picture_size_that_is_none_is_told(side, tmp_path):
    path = write(tmp_path / "U-DiT.pt", udit_theirs(), image_size=side)
    assert "its training arguments say image_size" in complaint(path)
    assert load(path, input_size=32).config.input_size == 32


@pytest.mark.parametrize(
    ("vae", "codec"),
    [("ema", "stabilityai/sd-vae-ft-ema"), ("mse", "stabilityai/sd-vae-ft-mse"), ("./my_vae", "./my_vae")],
)
def test_the_vae_is_the_one_of_the_arguments(vae, codec, tmp_path):
    assert load(write(tmp_path / "DiT.pt", theirs(), vae=vae)).codec_hint == codec


@pytest.mark.parametrize("vae", [5, None, "", [["x"] * 9 for _ in range(99)]])
def test_a_vae_that_is_no_name_is_told(vae, tmp_path):
    assert "arguments' vae should be a name, not" in complaint(write(tmp_path / "DiT.pt", theirs(), vae=vae))


# --- the command line


def test_the_command_line_says_what_a_file_does_not(command, tmp_path):
    tensors = theirs(dim=40, heads=5)
    del tensors["pos_embed"]
    path, out = write(tmp_path / "a.pt", tensors), tmp_path / "own"
    told = "--heads", 5, "--input-size", 8, "--num-classes", 11, "--trained-as", "sit"
    code, _, said = command("convert", path, out, "--to", "dit_lab", *told)
    assert code == 0 and said == ""
    config = load(out).config
    assert (config.heads, config.input_size, config.num_classes, config.schedule) == (5, 8, 11, "sit")
    code, _, said = command("convert", path, tmp_path / "dit", "--to", "dit_lab", *told[:4])
    assert code == 0 and said.count("\n") == 1 and said.startswith("dit_lab: its label table") and UNKNOWN in said
    draw = "sample", path, "--labels", 10, "--steps", 2, "--sampler", "euler", "--size", 16, "--out", tmp_path / "a.png"
    code, _, said = command(*draw, *told, "--device", "cpu")
    assert code == 0 and UNKNOWN not in said
    from PIL import Image

    assert Image.open(tmp_path / "a.png").size == (16, 16)
    assert "--trained-as" in command("evaluate", "--help")[1]
