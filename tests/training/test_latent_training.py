"""Training on a cache of latents, end to end: encoded, trained on, gone on from, sampled and judged through its VAE."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from shared import tiny_vae

from dit_lab.checkpoints import load, save
from dit_lab.commands.encode import encode_command
from dit_lab.commands.evaluate import evaluate_command
from dit_lab.commands.train import ModelOptions, train_command
from dit_lab.data import DataError, Images, Latents, codec_of, open_data, open_vae, picture_codec
from dit_lab.data.latents import is_cache, open_latents
from dit_lab.diffusion import generate
from dit_lab.evaluation import Judging, Sampling
from dit_lab.models import build
from dit_lab.training import TrainOptions, adapted, train

WEIGHTS = "diffusion_pytorch_model.safetensors"
FACTOR = 0.18215
TINY = ModelOptions(preset="DiT-nano/2", depth=1, dim=16, heads=2)
OPTIONS = TrainOptions(steps=6, batch_size=8, lr=2e-3, save_every=3, sample_every=6, precision="fp32")


def encode(vae, out):
    encode_command(data="digits", vae=str(vae), out=out, split="test", shard_size=128, device="cpu")
    return out


def run(out, data, options=OPTIONS, model=TINY, resume=False):
    train_command(options, model, out=out, data=str(data), split="test", device="cpu", resume=resume)
    return out


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """VAEs, caches of 299 digits, and a run on `first`.

    `other` is of another encoder under the name of the VAE of `first`, which is only then written there.
    """
    folder = tmp_path_factory.mktemp("latents")
    vae, other = tiny_vae(0, channels=3), tiny_vae(1, channels=3)
    other.save_pretrained(folder / "vae")
    encode(folder / "vae", folder / "other")
    for name in "vae", "copy":
        vae.save_pretrained(folder / name)
    vae.decoder = other.decoder
    vae.save_pretrained(folder / "decoder")
    for name, cache in ("vae", "first"), ("copy", "of_copy"), ("decoder", "of_decoder"):
        encode(folder / name, folder / cache)
    run(folder / "run", folder / "first")
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


class Watched(Latents):
    """Latents that note what training asks for and gets."""

    def batch(self, indices, mirrored=None, noise=None):
        x, labels = super().batch(indices, mirrored, noise)
        seen.append((indices, mirrored.long(), noise, x))
        return x, labels


seen = []


@pytest.mark.parametrize("mirror", [False, True])
def test_every_epoch_draws_fresh_latents_and_half_of_them_mirrored_where_asked(mirror, home):
    seen.clear()
    latents = Watched(**vars(open_latents(home / "first")))
    shards = [load_file(path) for path in sorted((home / "first").glob("shard-*"))]
    mean, std = (torch.cat([shard[name] for shard in shards]).float() for name in ("mean", "std"))
    model = build("DiT-nano/2", in_channels=3, input_size=4, num_classes=10, depth=1, dim=16, heads=2)
    list(train(model, latents, replace(OPTIONS, steps=2, batch_size=len(latents), mirror=mirror)))
    for places, flips, noise, x in seen:
        torch.testing.assert_close(x, mean[places, flips] + std[places, flips] * noise)
        assert abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05
        assert 0.4 < flips.float().mean() < 0.6 if mirror else not flips.any()
    first, second = (x[np.argsort(places)] for places, _, _, x in seen)  # an epoch each, in the pictures' order
    assert ((first - second).abs() > 1e-3).flatten(1).any(1).all()
    assert ((mean[:, 0] - mean[:, 1]).abs() > 1e-3).flatten(1).any(1).all()


def test_a_run_goes_on_bit_for_bit_also_where_its_cache_has_moved(home, tmp_path):
    run(tmp_path / "run", home / "first", replace(OPTIONS, steps=3))
    shutil.copytree(home / "first", tmp_path / "moved")
    run(tmp_path / "run", tmp_path / "moved", resume=True)
    for name in "state.safetensors", "model.safetensors":
        ours, whole = (load_file(folder / name) for folder in (tmp_path / "run", home / "run"))
        assert ours.keys() == whole.keys() and all(ours[key].equal(whole[key]) for key in whole)
    assert (tmp_path / "run" / "config.json").read_bytes() == (home / "run" / "config.json").read_bytes()


def test_going_on_with_another_encoders_latents_under_the_same_name_is_refused(home, command):
    before, (here, there) = contents(home / "run"), [open_latents(home / name).encoder for name in ("first", "other")]
    given = ["--preset", "DiT-nano/2", "--depth", 1, "--dim", 16, "--heads", 2, "--data", home / "other"]
    given += ["--batch-size", 8, "--lr", 2e-3, "--precision", "fp32", "--split", "test", "--steps", 9, "--resume"]
    code, _, said = command("train", *given, "--out", home / "run")
    assert code == 2 and said.count("\n") == 1 and here != there
    assert f"was started with data encoder_checksum {here} (now {there}); only how long" in said
    assert contents(home / "run") == before


def decoded(home, latents):
    """What diffusers alone makes of latents, as `n 8 8 3` in 0 to 255."""
    with torch.no_grad():
        pictures = open_vae(str(home / "vae")).decode(latents / FACTOR).sample.clamp(-1, 1)
    return ((pictures + 1) * 127.5).permute(0, 2, 3, 1).numpy()


def shown(path, columns):
    """The pictures in a grid, `n 8 8 3`."""
    pixels = np.asarray(Image.open(path), dtype=np.float32)
    rows = pixels.reshape(len(pixels) // 8, 8, columns, 8, 3)
    return rows.transpose(0, 2, 1, 3, 4).reshape(-1, 8, 8, 3)


def test_a_checkpoint_names_its_vae_and_encoder_and_is_drawn_through_it(home, tmp_path, command):
    loaded, about = load(home / "run"), open_latents(home / "first").about
    assert loaded.codec_hint == str(home / "vae") and loaded.made["encoder_checksum"] == about["encoder_checksum"]
    assert loaded.labels == [str(digit) for digit in range(10)] and loaded.made["trained_steps"] == 6
    code, said, _ = command("sample", home / "run", "--labels", 3, 1, 4, 2, "--steps", 3, "--out", tmp_path / "a.png")
    expected = decoded(home, generate(loaded.model, [3, 1, 4, 2], steps=3, seed=0))
    ours = shown(tmp_path / "a.png", columns=2)
    assert code == 0 and "No VAE" not in said and ours.std() > 1 and np.abs(ours - expected).max() <= 1


def test_a_vae_whose_encoder_did_not_make_the_latents_is_told_and_not_judged_by(home, tmp_path, command):
    kept, few = load(home / "run"), Sampling(count=20, batch_size=10, steps=2)
    tiny_vae(1, channels=3).save_pretrained(tmp_path / "vae")
    save(tmp_path / "model", kept.model, labels=kept.labels, codec_hint=str(tmp_path / "vae"), extra=kept.made)
    told = f"The VAE {tmp_path / 'vae'} is not the one that made the latents this model learnt from"
    _, said, _ = command("sample", tmp_path / "model", "--labels", 3, "--steps", 2, "--out", tmp_path / "a.png")
    assert told in said and (tmp_path / "a.png").exists()
    with pytest.raises(ValueError, match=f"{told} .* say --vae "):
        evaluate_command(str(tmp_path / "model"), few, Judging(data="digits"), out=tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()
    assert codec_of(kept).note == codec_of(kept, str(home / "decoder")).note == ""  # another decoder is welcome
    assert told in picture_codec(kept, str(tmp_path / "vae")).note  # asked for by name, it is one's own choice


def test_data_that_holds_nan_is_named_and_not_the_learning_rate(home):
    latents = open_latents(home / "first")
    slices = [{name: part[name][:].clone() for name in ("mean", "std")} for part in latents.slices]
    slices[0]["mean"][3, :, 0, 0, 0] = float("nan")
    steps = train(TINY.model(latents), replace(latents, slices=slices), replace(OPTIONS, steps=40, batch_size=16))
    with pytest.raises(DataError, match="picture 3 of the data holds NaN or Inf, met at step "):
        list(steps)


def test_previews_are_pictures_and_not_latents(home):
    expected = generate(load(home / "run").model, [k % 10 for k in range(16)], steps=25, cfg_scale=2.0)
    (grid,) = (home / "run" / "samples").iterdir()
    assert Image.open(grid).size == (32, 32)
    assert np.abs(shown(grid, columns=4) - decoded(home, expected)).max() <= 1


def test_an_evaluation_tells_its_vae_and_keeps_no_samples_of_another(home, tmp_path):
    kept = load(home / "run")
    shutil.copytree(home / "vae", tmp_path / "vae")
    save(tmp_path / "model", kept.model, labels=kept.labels, codec_hint=str(tmp_path / "vae"), extra=kept.made)
    few, digits = Sampling(count=20, batch_size=10, steps=2), Judging(data="digits")
    evaluate_command(str(tmp_path / "model"), few, digits, out=tmp_path / "out", device="cpu")
    (line,) = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    told, known = json.loads(line)["checkpoint"], open_latents(home / "first").about
    assert told["codec"] == str(tmp_path / "vae") and told["scaling_factor"] == FACTOR
    for name in "vae_checksum", "encoder_checksum":
        assert told[name] == known[name]
    before = contents(tmp_path / "out")
    shutil.copy(home / "decoder" / WEIGHTS, tmp_path / "vae")
    with pytest.raises(ValueError, match=rf"samples of vae_checksum {told['vae_checksum']} \(now \w+\); give --out"):
        evaluate_command(str(tmp_path / "model"), few, digits, out=tmp_path / "out", device="cpu")
    assert contents(tmp_path / "out") == before


def test_fine_tuning_takes_the_same_encoders_latents_whatever_their_vaes_name(home, tmp_path, monkeypatch):
    kept = load(home / "run")
    for cache, name in ("of_copy", "copy"), ("of_decoder", "decoder"):
        model, changes = adapted(kept, open_data(home / cache, split="test"))
        tensors = kept.model.state_dict()
        assert not changes and all(tensors[key].equal(tensor) for key, tensor in model.state_dict().items())
        tuned = run(tmp_path / cache, home / cache, replace(OPTIONS, steps=1), ModelOptions(init=str(home / "run")))
        about = json.loads((tuned / "config.json").read_text())
        assert about["codec"] == str(home / name) and about["encoder_checksum"] == kept.made["encoder_checksum"]
    monkeypatch.chdir(home)
    assert contents(encode(Path("vae"), tmp_path / "relative")) == contents(home / "first")
    for hint in "vae", "./copy":  # of a checkpoint that does not say which encoder: its VAE is asked
        adapted(replace(kept, codec_hint=hint, made={}), open_data(home / "first", split="test"))
        with pytest.raises(ValueError, match=f"what {hint} makes of pictures"):
            adapted(replace(kept, codec_hint=hint, made={}), open_data(home / "other", split="test"))


def test_fine_tuning_refuses_another_encoders_latents_and_pixels(home, tmp_path, command):
    given = ["--init", home / "run", "--data", home / "other", "--split", "test", "--out", tmp_path / "run"]
    code, _, said = command("train", *given)
    vae = home / "vae"
    assert code == 2 and said.count("\n") == 1 and not (tmp_path / "run").exists()
    assert f"what {vae} makes of pictures, the data is made by a VAE of that name with other weights; encode" in said
    assert said.endswith("with the one that it was trained on\n")
    pixels = Images(np.zeros((6, 3, 4, 4), np.uint8), np.zeros(6, np.int64), list("0123456789"))
    with pytest.raises(ValueError, match=f"what {vae} makes of pictures, the data is made by pixels; encode the"):
        adapted(load(home / "run"), pixels)
    with pytest.raises(ValueError, match=f"was trained on .*pixels.*, the data is made by {vae}"):
        adapted(replace(load(home / "run"), codec_hint="pixels", made={}), open_data(home / "first", split="test"))


def test_classes_of_one_name_keep_a_row_each(home):
    kept = replace(load(home / "run"), labels=["crane", "maillot", "a", "maillot", "b", "crane", "c", "d", "e", "f"])
    names = ["maillot", "crane", "maillot", "maillot", "crane"]
    model, (told,) = adapted(kept, replace(open_latents(home / "first"), names=names))
    before, now = (each.label_embedding.weight for each in (kept.model, model))
    assert torch.equal(now[[0, 1, 2, 4, 5]], before[[1, 0, 3, 5, 10]])
    assert not (now[3] == before).all(1).any() and "10 classes before, 5 now; 4 keep their row by name" in told


def test_a_vae_that_makes_nan_leaves_no_cache(home, tmp_path, command):
    vae = open_vae(str(home / "vae"))
    vae.encoder.conv_in.weight[0, 0, 0, 0] = torch.nan
    vae.save_pretrained(tmp_path / "vae")
    code, _, said = command("encode", "--data", "digits", "--vae", tmp_path / "vae", "--out", tmp_path / "out")
    last = said.strip().splitlines()[-1]
    assert code == 2 and last.startswith("dit_lab: the VAE makes NaN or Inf of pictures 0 to 63: is it whole?")
    assert "Traceback" not in said and not is_cache(tmp_path / "out") and not list(tmp_path.rglob("*.partial"))
    with pytest.raises(DataError):
        open_data(tmp_path / "out")
