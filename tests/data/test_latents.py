"""A cache of latents: what is read from it, when, and that a damaged one is found before training."""

import json
import os
import resource
import time

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from shared import in_child

from dit_lab.data import DataError, open_data
from dit_lab.data.latents import open_latents, write_index, write_shard
from dit_lab.data.latents_index import shard_count, shard_path, shard_range

ABOUT = {
    "vae": "some/vae", "encoder_checksum": "0123", "split": "train", "size": [8, 8],
    "shape": [4, 2, 3], "distribution": True, "pictures": 10, "pictures_checksum": 7, "shard_size": 4,
}  # fmt: skip


def cache(folder, names=("a", "b", "c"), **changes):
    """Write a cache of random latents; returns what is in it: `mean, std: n flip c h w, labels: n`."""
    about = ABOUT | changes
    random = torch.Generator().manual_seed(0)
    shape = (about["pictures"], 2, *about["shape"])
    mean, std = torch.randn(shape, generator=random).half(), torch.rand(shape, generator=random).half()
    labels = torch.randint(len(names), shape[:1], generator=random)
    folder.mkdir(exist_ok=True)
    for shard in range(shard_count(about)):
        rows = list(shard_range(shard, about))
        write_shard(folder, shard, about, mean[rows], std[rows] if about["distribution"] else None, labels[rows])
    assert write_index(folder, about, list(names))
    return mean, std, labels


def test_a_batch_is_what_was_encoded_of_each_picture_or_of_its_mirror_image(tmp_path):
    mean, std, labels = cache(tmp_path)
    latents = open_latents(tmp_path)
    assert len(latents) == 10 and latents.shape == (4, 2, 3) and latents.names == ["a", "b", "c"]
    assert latents.codec == "some/vae" and latents.labels.tolist() == labels.tolist()
    indices, mirrored = np.array([9, 0, 4, 3, 9]), torch.tensor([True, False, True, False, False])
    x, y = latents.batch(indices)
    assert torch.equal(x, mean[indices, 0].float()) and torch.equal(y, labels[indices])
    x, _ = latents.batch(indices, mirrored)
    assert torch.equal(x, mean[indices, mirrored.long()].float())
    noise = torch.randn(5, 4, 2, 3)
    x, _ = latents.batch(indices, mirrored, noise)
    flips = mirrored.long()
    torch.testing.assert_close(x, mean[indices, flips].float() + std[indices, flips].float() * noise)


def test_latents_without_a_distribution_are_their_means(tmp_path):
    mean, _, _ = cache(tmp_path, distribution=False)
    x, _ = open_latents(tmp_path).batch([1, 2], noise=torch.randn(2, 4, 2, 3))
    assert torch.equal(x, mean[1:3, 0].float())


def test_the_index_has_mean_and_std_of_each_channel_over_pictures_and_mirror_images(tmp_path):
    mean, std, _ = cache(tmp_path)
    told = json.loads((tmp_path / "latents.json").read_text())["channels"]
    mean, std = mean.double(), std.double()
    assert told["mean"] == pytest.approx(mean.mean(dim=(0, 1, 3, 4)).tolist())
    spread = (mean.var(dim=(0, 1, 3, 4), correction=0) + std.square().mean(dim=(0, 1, 3, 4))).sqrt()
    assert told["std"] == pytest.approx(spread.tolist())


def test_two_caches_are_told_apart_by_their_encoder_whatever_its_name(tmp_path):
    cache(tmp_path / "one"), cache(tmp_path / "same", vae="moved"), cache(tmp_path / "other", encoder_checksum="4567")
    one, same, other = (open_latents(tmp_path / name).fingerprint for name in ("one", "same", "other"))
    assert one == same != other and json.loads(json.dumps(one)) == one


def memory_of_opening(folder):
    """Megabytes that this process grows by opening a cache and reading a batch of it."""
    open_latents(folder.parent / "small").batch([0])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    latents = open_latents(folder)
    latents.batch([0, len(latents) - 1], noise=torch.zeros(1, *latents.shape))
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def test_opening_a_cache_does_not_load_it(tmp_path):
    cache(tmp_path / "small")
    cache(tmp_path / "large", shape=[4, 32, 32], pictures=2000, shard_size=1000)
    size = sum(path.stat().st_size for path in (tmp_path / "large").iterdir()) / 2**20
    assert size > 60 and in_child(memory_of_opening, tmp_path / "large") < size / 5


