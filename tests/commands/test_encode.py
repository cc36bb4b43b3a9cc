"""Encoding a data set: the latents are the VAE's, several processes share the work, and a killed one goes on."""

import json
import os
import resource
import signal
import socket

import pytest
import torch
from shared import processes, tiny_vae

from dit_lab.commands.encode import encode_command
from dit_lab.data import Autoencoder, DataError, open_data, open_vae
from dit_lab.data.latents import open_latents
from dit_lab.data.latents_index import shard_path
from dit_lab.program import run

SHARDS = 6
CHANGES = ["--shard-size", "56", "--batch-size", "24", "--split", "test"]  # 299 digits


@pytest.fixture(scope="module")
def vaes(tmp_path_factory):
    """Folders of two small random VAEs with a distribution and one without."""
    diffusers = pytest.importorskip("diffusers")
    folder = tmp_path_factory.mktemp("vaes")
    for seed, name in enumerate(("kl", "other")):
        tiny_vae(seed).save_pretrained(folder / name)
    blocks = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    counts = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    diffusers.AutoencoderTiny(**blocks, **counts).save_pretrained(folder / "tiny")
    return folder


def start(vae, out, *more, rank=None, port=None, die_at=None):
    """Start a process that encodes digits: as one of two (`rank`), or killing itself at its `die_at`-th shard."""
    arguments = ["--data", "digits", "--vae", str(vae), "--out", str(out), *CHANGES, *more]
    process = processes.Process(target=child, args=(arguments, rank, port, die_at))
    process.start()
    return process


