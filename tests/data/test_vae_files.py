"""A VAE's config and tensors are checked before they are used: it opens, or is refused in a sentence, and soon."""

import json
import os
import resource
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from shared import in_child, tiny_vae

from dit_lab.checkpoints import save
from dit_lab.data import open_codec, open_vae
from dit_lab.data.previews import FalseColours
from dit_lab.models import build

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
# What each changes in the config of a sound AutoencoderKL, and what is said of it.
BAD = {
    "a billion layers": ({"layers_per_block": 10**9}, "layers_per_block should be a whole number from 1 to 16"),
    "no layers": ({"layers_per_block": 0}, "layers_per_block should be"),
    "layers as a text": ({"layers_per_block": "1"}, "layers_per_block should be"),
    "layers as a truth": ({"layers_per_block": True}, "layers_per_block should be"),
    "an absurd width": ({"block_out_channels": [8, 2**40]}, "block_out_channels should be a list of 1 to 8, each"),
    "a negative width": ({"block_out_channels": [8, -8]}, "block_out_channels should be"),
    "many levels": ({"block_out_channels": [8] * 100_000}, "block_out_channels should be"),
    "widths as a number": ({"block_out_channels": 8}, "block_out_channels should be"),
    "widths in lists": ({"block_out_channels": [[8], [8]]}, "block_out_channels should be"),
    "a level too few": ({"block_out_channels": [8]}, "differ in length: 1, 2, 2"),
    "a width of no groups": ({"block_out_channels": [8, 6]}, "has 6, which is no multiple of 4 groups"),
    "no groups": ({"norm_num_groups": 0}, "norm_num_groups should be"),
    "absurd latents": ({"latent_channels": 10**12}, "latent_channels should be"),
    "many picture channels": ({"in_channels": 10**9}, "in_channels should be 3"),
    "a block of another kind": ({"down_block_types": ["CrossAttnDownBlock2D"] * 2}, "down_block_types should be"),
    "blocks as objects": ({"up_block_types": {"0": "UpDecoderBlock2D"}}, "up_block_types should be"),
    "no such activation": ({"act_fn": "x" * 10**5}, "act_fn should be"),
    "an activation in a list": ({"act_fn": ["silu"]}, "act_fn should be"),
    "no scale": ({"scaling_factor": 0}, "scaling_factor should be a number above 0"),
    "no number as a scale": ({"scaling_factor": float("nan")}, "scaling_factor should be"),
    "a scale beyond all numbers": ({"scaling_factor": 10**400}, "scaling_factor should be"),
    "nothing as a scale": ({"scaling_factor": None}, "scaling_factor should be"),
    "a shift as a text": ({"shift_factor": "0\n\x1b[31m"}, "shift_factor should be"),
    "an endless shift": ({"shift_factor": float("inf")}, "shift_factor should be"),
    "sides as a text": ({"sample_size": "32"}, "sample_size should be"),
    "another class": ({"_class_name": "UNet2DModel"}, "it holds a UNet2DModel, not one of AutoencoderKL"),
    "a list of classes": ({"_class_name": ["AutoencoderKL"]}, "not one of AutoencoderKL"),
    "wider than its file": (
        {"block_out_channels": [16384, 16384]},
        "is 8 x 3 x 3 x 3 .*, by its config 16384 x 3",
    ),
    "deeper than its file": ({"layers_per_block": 16}, "its file lacks decoder.up_blocks"),
}
NO_CONFIGS = {
    "a list": "[]", "a text": '"AutoencoderKL"', "nothing": "", "no JSON": "{", "not a text": b"\xff\xfe\x00",
    "nested": "[" * 100_000 + "]" * 100_000, "nested inside": '{"a":' * 50_000, "long": " " * 2**21 + "{}",
    "empty": "{}", "a number of many digits": '{"layers_per_block": ' + "9" * 100_000 + "}",
}  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The folder of a small VAE."""
    folder = tmp_path_factory.mktemp("sound")
    tiny_vae().save_pretrained(folder)
    return folder


@pytest.fixture
def vae(sound, tmp_path):
    """A copy of it, to be harmed."""
    return shutil.copytree(sound, tmp_path / "vae")


def change(vae, **values):
    config = json.loads((vae / CONFIG).read_text())
    (vae / CONFIG).write_text(json.dumps(config | values))


def refused(vae, told="VAE"):
    """Refused soon, in one sentence, with these words; named by a checkpoint it leaves a preview."""
    open_codec(None, channels=4)  # what is imported first is not timed
    began = time.monotonic()
    with pytest.raises(ValueError, match=told) as caught:
        open_vae(str(vae))
    said = str(caught.value)
    assert said.startswith("could not open the VAE") and len(said) <= 300 and said.isprintable()
    shown = open_codec(str(vae), channels=4)
    assert time.monotonic() - began < 4  # two tries
    assert isinstance(shown, FalseColours) and shown.note.isprintable() and len(shown.note) <= 400


@pytest.mark.parametrize("case", BAD)
def test_a_config_that_makes_no_vae_is_refused(case, vae):
    changes, told = BAD[case]
    change(vae, **changes)
    refused(vae, told)


@pytest.mark.parametrize("case", NO_CONFIGS)
def test_a_config_that_is_none_is_refused(case, vae):
    content = NO_CONFIGS[case]
    (vae / CONFIG).write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(vae)


def test_a_pipe_or_a_folder_in_a_files_place_is_not_waited_for(vae):
    (vae / CONFIG).unlink()
    refused(vae, "config.json")
    os.mkfifo(vae / CONFIG)
    refused(vae, "config.json")
    (vae / CONFIG).unlink()
    (vae / CONFIG).mkdir()
    refused(vae, "config.json")


def test_a_pipe_in_the_weights_place_is_not_waited_for(vae):
    (vae / WEIGHTS).unlink()
    os.mkfifo(vae / WEIGHTS)
    refused(vae, "has no diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize("name", ["decoder.conv_in.weight", "quant_conv.bias"])
def test_a_tensor_that_is_missing_of_another_shape_or_no_number_is_named(name, vae):
    """Left out, diffusers would start it at random and open all the same."""
    whole = load_file(vae / WEIGHTS)
    part = whole.pop(name)
    for tensors, told in (
        (whole, f"its file lacks {name}"),
        (whole | {name: part[:-1].clone()}, f"its {name} is .* by its config"),
        (whole | {name: part.to(torch.int8)}, f"its {name} is .* in int8"),
    ):
        save_file(tensors, vae / WEIGHTS)
        refused(vae, told)


def test_tensors_that_are_one_in_the_file_are_not_multiplied_in_memory(vae):
    tensors, seen = load_file(vae / WEIGHTS), {}
    for name, tensor in tensors.items():
        tensors[name] = seen.setdefault(tensor.shape, tensor)
    (vae / WEIGHTS).unlink()
    torch.save(tensors, vae / "diffusion_pytorch_model.bin")
    refused(vae, "its tensors are more than the [0-9]+ bytes of its file")


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\x10\0\0\0\0\0\0\0" + b"{" * 16, b"{}"])
def test_a_file_of_no_tensors_is_refused(content, vae):
    (vae / WEIGHTS).write_bytes(content)
    refused(vae)


def test_what_else_the_file_and_the_config_hold_does_no_harm(vae):
    change(vae, _name_or_path="/somewhere", something={"new": [1]})
    tensors = load_file(vae / WEIGHTS)
    save_file(tensors | {"loss.weight": torch.zeros(2)}, vae / WEIGHTS)
    opened = open_vae(str(vae)).state_dict()
    assert opened.keys() == tensors.keys() and all(torch.equal(opened[name], tensors[name]) for name in tensors)


def test_attention_by_its_old_names_opens(vae):
    """As in stabilityai/sd-vae-ft-mse."""
    tensors = load_file(vae / WEIGHTS)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in tensors.items():
        for new, before in old.items():
            name = name.replace(f".{new}.", f".{before}.")
        renamed[name] = tensor
    assert renamed.keys() != tensors.keys()
    save_file(renamed, vae / WEIGHTS)
    opened = open_vae(str(vae)).state_dict()
    assert all(torch.equal(opened[name], tensor) for name, tensor in tensors.items())


def growth(folder):
    """Megabytes that this process grows by a VAE that is refused, and the sentence."""
    open_vae(str(folder.parent / "sound"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        open_vae(str(folder))
        said = "it opens"
    except ValueError as error:
        said = str(error)
    return said, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def test_the_largest_vae_that_a_config_may_ask_for_takes_no_memory_of_its_own(vae):
    shutil.copytree(vae, vae.parent / "sound")
    change(
        vae, block_out_channels=[2**14] * 8, layers_per_block=16, latent_channels=1024,
        down_block_types=["AttnDownEncoderBlock2D"] * 8, up_block_types=["AttnUpDecoderBlock2D"] * 8,
    )  # fmt: skip
    said, megabytes = in_child(growth, vae)
    assert "its file lacks" in said and megabytes < 200


@pytest.mark.parametrize(
    "content",
    ["[]", "{", '{"weight": 5, "bias": [0, 0, 0]}', '{"weight": [[1, 0]], "bias": [0, 0, 0]}',
     '{"weight": [[1, 0, "x"]], "bias": [0, 0, 0]}', '{"weight": [[1, 0, 1e999]], "bias": [0, 0, 0]}',
     '{"weight": [], "bias": [0, 0, 0]}', '{"bias": [0, 0, 0]}', "[" * 10**5],
)  # fmt: skip
def test_a_preview_that_is_none_leaves_false_colours(content, tmp_path):
    (tmp_path / "preview.json").write_text(content)
    assert isinstance(open_codec(str(tmp_path), channels=1), FalseColours)


@pytest.mark.parametrize("hint", ["x" * 10**6, "a/" * 10**5, "a\0b", "a\nb\x1b[31m", " ", "~", "..", "http://x/y"])
def test_a_codec_by_an_absurd_name_is_a_note(hint):
    note = open_codec(hint, channels=4).note
    assert "No VAE" in note and note.isprintable() and len(note) <= 400


def test_a_folder_that_holds_a_model_is_said_to_hold_one_and_no_none(tmp_path):
    shape = dict(in_channels=4, input_size=8, num_classes=2, depth=1, dim=16, heads=2)
    save(tmp_path / "model", build("DiT-nano/4", **shape))
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / CONFIG).write_text('{"a": 1}')
    for name, told in ("model", "it holds a model, not a VAE"), ("else", "it holds no VAE of diffusers"):
        with pytest.raises(ValueError) as caught:
            open_vae(str(tmp_path / name))
        assert told in str(caught.value) and "None" not in str(caught.value)
        assert str(caught.value).endswith("AutoencoderKL or AutoencoderTiny; give a VAE's folder")
