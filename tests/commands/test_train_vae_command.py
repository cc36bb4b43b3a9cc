"""What `train-vae` is asked for and refuses, each in one sentence and before any work; and who takes what it makes."""

import pytest
import torch
from shared import random_model, tiny_vae

from dit_lab.checkpoints import save
from dit_lab.data import open_data

STEPS = ["--steps", "2", "--batch-size", "8", "--save-every", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def digits_vae(tmp_path_factory):
    """The folder of a VAE that was trained for two steps on digits."""
    from dit_lab.commands.train_vae import train_vae_command
    from dit_lab.program import run

    out = tmp_path_factory.mktemp("trained") / "vae"
    run(train_vae_command, "dit_lab train-vae", [*STEPS, "--width", "8", "--data", "digits", "--out", str(out)])
    return out


def test_what_it_makes_is_taken_by_encode_train_and_sample(digits_vae, tmp_path, command):
    given = ["--vae", digits_vae, "--data", "digits", "--split", "test", "--out", tmp_path / "latents"]
    assert command("encode", *given)[0] == 0
    latents = open_data(str(tmp_path / "latents"), split="test")
    assert latents.shape == (4, 4, 4) and latents.codec == str(digits_vae)
    save(tmp_path / "model", random_model(input_size=4, in_channels=4, patch_size=2), codec_hint=str(digits_vae))
    for more in [], ["--vae", digits_vae]:
        picture = tmp_path / f"{len(more)}.png"
        code, told, said = command("sample", tmp_path / "model", "--labels", 1, "--steps", 2, "--out", picture, *more)
        assert code == 0 and picture.exists() and "false colours" not in told, said


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["--data", "digits", "--size", "27"], "27 x 27 (h w) do not divide by the VAE's factor 2; give a --size "),
        (["--data", "digits", "--size", "20", "--factor", "8"], "factor 8; give a --size that does, such as 16"),
        (["--data", "cifar10-latents-small"], "'cifar10-latents-small' holds latents already; a VAE is trained on"),
        (["--data", "digits", "--split", "none"], "digits has no split 'none'; it has train and test"),
        (["--data", "digits", "--decoder-only"], "--decoder-only trains the decoder of a given VAE: say which with"),
        (["--data", "digits", "--init", "cifar10_vae", "--width", "8"], "--init brings its own VAE; leave out --width"),
        (["--data", "digits", "--init", "no/such/vae"], "could not open the VAE 'no/such/vae'"),
        (["--data", "digits", "--width", "12"], "width must be a multiple of 8, not 12"),
        (["--data", "digits", "--latent-channels", "0"], "latent_channels must be at least 1, not 0"),
        (["--data", "digits", "--held-back", "1"], "held_back must be a share between 0 and 1, not 1.0"),
        (["--data", "digits", "--held-back", "0.9999"], "of 1498 pictures 1498 cannot be held back; give more"),
        (["--data", "digits", "--kl-weight", "-1"], "kl_weight must be a finite number from 0, not -1.0"),
        (["--data", "digits", "--lr", "0"], "lr must be a finite number above 0, not 0.0"),
        (["--data", "digits", "--batch-size", "0"], "batch_size must be a whole number of at least 1"),
        (["--data", "digits", "--loss", "l3"], "--loss cannot be 'l3'"),
        (["--data", "digits", "--resume"], "there is nothing to resume in "),
    ],
)
def test_what_does_not_go_together_is_one_sentence_and_leaves_nothing(asked, told, tmp_path, command):
    code, _, said = command("train-vae", *asked, "--out", tmp_path / "vae")
    last = said.strip().splitlines()[-1]
    assert code == 2 and last.startswith("dit_lab: ") and told in last, said
    assert not (tmp_path / "vae").exists()


def test_a_vae_without_a_distribution_is_refused(tmp_path, command):
    diffusers = pytest.importorskip("diffusers")
    blocks = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    counts = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    diffusers.AutoencoderTiny(**blocks, **counts).save_pretrained(tmp_path / "tiny")
    code, _, said = command("train-vae", "--data", "digits", "--init", tmp_path / "tiny", "--out", tmp_path / "vae")
    assert code == 2 and "an AutoencoderTiny has no distribution of latents; give an AutoencoderKL" in said


def test_a_folder_that_cannot_be_written_or_holds_something_else_is_refused(digits_vae, tmp_path, command):
    (tmp_path / "file").write_text("")
    tiny_vae().save_pretrained(tmp_path / "foreign")
    for out, told in (
        (tmp_path / "file", "is a file; give the run a folder"),
        (tmp_path / "file" / "vae", "is a file"),
        (digits_vae, "already holds a run (state.safetensors); continue it with --resume or choose another folder"),
        (tmp_path / "foreign", "already holds a VAE (diffusion_pytorch_model.safetensors); "),
    ):
        code, _, said = command("train-vae", *STEPS, "--data", "digits", "--out", out)
        assert code == 2 and told in said, said


def test_other_options_than_a_run_was_started_with_are_refused_by_name(digits_vae, command):
    ask = ["train-vae", *STEPS, "--data", "digits", "--out", digits_vae, "--resume"]
    for more, told in (
        (["--width", "16"], "was started with model block_out_channels [8, 16] (now [16, 32])"),
        (["--width", "8", "--kl-weight", "1"], "was started with option kl_weight 0.0005 (now 1.0)"),
        (["--width", "8", "--split", "test"], "data pictures 1498 (now 299)"),
        (["--width", "8", "--steps", "3"], "option lr_decay cosine-over-2-steps (now cosine-over-3-steps)"),
    ):
        code, _, said = command(*ask, *more)
        assert code == 2 and told in said, said
    code, told, said = command(*ask, "--width", "8")
    assert code == 0 and "has all its steps already" in said and "scaling factor" in told


def test_a_loss_that_turns_nan_ends_with_code_1_and_the_last_good_vae_stays(tmp_path, command, monkeypatch):
    from dit_lab.training import autoencoder

    whole = autoencoder.drawn
    bad = lambda images, trained, step, *rest: [
        each * (torch.nan if step else 1) for each in whole(images, trained, step, *rest)
    ]
    monkeypatch.setattr(autoencoder, "drawn", bad)
    code, _, said = command("train-vae", *STEPS, "--width", 8, "--data", "digits", "--out", tmp_path / "vae")
    assert (
        code == 1
        and "NaN or infinite at step 2; try a lower learning rate than 0.001; the checkpoint of step 1" in said
    )
    assert (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").exists()