def child(arguments, rank, port, die_at):
    """In the new process: encode, as launchers start it, or with a SIGKILL before a file is in its place."""
    torch.set_num_threads(1)
    if rank is not None:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
        os.environ |= {name: str(value) for name, value in place.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if die_at is not None:
        replace, left = os.replace, iter(range(die_at, 0, -1))

        def deadly(*paths):
            if next(left) == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(*paths)

        os.replace = deadly
    run(encode_command, "dit_lab encode", arguments)


def finish(process):
    process.join(timeout=240)
    assert process.exitcode is not None, "the encoding hangs"
    return process.exitcode


def contents(folder):
    """Every file's bytes by its name, but of an index that was being written."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.match(".latents.json.*")}


@pytest.fixture(scope="module")
def whole(vaes, tmp_path_factory):
    out = tmp_path_factory.mktemp("latents") / "whole"
    assert finish(start(vaes / "kl", out)) == 0
    return out


def test_latents_are_the_vaes_mean_and_std_of_each_picture_and_its_mirror_image(whole, vaes):
    pictures, latents = open_data("digits", split="test"), open_latents(whole)
    codec, places = Autoencoder(open_vae(str(vaes / "kl"))), [0, 55, 56, 298]
    assert len(list(whole.glob("shard-*"))) == SHARDS and latents.names == pictures.names
    assert latents.labels.tolist() == pictures.labels.tolist() and latents.codec == str(vaes / "kl")
    for flip in False, True:
        mirrored = torch.full((4,), flip)
        x, y = pictures.batch(places, mirrored)
        mean, std = codec.moments(x)
        for noise in 0, 1:
            ours, labels = latents.batch(places, mirrored, torch.full(mean.shape, float(noise)))
            torch.testing.assert_close(ours, mean + noise * std, rtol=2e-3, atol=2e-4)
            assert torch.equal(labels, y)
    index = json.loads((whole / "latents.json").read_text())
    assert index["about"]["size"] == [8, 8] and index["about"]["scaling_factor"] == 0.18215


def pair(vae, out, dies=None):
    """The exit codes of two processes side by side, of which the second may die at its `dies`-th shard."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [start(vae, out, rank=rank, port=port, die_at=die) for rank, die in enumerate((None, dies))]
    return [finish(process) for process in started]


def test_two_processes_side_by_side_write_what_one_does(whole, vaes, tmp_path):
    assert pair(vaes / "kl", tmp_path / "out") == [0, 0]
    assert contents(tmp_path / "out") == contents(whole)


def test_when_one_of_two_processes_dies_what_both_wrote_is_kept_and_training_is_not_fooled(whole, vaes, tmp_path):
    out = tmp_path / "out"
    assert pair(vaes / "kl", out, dies=2) == [0, -signal.SIGKILL]  # a launcher would end the first one too
    written = {shard_path(out, shard).name for shard in (0, 2, 4, 1)}
    assert {path.name for path in out.glob("*.*") if not path.name.startswith(".")} == written
    with pytest.raises(DataError, match="not all there"):
        open_latents(out)
    assert finish(start(vaes / "kl", out)) == 0
    assert contents(out) == contents(whole)


def test_an_encoding_killed_in_the_middle_goes_on_where_it_was_and_ends_the_same(whole, vaes, tmp_path):
    out = tmp_path / "out"
    assert finish(start(vaes / "kl", out, die_at=3)) == -signal.SIGKILL
    assert [path.name for path in sorted(out.glob("shard-*"))] == ["shard-00000.safetensors", "shard-00001.safetensors"]
    assert list(out.glob(".*.partial")) and not (out / "latents.json").exists()
    before = {path: path.stat().st_mtime_ns for path in out.glob("shard-*")}
    assert finish(start(vaes / "kl", out, die_at=SHARDS - 1)) == -signal.SIGKILL  # all shards, no index
    assert finish(start(vaes / "kl", out)) == 0
    assert contents(out) == contents(whole)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def copied(whole, out):
    out.mkdir()
    for name, content in contents(whole).items():
        (out / name).write_bytes(content)
    return out


def encode(command, vae, out, *more):
    """Encode here: `-> (exit code, what was said on standard error)`."""
    code, _, said = command("encode", "--data", "digits", "--vae", vae, "--out", out, *CHANGES, *more)
    return code, said


def test_a_truncated_shard_is_named_and_written_anew(whole, vaes, tmp_path, command):
    out = copied(whole, tmp_path / "out")
    shard_path(out, 4).write_bytes(shard_path(out, 4).read_bytes()[:-5])
    code, said = encode(command, vaes / "kl", out)
    assert code == 0 and contents(out) == contents(whole)
    assert "dit_lab: shard-00004.safetensors is truncated or damaged" in said and "it is written anew" in said


@pytest.mark.parametrize(
    ("vae", "more", "told"),
    [
        ("other", [], "vae_checksum "),
        ("kl", ["--size", "16"], "size [8, 8] (now [16, 16])"),
        ("kl", ["--split", "train"], "split test (now train)"),
        ("kl", ["--shard-size", "57"], "shard_size 56 (now 57)"),
        ("kl", ["--precision", "bf16"], "precision fp32 (now bf16)"),
    ],
)
def test_something_else_into_the_same_folder_is_refused(vae, more, told, whole, vaes, tmp_path, command):
    out = copied(whole, tmp_path / "out")
    code, said = encode(command, vaes / vae, out, *more)
    assert code == 2 and f"{out} holds latents made with" in said and told in said and "choose another folder" in said
    assert contents(out) == contents(whole)


def test_other_pictures_of_the_same_number_and_labels_are_not_mixed_in(whole, vaes, tmp_path, command, monkeypatch):
    out = copied(whole, tmp_path / "out")
    shard_path(out, 1).unlink(), (out / "latents.json").unlink()
    left, changed = contents(out), open_data("digits", split="test")
    changed.pixels[150] = 255 - changed.pixels[150]
    monkeypatch.setattr("dit_lab.commands.encode.open_data", lambda *_, **__: changed)
    code, said = encode(command, vaes / "kl", out)
    assert code == 2 and f"{out} holds latents made with pictures_checksum" in said and contents(out) == left


def test_latents_of_another_version_are_not_gone_on_with(whole, vaes, tmp_path, command, monkeypatch):
    out = copied(whole, tmp_path / "out")
    monkeypatch.setattr("dit_lab.data.encoding.VERSION", 4)
    code, said = encode(command, vaes / "kl", out)
    assert code == 2 and f"{out} holds latents that another version of dit_lab made; choose another folder" in said


def test_a_full_disk_is_one_sentence_and_the_shards_before_it_stay(whole, vaes, tmp_path, command, limited):
    out = copied(whole, tmp_path / "out")
    shard_path(out, 2).unlink(), (out / "latents.json").unlink()
    left = contents(out)
    with limited(resource.RLIMIT_FSIZE, shard_path(out, 1).stat().st_size // 2):
        code, said = encode(command, vaes / "kl", out)
    last = said.strip().splitlines()[-1]
    assert code == 2 and "could not write" in last and "the same command goes on from there" in last
    assert contents(out) == left


def test_a_vae_without_a_distribution_has_no_std(vaes, tmp_path, command):
    assert encode(command, vaes / "tiny", tmp_path / "out")[0] == 0
    latents = open_latents(tmp_path / "out")
    expected = Autoencoder(open_vae(str(vaes / "tiny"))).encode(open_data("digits", split="test").batch([7])[0])
    torch.testing.assert_close(latents.batch([7], noise=torch.randn(latents.shape))[0], expected, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"--vae": "nowhere_vae"}, "could not open the VAE 'nowhere_vae'"),
        ({"--data": "no/such/folder"}, "there is no folder no/such/folder"),
        ({"--size": "9"}, "sides that divide by 2, not 9 x 9"),
        ({"--batch-size": "0"}, "must be at least 1"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(change, told, vaes, tmp_path, command):
    given = {"--data": "digits", "--vae": vaes / "kl", "--out": tmp_path / "out"} | change
    code, _, said = command("encode", *[part for pair in given.items() for part in pair])
    assert code == 2 and told in said and not (tmp_path / "out").exists()


def test_latents_are_not_encoded_again(whole, vaes, tmp_path, command):
    given = ["--data", whole, "--vae", vaes / "kl", "--out", tmp_path / "out", "--split", "test"]
    code, _, said = command("encode", *given)
    assert code == 2 and "holds latents already; give pictures" in said
