"""Whatever is in a file, every reader opens it or says why not: one sentence, soon, in bounded memory.

Hypothesis changes sound files: a value of their JSON for another, or bytes of them for others.
"""

import json
import resource
import struct
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from shared import in_child, random_model, random_udit, tiny_vae

from dit_lab.checkpoints import load, meta_dit, save
from dit_lab.data import open_data, open_vae
from dit_lab.data.codecs import Autoencoder
from dit_lab.data.encoding import about, encode_shard
from dit_lab.data.latents import write_index
from dit_lab.evaluation import adm
from dit_lab.inside import Trajectory, record

SECONDS, MEMORY, LETTERS = 2, 200 * 2**20, 300
EXAMPLES = 150  # a reader, some seconds
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
NASTY = st.sampled_from(
    [10**400, -1, 2**63, 1e308, "x" * 10**5, "a\n\x1b[31mb", [[]] * 10**4, {"a": {"b": []}}, "9", True, 10.5, "../x"]
)
VALUES = NASTY | PLAIN | st.lists(PLAIN, max_size=4) | st.dictionaries(st.text(max_size=5), PLAIN, max_size=3)


def places(content, way=()):
    """Where in a piece of JSON values are."""
    yield way
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in inner:
        yield from places(value, (*way, key))


def changed(content, way, value):
    """The JSON with another value in a place."""
    if not way:
        return value
    copy = dict(content) if isinstance(content, dict) else list(content)
    copy[way[0]] = changed(copy[way[0]], way[1:], value)
    return copy


def split(data: bytes) -> tuple[bytes, bytes]:
    """The JSON of a file, which for safetensors is its header, and what follows it."""
    if data[:1] in b"{[":
        return data, b""
    length = struct.unpack("<Q", data[:8])[0]
    return data[8 : 8 + length], data[8 + length :]


def with_values(data: bytes, edits) -> bytes:
    """The file with values of its JSON changed; also within the JSON that its metadata holds as a text."""
    text, rest = split(data)
    content = json.loads(text)
    for number, value, inside in edits:
        metadata = content.get("__metadata__") if isinstance(content, dict) else None
        held = metadata.get("dit_lab") if inside and isinstance(metadata, dict) else None
        try:
            metadata["dit_lab"] = json.dumps(anywhere_else(json.loads(held), number, value))
        except (TypeError, ValueError):  # there is none within it, or not any more
            content = anywhere_else(content, number, value)
    text = json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text + rest if rest else text


def anywhere_else(content, number: int, value):
    """The JSON with another value in the place of that number."""
    ways = list(places(content))
    return changed(content, ways[number % len(ways)], value)


def with_bytes(data: bytes, edits) -> bytes:
    """The file with bytes changed, mostly near its beginning or end, where formats say what they are, or cut off."""
    data, length = bytearray(data), len(data)
    for number, byte, where in edits:
        near = number % min(length, 600)
        data[{"head": near, "tail": length - 1 - near}.get(where, number % length)] = byte
        length = max(number % length, 9) if where == "cut" else length
    return bytes(data[:length])


NUMBERS = st.integers(0, 2**40)
WAYS = {  # of changing a file: what to change is drawn, so that Hypothesis need not keep whole files
    with_values: st.lists(st.tuples(NUMBERS, VALUES, st.booleans()), min_size=1, max_size=3),
    with_bytes: st.lists(
        st.tuples(NUMBERS, st.integers(0, 255), st.sampled_from(["head", "tail", "any", "cut"])), min_size=1, max_size=4
    ),
}