def test_open_data_opens_a_cache_and_refuses_what_it_cannot_change(tmp_path):
    cache(tmp_path)
    assert open_data(tmp_path).shape == (4, 2, 3)
    unlabelled = open_data(str(tmp_path), labelled=False)
    assert unlabelled.names == [] and not unlabelled.batch([3, 4])[1].any()
    with pytest.raises(DataError, match="holds latents, which have no other size; say --size when encoding"):
        open_data(tmp_path, size=8)
    with pytest.raises(DataError, match="holds the latents of the split train, not test"):
        open_data(tmp_path, split="test")


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (cut, "shard-00001.safetensors is truncated or damaged"),
        (lambda path: path.write_bytes(b""), "shard-00001.safetensors is truncated or damaged"),
        (lambda path: path.write_bytes(bytes(8) + path.read_bytes()[8:]), "shard-00001.safetensors is truncated or da"),
        (lambda path: path.unlink(), "shard-00001.safetensors is missing"),
        (lambda path: path.write_bytes(shard_path(path.parent, 0).read_bytes()), "belongs to other latents"),
    ],
)
def test_a_shard_that_is_not_whole_is_named_with_what_to_do(harm, told, tmp_path):
    cache(tmp_path)
    harm(shard_path(tmp_path, 1))
    with pytest.raises(DataError, match=f"are not whole: .*{told}.*run the same encode command again") as caught:
        open_data(tmp_path)
    assert "\n" not in str(caught.value) and "shard-00000" not in str(caught.value)


def test_a_label_that_is_no_class_is_named_with_its_picture(tmp_path):
    labels = cache(tmp_path)[2]
    index = json.loads((tmp_path / "latents.json").read_text())
    (tmp_path / "latents.json").write_text(json.dumps(index | {"names": index["names"][:1]}))
    place = int((labels > 0).int().argmax())
    with pytest.raises(DataError, match=f"the label {labels[place]} of picture {place} in .* is not one of 0 to 0"):
        open_latents(tmp_path)


def test_unfinished_latents_are_not_taken_for_a_folder_of_pictures(tmp_path):
    cache(tmp_path)
    (tmp_path / "latents.json").unlink()
    with pytest.raises(DataError, match="are not all there .*run the same encode command again"):
        open_data(tmp_path)


@pytest.mark.parametrize("index", ["", "[]", '{"version": 1}', '{"version": 1, "about": {}, "names": []}'])
def test_a_broken_index_is_one_sentence(index, tmp_path):
    cache(tmp_path)
    (tmp_path / "latents.json").write_text(index)
    with pytest.raises(DataError, match="is no index of latents"):
        open_data(tmp_path)


def test_an_index_of_another_version_says_so(tmp_path):
    cache(tmp_path)
    index = json.loads((tmp_path / "latents.json").read_text())
    (tmp_path / "latents.json").write_text(json.dumps(index | {"version": 1}))
    with pytest.raises(DataError, match="is of version 1; this dit_lab reads 3"):
        open_data(tmp_path)


ABSURD = {
    "half a picture": {"pictures": 10.5}, "pictures as a text": {"pictures": "10"}, "no pictures": {"pictures": 0},
    "endlessly many": {"pictures": 10**400}, "a truth": {"pictures": True}, "shards of nothing": {"shard_size": 0},
    "shards below nothing": {"shard_size": -4}, "half a shard": {"shard_size": 2.5},
    "an absurd shape": {"shape": [10**12] * 3}, "a shape as a number": {"shape": 4}, "two sides": {"shape": [4, 2]},
    "a shape in lists": {"shape": [[4], 2, 3]}, "a side below nothing": {"shape": [4, 2, -3]},
    "a VAE in a list": {"vae": ["a"]}, "a long VAE": {"vae": "x" * 10**5}, "a split as an object": {"split": {}},
    "no truth": {"distribution": "yes"}, "no checksum": {"encoder_checksum": None},
    "a checksum beyond all": {"pictures_checksum": 10**400}, "a size as a text": {"size": "8\n\x1b[31m"},
}  # fmt: skip


def refused(folder, told):
    """Refused soon in one sentence with these words."""
    began = time.monotonic()
    with pytest.raises(DataError, match=told) as caught:
        open_data(folder)
    said = str(caught.value).replace(str(folder), "")
    assert time.monotonic() - began < 2 and len(said) < 300 and said.isprintable()


@pytest.mark.parametrize("case", ABSURD)
def test_an_index_whose_values_cannot_be_is_refused(case, tmp_path):
    cache(tmp_path)
    index = json.loads((tmp_path / "latents.json").read_text())
    (tmp_path / "latents.json").write_text(json.dumps(index | {"about": index["about"] | ABSURD[case]}))
    (name,) = ABSURD[case]
    refused(tmp_path, f"is no index of latents .its {name} should be")


