"""Latents in memory: those that the command would keep, and a data set to train on as any other."""

import numpy as np
import pytest
import torch
from shared import tiny_vae
from torch.nn import functional as F

from dit_lab.data import Autoencoder, Images, encoded, open_data
from dit_lab.diffusion import objective
from dit_lab.models import build, taking
from dit_lab.training import TrainOptions, train


@pytest.fixture(scope="module")
def pictures():
    random = np.random.default_rng(0)
    return Images(random.integers(0, 256, (21, 3, 8, 12), dtype=np.uint8), np.arange(21) % 4, list("abcd"))


def halves(x):
    """An encoder of one's own: means over squares of four."""
    return F.avg_pool2d(x, 2)


def test_latents_in_memory_are_the_commands_bit_for_bit(command, tmp_path):
    vae = tiny_vae()
    vae.save_pretrained(tmp_path / "vae")
    out = tmp_path / "latents"
    code, *_ = command("encode", "--data", "digits", "--vae", tmp_path / "vae", "--out", out, "--split", "test")
    assert code == 0
    kept, held = open_data(out, split="test"), encoded(open_data("digits", split="test"), str(tmp_path / "vae"))
    noise, mirrored = torch.randn(40, *kept.shape, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2 > 0
    for options in {}, {"mirrored": mirrored}, {"mirrored": mirrored, "noise": noise}:
        (x, y), (x_held, y_held) = (each.batch(range(40), **options) for each in (kept, held))
        assert torch.equal(x, x_held) and torch.equal(y, y_held)
    assert held.fingerprint == kept.fingerprint and held.codec == kept.codec and held.names == kept.names


def test_an_autoencoder_in_memory_gives_its_own_moments(pictures):
    codec = Autoencoder(tiny_vae())
    latents = encoded(pictures, codec, batch_size=5)
    mean, std = codec.moments(pictures.batch(range(21))[0])
    noise = torch.ones(21, *latents.shape)
    torch.testing.assert_close(latents.batch(range(21))[0], mean, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(latents.batch(range(21), noise=noise)[0], mean + std, rtol=2e-3, atol=2e-3)
    assert latents.encoder == codec.encoder_checksum and latents.codec == "in memory"


def test_a_function_of_ones_own_encodes_and_its_mirror_images_are_the_mirrored_pictures(pictures):
    latents = encoded(pictures, halves)
    x, _ = pictures.batch([3, 20])
    assert latents.shape == (3, 4, 6) and len(latents) == 21
    torch.testing.assert_close(latents.batch([3, 20])[0], halves(x), rtol=1e-3, atol=1e-3)
    mirrored = latents.batch([3, 20], mirrored=[True, False])[0]
    torch.testing.assert_close(mirrored[0], halves(x.flip(-1))[0], rtol=1e-3, atol=1e-3)
    spread = encoded(pictures, lambda x: (halves(x), torch.full_like(halves(x), 0.5)))
    noise = torch.ones(2, 3, 4, 6)
    torch.testing.assert_close(spread.batch([3, 20], noise=noise)[0], halves(x) + 0.5, rtol=1e-3, atol=1e-3)


def test_a_model_trains_on_them_and_nothing_is_written(pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    latents = encoded(pictures, halves)
    model = build("DiT-nano/2", **taking(latents), **objective("flow"), dim=16, depth=1, heads=2)
    steps = list(train(model, latents, TrainOptions(steps=2, batch_size=8, precision="fp32", mirror=True)))
    assert len(steps) == 2 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("codec", "told"),
    [
        (lambda x: x.mean(), "an encoder must give latents b c h w of its 42 pictures"),
        (lambda x: x[:3], "an encoder must give latents b c h w of its 42 pictures"),
        (lambda x: (x, x, x), "an encoder must give latents b c h w"),
        (lambda x: x / 0, "the VAE makes NaN or Inf of pictures 0 to 20"),
    ],
)
def test_what_is_no_latent_is_refused(codec, told, pictures):
    with pytest.raises(ValueError, match=told):
        encoded(pictures, codec)


def test_latents_are_not_encoded_twice(pictures):
    with pytest.raises(ValueError, match="these are no pictures: latents are encoded already"):
        encoded(encoded(pictures, halves), halves)
