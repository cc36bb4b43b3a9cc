"""Which VAE is fetched from the hub: one asked for, and a known one that a checkpoint names; no other at its word."""

import shutil

import pytest
from shared import tiny_vae

import dit_lab.data.vaes
from dit_lab.checkpoints import load, save
from dit_lab.data import Autoencoder, codec_of, open_codec, open_vae, picture_codec
from dit_lab.data.previews import FalseColours, LinearPreview
from dit_lab.models import build

KNOWN = ["stabilityai/sd-vae-ft-mse", "stabilityai/sd-vae-ft-ema"]


@pytest.fixture
def asked(monkeypatch):
    """The repositories that the hub was asked for, in vain."""
    names = []

    def downloaded(repository, *_):
        names.append(repository)
        raise ValueError(f"{repository!r}: the hub could not be reached")

    monkeypatch.setattr(dit_lab.data.vaes, "downloaded", downloaded)
    monkeypatch.setattr("socket.socket.connect", lambda *_: names.append("a socket") or pytest.fail("it connects"))
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: names.append("a name") or pytest.fail("it looks up"))
    return names


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """The hub's cache on this disk, empty."""
    import huggingface_hub.constants

    here = tmp_path / "hub"
    here.mkdir()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(here))
    return here


def checkpoint(folder, hint):
    """A local checkpoint of 4 channels that names a VAE."""
    model = build("DiT-nano/4", depth=1, input_size=8, in_channels=4, num_classes=3)
    return load(save(folder / "model", model, codec_hint=hint))


@pytest.mark.parametrize(
    "hint", ["somebody/some-vae", "stabilityai/sd-vae-ft-mse-2", "facebook/DiT-XL-2-1024", "evil.org/x", "a/b"]
)
def test_a_local_checkpoint_makes_nobody_ask_the_hub_for_what_it_names(hint, asked, cache, tmp_path):
    codec = codec_of(checkpoint(tmp_path, hint))
    assert not asked and isinstance(codec, FalseColours)
    assert hint in codec.note and "is not on this disk" in codec.note and "--vae" in codec.note
    with pytest.raises(ValueError, match="only pictures can be judged.*--vae") as caught:
        picture_codec(checkpoint(tmp_path, hint))
    assert not asked and len(str(caught.value)) <= 300


@pytest.mark.parametrize("hint", KNOWN)
def test_the_known_vaes_are_fetched_at_its_word(hint, asked, cache, tmp_path):
    codec = codec_of(checkpoint(tmp_path, hint))
    assert asked == [hint] and isinstance(codec, LinearPreview) and "could not be reached" in codec.note


def test_the_zoos_vae_opens_without_the_hub(asked, cache, tmp_path):
    assert isinstance(codec_of(checkpoint(tmp_path, "cifar10_vae")), Autoencoder) and not asked


def test_one_that_is_asked_for_is_fetched(asked, cache, tmp_path):
    for ask in (
        lambda: open_codec("pixels", "somebody/some-vae", channels=4),
        lambda: codec_of(checkpoint(tmp_path, "a/b"), "somebody/some-vae"),
        lambda: open_vae("somebody/some-vae"),
    ):
        with pytest.raises(ValueError, match="the hub could not be reached"):
            ask()
    assert asked == ["somebody/some-vae"] * 3


def test_what_was_fetched_before_opens_without_the_hub(asked, cache, tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = cache / "models--somebody--some-vae"
    tiny_vae().save_pretrained(repository / "snapshots" / commit / "vae")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    assert isinstance(codec_of(checkpoint(tmp_path, "somebody/some-vae")), Autoencoder) and not asked
    shutil.rmtree(repository)
    assert isinstance(codec_of(checkpoint(tmp_path, "somebody/some-vae")), FalseColours) and not asked


def test_a_folder_of_that_name_is_opened(asked, cache, tmp_path, monkeypatch):
    tiny_vae().save_pretrained(tmp_path / "somebody" / "some-vae")
    monkeypatch.chdir(tmp_path)
    assert isinstance(codec_of(checkpoint(tmp_path, "somebody/some-vae")), Autoencoder) and not asked


def test_sampling_a_local_checkpoint_says_what_is_missing_and_how_to_give_it(asked, cache, tmp_path, command):
    checkpoint(tmp_path, "somebody/some-vae")
    out = tmp_path / "a.png"
    code, said, complained = command("sample", tmp_path / "model", "--labels", 1, "--steps", 2, "--out", out)
    assert code == 0 and out.exists() and not asked
    assert "somebody/some-vae" in said + complained and "--vae" in said + complained