@pytest.mark.parametrize(
    "change",
    [{"about": []}, {"about": 5}, {"names": "abc"}, {"names": [1, 2, 3]}, {"names": ["x" * 10**6]}, {"names": {}},
     {"version": "3"}, {"version": 3.0}, {"version": [3]}, {"version": 10**400}],
)  # fmt: skip
def test_an_index_with_parts_of_the_wrong_kind_is_refused(change, tmp_path):
    cache(tmp_path)
    index = json.loads((tmp_path / "latents.json").read_text())
    (tmp_path / "latents.json").write_text(json.dumps(index | change))
    refused(tmp_path, "is no index of latents")


@pytest.mark.parametrize("text", ["[" * 10**5, '{"about":' * 10**5, "[]," * 2**21, "9" * 10**5, "\x00"])
def test_an_index_that_would_fill_the_stack_or_the_memory_is_refused(text, tmp_path):
    cache(tmp_path)
    (tmp_path / "latents.json").write_text(text)
    refused(tmp_path, "is no index of latents")


def test_more_shards_than_anyone_could_look_for_are_told_at_once(tmp_path):
    cache(tmp_path)
    index = json.loads((tmp_path / "latents.json").read_text())
    more = index["about"] | {"pictures": 10**10, "shard_size": 1}
    (tmp_path / "latents.json").write_text(json.dumps(index | {"about": more}))
    refused(tmp_path, "are not whole: shard-00000.*; and more. To mend them")
    more["pictures"] = 10**12
    (tmp_path / "latents.json").write_text(json.dumps(index | {"about": more}))
    refused(tmp_path, "its pictures should be a whole number from 1 to 10000000000, not 1000000000000")


def header(path):
    """A shard's header, as dit_lab's JSON in its metadata, and its tensors."""
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["dit_lab"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize(
    "change",
    [{"shard": "1"}, {"shard": 1.0}, {"about": []}, {"about": None}, {"sums": 5}, {"sums": [[0.0], ["x"]]},
     {"sums": [[0.0] * 4, [float("nan")] * 4]}, {"sums": []}, {"shard": 10**400}],
)  # fmt: skip
def test_a_shards_header_of_the_wrong_kind_is_named(change, tmp_path):
    cache(tmp_path)
    said, tensors = header(shard_path(tmp_path, 1))
    save_file(tensors, shard_path(tmp_path, 1), {"dit_lab": json.dumps(said | change)})
    refused(tmp_path, "shard-00001.safetensors is truncated or damaged")


@pytest.mark.parametrize("text", ["[]", "5", "{}", "[" * 10**5, "x"])
def test_a_shards_header_that_is_no_json_of_ours_is_named(text, tmp_path):
    cache(tmp_path)
    save_file(header(shard_path(tmp_path, 1))[1], shard_path(tmp_path, 1), {"dit_lab": text})
    refused(tmp_path, "shard-00001.safetensors is truncated or damaged")


def test_a_shard_of_ten_thousand_tensors_or_of_others_kinds_is_named(tmp_path):
    cache(tmp_path)
    said, tensors = header(path := shard_path(tmp_path, 1))
    about, told = {"dit_lab": json.dumps(said)}, "shard-00001.safetensors does not hold the tensors"
    save_file(tensors | {f"t{k}": torch.zeros(0) for k in range(10_000)}, path, about)
    refused(tmp_path, told)
    for change in {"mean": tensors["mean"].float()}, {"labels": tensors["labels"].double()}:
        save_file(tensors | change, path, about)
        refused(tmp_path, told)
    path.write_bytes((2**30).to_bytes(8, "little") + b"{" + b" " * 2**20)
    refused(tmp_path, "shard-00001.safetensors is truncated or damaged .its header has 1073741824 bytes")


def test_a_pipe_in_place_of_the_index_or_a_shard_is_not_waited_for(tmp_path):
    cache(tmp_path)
    (tmp_path / "latents.json").rename(tmp_path / "kept")
    os.mkfifo(tmp_path / "latents.json")
    refused(tmp_path, "are not all there")
    (tmp_path / "latents.json").unlink()
    (tmp_path / "kept").rename(tmp_path / "latents.json")
    shard_path(tmp_path, 1).unlink()
    os.mkfifo(shard_path(tmp_path, 1))
    refused(tmp_path, "shard-00001.safetensors is missing")