def complaints(read, path, original: bytes, change) -> list[str]:
    """What a reader did that no reader may, with files that are changed ones of `original`."""
    found, peak = [], lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(edits=WAYS[change])
    def throw(read, edits):
        path.write_bytes(change(original, edits))
        began = time.process_time()
        try:
            read()
        except (ValueError, OSError) as error:
            said = str(error)
            if len(said) > LETTERS or not said.isprintable():
                found.append(f"{len(said)} letters: {said[:400]!r}")
        except BaseException as error:
            found.append(f"{type(error).__name__}: {error}"[:400])
        if (spent := time.process_time() - began) > SECONDS:
            found.append(f"{spent:.1f} s for {edits!r}"[:400])

    throw(lambda: None)  # what Hypothesis and the changes take is not the reader's
    before = peak()
    throw(read)
    path.write_bytes(original)
    grown = peak() - before
    return found + ([f"{grown >> 20} MiB"] if grown > MEMORY + len(original) else [])


def in_two_ways(read, path) -> list[str]:
    """The complaints of changes in JSON, where the file has any, and in bytes."""
    read()  # imports, which take time and memory once
    original = path.read_bytes()
    has_json = original[:1] in b"{[" or original[8:9] == b"{"
    ways = WAYS if has_json else [with_bytes]
    return [told for change in ways for told in complaints(read, path, original, change)]


def latents_in(folder):
    """A cache of a few latents."""
    images = open_data("digits", split="test")
    images = type(images)(images.pixels[:6], images.labels[:6], images.names)
    codec = Autoencoder(tiny_vae())
    made = about(images, codec, "a/vae", "train", 4, "fp32")
    folder.mkdir()
    for shard in range(2):
        encode_shard(folder, shard, made, images, codec, 4, Silent())
    write_index(folder, made, images.names)
    return folder


class Silent:
    """A bar that shows nothing."""

    def update(self, count):
        pass


def of_ours(tmp_path, name="model.safetensors"):
    folder = save(tmp_path / "ours", random_model(), labels=list("abcde"))
    return lambda: load(folder), folder / name


def of_udit(tmp_path):
    folder = save(tmp_path / "udit", random_udit(), labels=list("abcde"))
    return lambda: load(folder), folder / "config.json"


def of_original(tmp_path, zipped=True):
    model = random_model()
    args = {"num_classes": 5, "image_size": 256, "nested": {"a": [1, "b"]}}
    content = {"model": meta_dit.to_theirs(model.state_dict(), model.config), "args": args}
    path = tmp_path / "a.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return lambda: load(path, heads=model.config.heads), path


def of_vae(tmp_path, name="config.json"):
    tiny_vae().save_pretrained(tmp_path / "vae")
    return lambda: open_vae(str(tmp_path / "vae")), tmp_path / "vae" / name


def of_latents(tmp_path, name="latents.json"):
    folder = latents_in(tmp_path / "latents")
    return lambda: open_data(folder).batch([0, 5]), folder / name


def of_trajectory(tmp_path):
    path = tmp_path / "a.safetensors"
    record(random_model(), [1, 2], steps=2).save(path)
    return lambda: Trajectory.load(path), path


def of_adm(tmp_path):
    path = tmp_path / "a.npz"
    adm.write(path, 4, [(np.zeros((4, 8, 8, 3), np.uint8), np.arange(4))])
    return lambda: adm.read(path), path


FILES = {
    "our tensors": of_ours,
    "our config": lambda tmp_path: of_ours(tmp_path, "config.json"),
    "a U-DiT's config": of_udit,
    "an original": of_original,
    "an original of old": lambda tmp_path: of_original(tmp_path, zipped=False),
    "a VAE's config": of_vae,
    "a VAE's tensors": lambda tmp_path: of_vae(tmp_path, "diffusion_pytorch_model.safetensors"),
    "an index of latents": of_latents,
    "a shard of latents": lambda tmp_path: of_latents(tmp_path, "shard-00001.safetensors"),
    "a trajectory": of_trajectory,
    "an ADM batch": of_adm,
}


def thrown(kind):
    """The complaints about a kind of file, which has a short name: in sentences names count too."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        return in_two_ways(*FILES[kind](Path(folder)))


@pytest.mark.parametrize("kind", FILES)
def test_whatever_is_changed_in_a_file_it_opens_or_gets_one_sentence_soon(kind):
    assert in_child(thrown, kind) == []
