"""A VAE on pictures of one's own: what a run leaves, its figures, resumed bit for bit, the decoder alone, refusals."""

import json
import os
import signal

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from shared import assert_same, launch, processes, tiny_vae

from dit_lab.commands.train_vae import train_vae_command
from dit_lab.data import Autoencoder, Images, open_data, open_vae
from dit_lab.program import run
from dit_lab.training import VaeOptions, new_vae, train_vae
from dit_lab.training.autoencoder import split_off
from dit_lab.training.rebuilding import deviation, figures_of

WEIGHTS = "diffusion_pytorch_model.safetensors"
STEPS = ["--steps", "6", "--batch-size", "4", "--warmup", "2", "--save-every", "2"]
NEW = ["--width", "8", "--factor", "2", "--latent-channels", "3"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of 24 pictures in colour, 8 x 8, each of two halves."""
    folder, random = tmp_path_factory.mktemp("pictures"), torch.Generator().manual_seed(0)
    for number in range(24):
        halves = torch.randint(256, (1, 2, 3), generator=random, dtype=torch.uint8)
        array = halves.repeat_interleave(8, 0).repeat_interleave(4, 1).numpy()
        Image.fromarray(array).save(folder / f"{number:02}.png")
    return folder


def start(pictures, out, *more, model=NEW, die_at=None, stop_at=None):
    """Run the command in a process of its own, killed within its `die_at`-th write or stopped at a step: exit code."""
    arguments = [*STEPS, *model, "--data", str(pictures), "--out", str(out), "--device", "cpu", *map(str, more)]
    process = processes.Process(target=child, args=(arguments, die_at, stop_at))
    process.start()
    process.join(timeout=240)
    assert process.exitcode is not None, "the training hangs"
    return process.exitcode


def child(arguments, die_at, stop_at):
    """In the new process: train, with SIGKILL at a chosen point of writing files or SIGTERM within a step."""
    from dit_lab.training import autoencoder

    torch.set_num_threads(1)
    points, advance = iter(range(1, 10**9)), autoencoder.advance

    def deadly(function):
        def wrapped(*given):
            if next(points) == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*given)

        return wrapped

    def stopping(state, *given):
        if state.step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return advance(state, *given)

    os.fsync, os.replace, autoencoder.advance = deadly(os.fsync), deadly(os.replace), stopping
    run(train_vae_command, "dit_lab train-vae", arguments)


@pytest.fixture(scope="module")
def trained(pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "vae"
    assert start(pictures, out) == 0
    return out


def lines(out):
    """The log without what depends on the clock."""
    read = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in read]


def same(out, other):
    """Assert that two runs left the same, to the bit."""
    for name in WEIGHTS, "state.safetensors":
        assert_same(load_file(out / name), load_file(other / name))
    for name in "config.json", "figures.json", "rebuilt.png":
        assert (out / name).read_bytes() == (other / name).read_bytes()
    assert lines(out) == lines(other)
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in other.iterdir())


def test_a_run_leaves_a_vae_that_diffusers_opens_and_the_figures_of_pictures_held_back(trained, pictures):
    diffusers = pytest.importorskip("diffusers")
    theirs, ours = diffusers.AutoencoderKL.from_pretrained(trained), open_vae(str(trained), 3)
    assert_same(ours.state_dict(), theirs.state_dict())
    images, figures = open_data(str(pictures), labelled=False), json.loads((trained / "figures.json").read_text())
    kept, held = split_off(len(images), VaeOptions())
    assert len(held) == figures["pictures_held_back"] == 2 and len(kept) == 22
    x = images.batch(held)[0]
    rebuilt = ((Autoencoder(ours).decode(Autoencoder(ours).encode(x)) + 1) * 127.5).round()
    apart = (rebuilt - torch.from_numpy(images.pixels[held])) / 255
    psnr = -10 * apart.square().mean(dim=(1, 2, 3)).log10()
    assert figures["psnr"] == pytest.approx(psnr.mean().item(), abs=1e-3)
    assert figures["psnr_deviation"] == pytest.approx(psnr.std(correction=0).item(), abs=1e-3)
    assert figures["mean_absolute_error"] == pytest.approx(apart.abs().mean().item(), abs=1e-5)
    nats = ours.encode(x).latent_dist.kl().mean().item() / ours.encode(x).latent_dist.mean[0].numel()
    assert figures["kl"] == pytest.approx(nats, rel=1e-3)
    assert Image.open(trained / "rebuilt.png").size == (2 * 2 * 8, 8)  # two pairs side by side
    assert [line["step"] for line in lines(trained)] == [2, 4, 6, 6]


def test_its_latents_of_the_pictures_trained_on_have_unit_size_once_scaled(trained, pictures):
    images = open_data(str(pictures), labelled=False)
    kept, _ = split_off(len(images), VaeOptions())
    mean, std = Autoencoder(open_vae(str(trained))).moments(images.batch(kept)[0])
    assert (mean.var(correction=0) + std.square().mean()).sqrt().item() == pytest.approx(1, rel=1e-3)


def test_training_makes_rebuilt_pictures_nearer(pictures, tmp_path):
    images = open_data(str(pictures), labelled=False)
    torch.manual_seed(0)
    vae = new_vae(images.shape, width=8)
    _, held = split_off(len(images), VaeOptions())
    with torch.no_grad():
        before = figures_of(vae, images, held)["psnr"]
    steps = list(
        train_vae(vae, images, VaeOptions(steps=60, batch_size=8, lr=3e-3, warmup=5, ema_decay=0.9), out=tmp_path)
    )
    assert steps[-1].error < 0.65 * steps[0].error
    assert json.loads((tmp_path / "figures.json").read_text())["psnr"] > before + 2


def test_a_run_killed_while_it_writes_ends_as_the_uninterrupted_one(trained, pictures, tmp_path):
    out = tmp_path / "vae"
    # Before it says what it was started with; amid its first VAE; before its first state; amid a later VAE's figures.
    for die_at, more in (1, []), (5, []), (12, ["--resume"]), (9, ["--resume"]), (22, ["--resume"]):
        assert start(pictures, out, *more, die_at=die_at) == -signal.SIGKILL
    assert start(pictures, out, "--resume") == 0
    same(out, trained)


def test_a_stopped_run_is_saved_and_goes_on_to_the_same_weights(trained, pictures, tmp_path):
    out = tmp_path / "vae"
    assert start(pictures, out, stop_at=2) == 128 + signal.SIGTERM
    assert open_vae(str(out)) and lines(out)[-1]["step"] == 3
    assert start(pictures, out, "--resume") == 0
    for name in WEIGHTS, "state.safetensors":
        assert_same(load_file(out / name), load_file(trained / name))


def test_a_run_at_a_constant_rate_can_be_given_more_steps(pictures, tmp_path):
    images = open_data(str(pictures), labelled=False)
    for name, steps, resume in ("whole", 6, False), ("parts", 2, False), ("parts", 6, True):
        options = VaeOptions(steps=steps, batch_size=4, lr_decay="constant")
        torch.manual_seed(0)
        list(train_vae(new_vae(images.shape, width=8), images, options, out=tmp_path / name, resume=resume))
    assert_same(*(load_file(tmp_path / name / WEIGHTS) for name in ("parts", "whole")))


def member(pictures, out):
    """In one of several processes: the same training."""
    images = open_data(str(pictures), labelled=False)
    torch.manual_seed(0)
    list(train_vae(new_vae(images.shape, width=8), images, VaeOptions(steps=3, batch_size=4, warmup=1), out=out))


def test_two_processes_train_as_one_does(pictures, tmp_path):
    launch(2, member, pictures, tmp_path / "two")
    member(pictures, tmp_path / "one")
    # Not weight by weight: a bias before a group norm has no gradient but rounding, which AdamW makes steps of.
    for ours, theirs in zip(lines(tmp_path / "two"), lines(tmp_path / "one"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder with a small VAE whose latents are scaled and shifted."""
    folder = tmp_path_factory.mktemp("given") / "vae"
    vae = tiny_vae()
    vae.register_to_config(scaling_factor=0.3, shift_factor=0.1)
    vae.save_pretrained(folder)
    return folder


def test_of_a_given_vae_the_decoder_alone_is_trained_and_no_bit_of_the_encoder(given, pictures, tmp_path):
    out, model = tmp_path / "vae", ["--init", str(given), "--decoder-only"]
    assert start(pictures, out, model=model) == 0
    before, after = open_vae(str(given)), open_vae(str(out))
    changed = {name for name, tensor in before.state_dict().items() if not tensor.equal(after.state_dict()[name])}
    assert changed and all(name.startswith(("decoder.", "post_quant_conv.")) for name in changed)
    assert Autoencoder(after).encoder_checksum == Autoencoder(before).encoder_checksum  # the scale is part of it
    assert Autoencoder(after).scaling == (0.3, 0.1)
    assert start(pictures, tmp_path / "cut", model=model, die_at=16) == -signal.SIGKILL
    assert start(pictures, tmp_path / "cut", "--resume", model=model) == 0
    same(tmp_path / "cut", out)


def test_a_given_vae_that_is_trained_whole_is_scaled_anew(given, pictures, tmp_path, command):
    ask = ["--init", given, "--data", pictures, "--out", tmp_path / "vae", "--device", "cpu"]
    assert command("train-vae", *STEPS, *ask)[0] == 0
    vae, images = open_vae(str(tmp_path / "vae")), open_data(str(pictures), labelled=False)
    assert not vae.encoder.conv_in.weight.equal(open_vae(str(given)).encoder.conv_in.weight)
    kept, _ = split_off(len(images), VaeOptions())
    with torch.no_grad():
        assert vae.config.scaling_factor == pytest.approx(1 / deviation(vae, images, kept), rel=1e-4)
    assert vae.config.shift_factor is None


def test_resuming_a_decoder_with_another_encoder_is_refused(given, pictures, tmp_path, command):
    tiny_vae(1).save_pretrained(tmp_path / "other")
    ask = ["train-vae", *STEPS, "--data", pictures, "--out", tmp_path / "vae", "--device", "cpu", "--decoder-only"]
    assert command(*ask, "--init", given)[0] == 0
    code, _, said = command(*ask, "--init", tmp_path / "other", "--resume")
    assert code == 2 and "was started with model encoder " in said


@pytest.mark.parametrize(
    ("shape", "factor", "latents"), [((3, 64, 64), 8, 8), ((1, 32, 32), 4, 8), ((1, 28, 28), 2, 14), ((1, 8, 8), 2, 4)]
)
def test_the_factor_leaves_eight_latents_a_side_where_it_can(shape, factor, latents):
    images = Images(torch.zeros(1, *shape, dtype=torch.uint8).numpy(), torch.zeros(1, dtype=torch.int64).numpy(), [])
    codec = Autoencoder(new_vae(shape, width=8))
    assert codec.factor == factor and codec.encode(images.batch([0])[0]).shape == (1, 4, latents, latents)


def test_grey_pictures_and_both_errors_are_trained_on(tmp_path, command):
    for loss in "l1", "l2":
        ask = ["--data", "digits", "--loss", loss, "--width", 8, "--out", tmp_path / loss, "--precision", "bf16"]
        code, told, said = command("train-vae", *STEPS, *ask)
        assert code == 0 and "150 pictures held back come back at " in told, said
    ours, theirs = (load_file(tmp_path / loss / WEIGHTS) for loss in ("l1", "l2"))
    assert any(not tensor.equal(theirs[name]) for name, tensor in ours.items())
