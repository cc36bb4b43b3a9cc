"""The zoo's VAE: its recipe on a few small pictures, and what ships."""

import json
import os
import signal

import datasets
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from shared import processes

from dit_lab.data import Autoencoder, open_codec, open_data, open_vae, zoo_vaes
from dit_lab.data.previews import LinearPreview, preview_of
from dit_lab.program import run
from dit_lab.zoo import vae as recipe
from dit_lab.zoo.vae import VaeOptions, psnr, vae_command

ARGUMENTS = ["--steps", "6", "--batch-size", "4", "--warmup", "2", "--save-every", "2", "--widths", "8", "16"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of 24 training and 8 test pictures, 8 x 8 in colour."""
    folder = tmp_path_factory.mktemp("pictures")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=2)})
    random = torch.Generator().manual_seed(0)
    for split, count in ("train", 24), ("test", 8):
        coarse = torch.randint(256, (count, 2, 2, 3), generator=random, dtype=torch.uint8)
        arrays = coarse.repeat_interleave(4, 1).repeat_interleave(4, 2).numpy()
        columns = {"image": [Image.fromarray(array) for array in arrays], "label": [k % 2 for k in range(count)]}
        datasets.Dataset.from_dict(columns, features=features).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


def train(pictures, out, *more, stop_at=None):
    """Run the recipe in a process of its own, on one thread; returns its exit code."""
    arguments = [*ARGUMENTS, "--data", str(pictures), "--out", str(out), "--device", "cpu", *more]
    process = processes.Process(target=child, args=(arguments, stop_at))
    process.start()
    process.join(timeout=240)
    assert process.exitcode is not None, "the training hangs"
    return process.exitcode


def child(arguments, stop_at):
    """In the new process: train, and be sent a SIGTERM in the middle of a step."""
    torch.set_num_threads(1)
    advance = recipe.advance

    def advance_and_stop(state, *rest):
        if state.step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return advance(state, *rest)

    recipe.advance = advance_and_stop
    run(vae_command, "dit_lab.zoo.vae", arguments)


@pytest.fixture(scope="module")
def trained(pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("vae") / "vae"
    assert train(pictures, out) == 0
    return out


def test_the_vae_opens_as_diffusers_own_in_half_precision_with_its_measured_scale(trained, pictures):
    weights = load_file(trained / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    codec, images = Autoencoder(open_vae(str(trained), 4)), open_data(str(pictures))
    mean, std = codec.moments(images.batch(range(len(images)))[0])
    assert (mean.var() + std.square().mean()).sqrt().item() == pytest.approx(1, rel=1e-3)
    assert not (trained / "state.safetensors").exists()
    assert json.loads((trained / "log.jsonl").read_text())["step"] == 6


def test_the_figures_say_how_near_rebuilt_pictures_are(trained, pictures):
    figures = json.loads((trained / "figures.json").read_text())
    test, codec = open_data(str(pictures), split="test"), Autoencoder(open_vae(str(trained)))
    x = test.batch(range(8))[0]
    rebuilt = ((codec.decode(codec.encode(x)) + 1) * 127.5).round()
    errors = ((rebuilt - torch.from_numpy(test.pixels)) / 255).square().mean(dim=(1, 2, 3))
    assert figures["psnr_mean_over_pictures"] == pytest.approx((-10 * errors.log10()).mean().item(), rel=1e-4)
    assert figures["psnr_of_mean_squared_error"] == pytest.approx(-10 * errors.mean().log10().item(), rel=1e-4)
    assert figures["test_pictures"] == 8 and figures["parameters"] < 1_500_000
    assert len(figures["latent_mean"]) == len(figures["latent_std"]) == 4


def test_its_linear_preview_is_kept_beside_it(trained, pictures):
    preview, x = preview_of(str(trained)), open_data(str(pictures)).batch([0])[0]
    assert isinstance(preview, LinearPreview)
    latents = open_codec(None, str(trained), channels=4).encode(x)
    assert preview.decode(latents).shape == (1, 3, 4, 4)


def test_a_stopped_run_continues_bit_for_bit(trained, pictures, tmp_path):
    assert train(pictures, tmp_path, stop_at=2) == 128 + signal.SIGTERM and (tmp_path / "state.safetensors").exists()
    assert train(pictures, tmp_path, "--resume") == 0
    ours, theirs = (load_file(out / "diffusion_pytorch_model.safetensors") for out in (tmp_path, trained))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_finished_vae_is_not_overwritten(trained, pictures):
    with pytest.raises(ValueError, match="already holds a VAE"):
        vae_command(data=str(pictures), out=trained)


def test_what_the_recipe_makes_has_at_most_a_million_and_a_half_parameters():
    vae = recipe.new_vae(VaeOptions())
    assert sum(parameter.numel() for parameter in vae.parameters()) <= 1_500_000
    assert Autoencoder(vae).encode(torch.zeros(1, 3, 32, 32)).shape == (1, 4, 8, 8)


def test_the_shipped_vae_rebuilds_test_pictures_as_well_as_its_figures_say(real_data):
    if "cifar10_vae" not in zoo_vaes():
        pytest.skip("the zoo has no cifar10_vae yet")
    figures = json.loads((zoo_vaes()["cifar10_vae"] / "figures.json").read_text())
    test = open_data(str(real_data("cifar10")), split="test")
    codec, places = open_codec("cifar10_vae", channels=4), range(0, len(test), 100)
    x = test.batch(places)[0]
    bits = lambda x: ((x + 1) * 127.5).round() / 255
    errors = (bits(codec.decode(codec.encode(x))) - bits(x)).square().mean(dim=(1, 2, 3))
    assert psnr(errors).mean().item() == pytest.approx(figures["psnr_mean_over_pictures"], abs=1)
    assert codec.encode(x).std().item() == pytest.approx(1, abs=0.15)
    preview = preview_of("cifar10_vae").decode(codec.encode(x))
    assert (preview - torch.nn.functional.avg_pool2d(x, 4)).square().mean().sqrt() < 0.2
