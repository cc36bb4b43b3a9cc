"""Codecs: what a latent is divided by, what is shown without a VAE, and that none is a reason to stop."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from shared import ROOT

import dit_lab.data.vaes
from dit_lab.data import Autoencoder, Pixels, codecs, open_codec, open_vae
from dit_lab.data.previews import FalseColours, LinearPreview, false_colours, fit_preview

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
    ask = "from dit_lab.data.codecs import open_codec; print(open_codec('stabilityai/sd-vae-ft-ema', channels=4).note)"
    told = subprocess.run([sys.executable, "-c", ask], env=here, text=True, capture_output=True, timeout=60)
    assert "the hub could not be reached" in told.stdout and "local folder" in told.stdout, told.stderr
    assert ".." not in told.stdout and "Retrying" not in told.stderr


def test_pixels_encode_as_they_are():
    images = torch.rand(2, 3, 4, 4)
    assert Pixels().encode(images) is images


@pytest.mark.parametrize(("name", "shift"), [("kl", None), ("kl", 0.7), ("tiny", None)])
def test_encoding_takes_the_mean_less_the_shift_times_the_scaling_factor(name, shift, vaes):
    codec, images = open_codec(None, str(vaes / name), channels=4), torch.rand(3, 3, 8, 12) * 2 - 1
    codec.vae.register_to_config(**({"shift_factor": shift} if shift else {}))
    found = codec.vae.encode(images)
    expected = found.latents if name == "tiny" else (found.latent_dist.mean - (shift or 0)) * 0.18215
    mean, std = codec.moments(images)
    torch.testing.assert_close(codec.encode(images), expected)
    torch.testing.assert_close(mean, expected)
    assert std is None if name == "tiny" else torch.allclose(std, found.latent_dist.std * 0.18215)
    rebuilt = codec.vae.decode(found.latents if name == "tiny" else found.latent_dist.mean).sample.clamp(-1, 1)
    torch.testing.assert_close(codec.decode(mean), rebuilt, rtol=1e-4, atol=1e-5)


def test_grey_pictures_go_through_a_vae_in_three_equal_channels(vaes):
    codec, grey = open_codec(None, str(vaes / "kl"), channels=4), torch.rand(2, 1, 8, 8)
    assert torch.equal(codec.encode(grey), codec.encode(grey.expand(2, 3, 8, 8)))


def test_sides_that_a_vae_does_not_halve_evenly_are_refused(vaes):
    codec = open_codec(None, str(vaes / "kl"), channels=4)
    with pytest.raises(ValueError, match=r"sides that divide by 2, not 8 x 7 \(h w\); give a --size"):
        codec.encode(torch.zeros(1, 3, 8, 7))


@pytest.mark.parametrize("name", ["kl", "tiny"])
def test_a_long_batch_goes_through_in_portions_and_gives_the_same(name, vaes, monkeypatch):
    codec, images = open_codec(None, str(vaes / name), channels=4), torch.rand(5, 3, 8, 8)
    together = codec.encode(images)
    sizes = []
    codec.vae.encoder.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    monkeypatch.setattr(codecs, "TILE", 12)  # 144 pixels: two pictures of 64
    torch.testing.assert_close(codec.encode(images), together)
    assert sizes == [2, 2, 1]


def without_statistics(vae):
    """The VAE without what looks at a whole picture: group norms and attention."""
    for module in list(vae.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.GroupNorm):
                setattr(module, name, torch.nn.Identity())
    vae.encoder.mid_block.attentions[0] = vae.decoder.mid_block.attentions[0] = None
    return vae


@pytest.mark.parametrize(
    ("name", "change", "inside", "mean"),
    [("kl", lambda vae: vae, 0.3, 0.06), ("kl", without_statistics, 1e-4, 0.02), ("tiny", lambda vae: vae, 1e-4, 0.02)],
)
def test_a_picture_too_large_for_one_piece_goes_in_blended_tiles(name, change, inside, mean, vaes, monkeypatch):
    """In units of what is encoded or decoded: away from seams it is the same but for the group norms' statistics.

    On average it is near everywhere, and nowhere is there an edge: with tiles that hardly overlap, the largest
    difference of white-noise latents is 1.7.
    """
    across = torch.linspace(0, 30, 160)
    waves = torch.stack([torch.sin(across[:, None] * k) * torch.cos(across[None] * (4 - k)) for k in (1, 2, 3)])[None]
    latents = torch.randn(1, 4, 80, 80, generator=torch.Generator().manual_seed(1))
    for module in codecs, dit_lab.data.vaes:
        monkeypatch.setattr(module, "TILE", 64)
    codec = Autoencoder(change(open_vae(str(vaes / name))))
    sides = []
    codec.vae.encoder.register_forward_pre_hook(lambda _, given: sides.append(max(given[0].shape[-2:])))
    codec.vae.decoder.register_forward_pre_hook(lambda _, given: sides.append(2 * max(given[0].shape[-2:])))
    tiled, rebuilt = codec.encode(waves), codec.decode(latents)
    assert len(sides) > 8 and max(sides) == 64
    monkeypatch.setattr(codecs, "TILE", 512)
    for ours, theirs in (tiled, codec.encode(waves)), (rebuilt, codec.decode(latents)):
        assert ours.shape == theirs.shape
        apart = (ours - theirs).abs() / theirs.std()
        assert apart[..., 4:16, 4:16].max() < inside and apart.mean() < mean and apart.max() < 1


def test_a_vae_of_the_zoo_opens_by_its_name(vaes, monkeypatch):
    monkeypatch.setattr(dit_lab.data.vaes, "zoo_vaes", lambda: {"small_vae": vaes / "kl"})
    assert isinstance(open_codec("small_vae", channels=4), Autoencoder)
    with pytest.raises(ValueError, match="there is no such folder, and the zoo has small_vae"):
        open_codec(None, "smal_vae", channels=4)


def test_a_half_precision_vae_computes_in_full(vaes, tmp_path):
    open_vae(str(vaes / "kl")).half().save_pretrained(tmp_path)
    assert {weight.dtype for weight in open_vae(str(tmp_path)).parameters()} == {torch.float32}


def test_a_fitted_preview_finds_the_linear_map_that_made_the_pictures():
    weight, bias, latents = torch.randn(5, 3) * 0.1, torch.tensor([0.1, -0.2, 0.0]), torch.randn(3, 5, 4, 6)
    small = torch.einsum("bchw,cr->brhw", latents, weight) + bias[:, None, None]
    detail = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 6)  # gone once pooled
    found = fit_preview(latents, small.repeat_interleave(2, -1).repeat_interleave(2, -2) + detail)
    torch.testing.assert_close(found.weight, weight)
    torch.testing.assert_close(found.bias, bias)
    torch.testing.assert_close(found.decode(latents), small.clamp(-1, 1))


def test_where_a_vae_is_missing_but_its_colours_are_known_they_are_used(vaes, tmp_path, monkeypatch):
    (tmp_path / "preview.json").write_text('{"weight": [[1, 0, 0], [0, 1, 0]], "bias": [0, 0, 0.5]}')
    codec = open_codec(str(tmp_path), channels=2)
    assert isinstance(codec, LinearPreview) and "approximate colours" in codec.note and "--vae" in codec.note
    assert codec.decode(torch.tensor([0.2, -0.4]).reshape(1, 2, 1, 1)).flatten().tolist() == pytest.approx(
        [0.2, -0.4, 0.5]
    )
    assert isinstance(open_codec(str(tmp_path), channels=4), FalseColours)
    monkeypatch.setattr(
        dit_lab.data.vaes, "downloaded", lambda *_: (_ for _ in ()).throw(ValueError("the hub is away"))
    )
    for hint in "stabilityai/sd-vae-ft-mse", "stabilityai/sd-vae-ft-ema", "facebook/DiT-XL-2-256":
        assert isinstance(codec := open_codec(hint, channels=4), LinearPreview) and "the hub is away" in codec.note
        assert codec.decode(torch.randn(1, 4, 4, 4)).shape == (1, 3, 4, 4)
    unknown = open_codec("somebody/some-vae", channels=4)
    assert isinstance(unknown, FalseColours) and "hues are not" in unknown.note
