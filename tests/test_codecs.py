"""Codecs: what a latent is divided by, what is shown without a VAE, and that none is a reason to stop."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dit_lab.codecs import Autoencoder, FalseColours, Pixels, false_colours, open_codec

ROOT = Path(__file__).parent.parent
TINY_KL = {
    "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [8, 8], "norm_num_groups": 4, "layers_per_block": 1, "latent_channels": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def vaes(tmp_path_factory):
    """Folders of a small random AutoencoderKL and AutoencoderTiny, and a pipeline folder around the first."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vaes")
    kl = diffusers.AutoencoderKL(**TINY_KL)
    kl.save_pretrained(folder / "kl")
    kl.save_pretrained(folder / "pipeline" / "vae")
    blocks = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    counts = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    diffusers.AutoencoderTiny(**blocks, **counts).save_pretrained(folder / "tiny")
    return folder


def test_pixels_are_left_alone_and_grey_gets_three_channels():
    colour, grey = torch.rand(2, 3, 4, 6) * 2 - 1, torch.rand(2, 1, 4, 6)
    codec = open_codec("pixels", channels=3)
    assert torch.equal(codec.decode(colour), colour)
    assert torch.equal(codec.decode(grey), grey.expand(2, 3, 4, 6))
    assert codec.decode(colour * 9).abs().max() == 1 and codec.note == ""


def test_without_a_vae_latents_are_shown_in_false_colours_and_the_note_says_how_to_give_one():
    codec = open_codec(None, channels=4)
    assert isinstance(codec, FalseColours) and "--vae" in codec.note
    assert codec.decode(torch.randn(2, 4, 8, 6)).shape == (2, 3, 8, 6)


def test_every_latent_channel_changes_the_false_colours():
    seen = [false_colours(torch.eye(4)[channel].reshape(1, 4, 1, 1)) for channel in range(4)]
    assert len({tuple(colour.flatten().tolist()) for colour in seen}) == 4
    assert false_colours(torch.randn(1, 2, 4, 4)).shape == false_colours(torch.randn(1, 16, 4, 4)).shape


def test_a_named_vae_that_is_not_there_leaves_false_colours_with_the_reason(tmp_path):
    codec = open_codec(str(tmp_path / "gone"), channels=4)
    assert isinstance(codec, FalseColours) and "gone" in codec.note and "false colours" in codec.note


def test_a_vae_asked_for_that_cannot_be_opened_is_an_error_in_one_sentence(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(ValueError, match="UNet2DModel, not one of AutoencoderKL"):
        open_codec("pixels", str(tmp_path), channels=3)
    with pytest.raises(ValueError, match="could not open the VAE"):
        open_codec(None, str(tmp_path / "gone"), channels=4)


def test_a_vae_in_the_old_pickled_format_opens(vaes, tmp_path):
    """As facebook/DiT-XL-2-256 has it."""
    shutil.copy(vaes / "kl" / "config.json", tmp_path)
    tensors = load_file(vaes / "kl" / "diffusion_pytorch_model.safetensors")
    torch.save(tensors, tmp_path / "diffusion_pytorch_model.bin")
    opened = open_codec(None, str(tmp_path), channels=4).vae.state_dict()
    assert all(torch.equal(opened[name], tensors[name]) for name in tensors)


class Bait:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_code_in_a_pickled_vae_never_runs(vaes, tmp_path):
    shutil.copy(vaes / "kl" / "config.json", tmp_path)
    tensors = load_file(vaes / "kl" / "diffusion_pytorch_model.safetensors")
    torch.save(tensors | {"bait": Bait(tmp_path / "ran")}, tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match="could not open the VAE"):
        open_codec(None, str(tmp_path), channels=4)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name, factor", [("kl", 0.18215), ("tiny", 1.0), ("pipeline", 0.18215)])
def test_a_vae_divides_latents_by_its_own_scaling_factor(vaes, name, factor):
    codec, latents = open_codec(str(vaes / name), channels=4), torch.randn(2, 4, 4, 6)
    assert isinstance(codec, Autoencoder) and codec.note == ""
    with torch.no_grad():
        expected = codec.vae.decode(latents / factor).sample.clamp(-1, 1)
    torch.testing.assert_close(codec.decode(latents), expected, rtol=1e-4, atol=1e-5)
    assert expected.shape[1] == 3 and expected.shape[-1] > 6


def test_a_vae_asked_for_goes_before_the_one_that_the_checkpoint_names(vaes):
    assert isinstance(open_codec("pixels", str(vaes / "tiny"), channels=4), Autoencoder)
    assert isinstance(open_codec("pixels", channels=3), Pixels)


def test_a_vae_of_other_latents_than_the_models_is_refused_or_noted(vaes):
    with pytest.raises(ValueError, match="its latents have 4 channels, the model's 1"):
        open_codec("pixels", str(vaes / "kl"), channels=1)
    noted = open_codec(str(vaes / "kl"), channels=8)
    assert isinstance(noted, FalseColours) and "4 channels" in noted.note


def test_what_looks_like_a_path_never_goes_to_the_hub():
    for path in ("./nowhere", "/no/where", "a/b/c"):
        with pytest.raises(ValueError, match="there is no such folder"):
            open_codec(None, path, channels=4)


def test_an_unreachable_hub_is_said_at_once_with_what_to_do(tmp_path):
    """In a process of its own: huggingface_hub reads its settings once."""
    here = dict(os.environ, HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path), PYTHONPATH=str(ROOT))
    ask = "from dit_lab.codecs import open_codec; print(open_codec('stabilityai/sd-vae-ft-ema', channels=4).note)"
    told = subprocess.run([sys.executable, "-c", ask], env=here, text=True, capture_output=True, timeout=60)
    assert "the hub could not be reached" in told.stdout and "local folder" in told.stdout, told.stderr
    assert ".." not in told.stdout and "Retrying" not in told.stderr
