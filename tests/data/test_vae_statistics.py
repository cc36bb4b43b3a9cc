"""A VAE's own mean and standard deviation a channel, `latents_mean` and `latents_std`, count both ways."""

import json
import math

import pytest
import torch
from shared import tiny_vae

from dit_lab.checkpoints import load
from dit_lab.data import Autoencoder, codec_of, open_codec, open_vae
from dit_lab.data.latents import open_latents
from dit_lab.data.previews import fit_preview, preview_of
from dit_lab.files import checksum

FACTOR = 0.18215


def per_channel(x):
    """Mean and standard deviation over all but the channels: `b c h w -> (c, c)`."""
    return x.mean(dim=(0, 2, 3)), x.std(dim=(0, 2, 3))


def channels(values):
    return torch.tensor(values).reshape(-1, 1, 1)


@pytest.fixture(scope="module")
def pictures():
    coarse = torch.rand(32, 3, 2, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)


@pytest.fixture(scope="module")
def vaes(tmp_path_factory, pictures):
    """Folders of one VAE without statistics of its latents on the pictures, and with them."""
    folder, vae = tmp_path_factory.mktemp("vaes"), tiny_vae().eval()
    with torch.no_grad():
        mean, std = per_channel(vae.encode(pictures).latent_dist.mean)
    vae.save_pretrained(folder / "plain")
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
    vae.save_pretrained(folder / "told")
    return folder


def changed(vaes, folder, **changes):
    """A copy of the VAE with statistics, its config changed."""
    config = json.loads((vaes / "told" / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    name = "diffusion_pytorch_model.safetensors"
    (folder / name).write_bytes((vaes / "told" / name).read_bytes())
    return str(folder)


def test_latents_are_standard_times_the_scaling_factor(vaes, pictures):
    codec = open_codec(None, str(vaes / "told"), channels=4)
    mean, std = per_channel(codec.encode(pictures))
    torch.testing.assert_close(mean, torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(std, torch.full((4,), FACTOR), rtol=1e-3, atol=0)
    own = codec.vae.encode(pictures).latent_dist
    spread = codec.moments(pictures)[1]
    torch.testing.assert_close(spread, own.std * FACTOR / channels(codec.vae.config.latents_std))


def test_standard_latents_become_the_vaes_own_pictures_and_not_grey_ones(vaes, pictures):
    codec = open_codec(None, str(vaes / "told"), channels=4)
    with torch.no_grad():
        own = codec.vae.encode(pictures).latent_dist.mean
        rebuilt = codec.vae.decode(own).sample.clamp(-1, 1)
    mean, std = (channels(codec.vae.config[name]) for name in ("latents_mean", "latents_std"))
    torch.testing.assert_close(codec.decode((own - mean) / std * FACTOR), rebuilt, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(codec.decode(codec.encode(pictures)), rebuilt, rtol=1e-3, atol=1e-4)


def test_beside_statistics_the_shift_counts_for_nothing_as_in_diffusers(vaes, pictures, tmp_path):
    shifted = open_codec(None, changed(vaes, tmp_path, shift_factor=0.7), channels=4)
    assert torch.equal(shifted.encode(pictures), open_codec(None, str(vaes / "told"), channels=4).encode(pictures))


def test_statistics_are_in_the_encoders_checksum_and_a_vae_without_keeps_its_own(vaes):
    plain, told = (Autoencoder(open_vae(str(vaes / name))) for name in ("plain", "told"))
    state = plain.vae.state_dict()
    encoder = {name: tensor for name, tensor in state.items() if name.startswith(("encoder.", "quant_conv."))}
    assert plain.encoder_checksum == checksum(encoder | {"scaling": torch.tensor([FACTOR, 0.0])})
    assert told.encoder_checksum != plain.encoder_checksum
    assert told.about == plain.about | {
        "encoder_checksum": told.encoder_checksum,
        "latents_mean": told.vae.config.latents_mean, "latents_std": told.vae.config.latents_std,
    }  # fmt: skip
    assert plain.about.keys() == {"encoder_checksum", "vae_checksum", "scaling_factor", "shift_factor"}


def test_a_checkpoint_of_before_still_knows_its_vae():
    kept = load("cifar10")
    assert kept.made["encoder_checksum"] and codec_of(kept).note == ""


def test_a_cache_is_of_standard_latents_and_says_by_what(vaes, tmp_path, command):
    out, vae = tmp_path / "out", vaes / "told"
    code, _, said = command("encode", "--data", "digits", "--split", "test", "--vae", vae, "--out", out)
    latents, codec = open_latents(out), open_codec(None, str(vae), channels=4)
    assert code == 0, said
    for name in "latents_mean", "latents_std":
        assert latents.about[name] == codec.vae.config[name]
    x = codec.vae.decode(latents.batch([3])[0] / FACTOR * channels(codec.vae.config.latents_std)
                         + channels(codec.vae.config.latents_mean)).sample.clamp(-1, 1)  # fmt: skip
    torch.testing.assert_close(codec.decode(latents.batch([3])[0]), x, rtol=1e-3, atol=1e-4)
    code, _, said = command("encode", "--data", "digits", "--split", "test", "--vae", vaes / "plain", "--out", out)
    assert code == 2 and "holds latents made with" in said and len(said) < 400


def test_a_linear_preview_is_of_the_codecs_latents(vaes, pictures, tmp_path):
    codec = open_codec(None, str(vaes / "told"), channels=4)
    latents = codec.encode(pictures)
    fitted = fit_preview(latents, pictures)
    (tmp_path / "preview.json").write_text(json.dumps({"weight": fitted.weight.tolist(), "bias": fitted.bias.tolist()}))
    shown = preview_of(str(tmp_path)).decode(latents)
    plain = open_codec(None, str(vaes / "plain"), channels=4).encode(pictures)
    expected = fit_preview(plain, pictures).decode(plain)  # a linear map takes the statistics in
    torch.testing.assert_close(shown, expected, rtol=0, atol=1e-2)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"latents_std": None}, "has latents_mean but no latents_std"),
        ({"latents_mean": None}, "has latents_std but no latents_mean"),
        ({"latents_mean": [0.0, 0.1, 0.2]}, "latents_mean has 3 values, its latents 4 channels"),
        ({"latents_std": [1.0, 1.0, 0.0, 1.0]}, "latents_std should be a list of 1 to 1024, each a number above 0"),
        ({"latents_std": [1.0, -1.0, 1.0, 1.0]}, "latents_std should be"),
        ({"latents_mean": [0.0, math.nan, 0.0, 0.0]}, "latents_mean should be .* each a finite number"),
        ({"latents_mean": [0.0, math.inf, 0.0, 0.0]}, "latents_mean should be"),
        ({"latents_mean": [0.0, "1", 0.0, 0.0]}, "latents_mean should be"),
        ({"latents_mean": [0.0, True, 0.0, 0.0]}, "latents_mean should be"),
        ({"latents_mean": 0.5}, "latents_mean should be"),
        ({"latents_mean": {"0": 0.5}}, "latents_mean should be"),
    ],
)
def test_statistics_that_cannot_be_right_are_refused_in_a_sentence(changes, told, vaes, tmp_path):
    with pytest.raises(ValueError, match=told) as caught:
        open_vae(changed(vaes, tmp_path, **changes))
    assert len(str(caught.value)) <= 300 and str(caught.value).isprintable()


def test_a_tiny_vae_is_given_no_statistics_that_would_be_lost(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderTiny", "latents_mean": [0, 0, 0, 0]}')
    with pytest.raises(ValueError, match="has latents_mean, which an AutoencoderTiny does not know"):
        open_vae(str(tmp_path))
