"""What an attacker sends is refused in a sentence, within two seconds and 200 MB over the file's size."""

import io
import json
import os
import pickle
import resource
import signal
import struct
import time
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from shared import in_child, random_model

from dit_lab.checkpoints import CheckpointError, load, map_tensors, meta_dit, reading, save
from dit_lab.checkpoints.mapping import MOST_HEADER
from dit_lab.checkpoints.pickles import MOST_STEPS
from dit_lab.checkpoints.reading import MOST_JSON, MOST_NESTED
from dit_lab.models import build

MB = 2**20


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A model's folder, not to be written to."""
    return save(tmp_path_factory.mktemp("hostile") / "good", random_model())


@pytest.fixture
def original(good, tmp_path):
    """The path of a file that `torch.save` made of an object, or that has a pickle of these bytes."""

    def make(content) -> Path:
        path = tmp_path / "a.pt"
        torch.save(None if isinstance(content, bytes) else content, path)
        if isinstance(content, bytes):
            with zipfile.ZipFile(path) as old:
                parts = {part.filename: old.read(part) for part in old.infolist()}
            with zipfile.ZipFile(path, "w") as new:
                for name, part in parts.items():
                    new.writestr(name, content if name.endswith("/data.pkl") else part)
        return path

    return make


def memory(field: str) -> int:
    """A line of this process's /proc status, in bytes."""
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith(field))


@pytest.fixture(autouse=True)
def in_time(good):
    """Nothing here may take for ever; and what the first load brings along is no file's."""

    def give_up(*_):
        raise TimeoutError("this took more than a minute")

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # whose waiting for each other would count
    load(good)
    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    torch.set_num_threads(threads)


def refused(path) -> str:
    """The sentence that a source is refused with, soon and in little memory."""
    peaks = Path("/proc/self/clear_refs")
    if peaks.exists():
        peaks.write_text("5")  # forget the peak so far
    before, began = memory("VmRSS"), time.thread_time()
    with pytest.raises(CheckpointError) as caught:
        load(path)
    seconds, most = time.thread_time() - began, memory("VmHWM") - before
    said, size = str(caught.value), path.stat().st_size if path.is_file() else 0
    assert str(path) in said and said.isprintable() and len(said) <= 300, said
    assert seconds < 2 and (most < 200 * MB + size or not peaks.exists()), (seconds, most / MB)
    return said


# Pickles


def nested(make, levels: int = 60):
    """One object twice in another, that twice in a third, and so on."""
    made = make(())
    for _ in range(levels):
        made = make((made, made))
    return made


def circle() -> list:
    made = []
    made.append(made)
    return made


BOMBS = {
    "lists in the arguments": lambda: {"args": {"vae": nested(list)}},
    "lists as a tensor": lambda: {"x_embedder.proj.weight": nested(list)},
    "tuples as a key": lambda: pickle.dumps({}, 2)[:-1] + pickle.dumps(nested(tuple), 2)[2:-1] + b"Ns.",
    "tuples in a set": lambda: b"\x80\x02cbuiltins\nset\n(" + pickle.dumps([nested(tuple)], 2)[2:-1] + b"tR.",
    "a list in itself": lambda: {"args": circle()},
    "a hundred thousand lists in lists": lambda: b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".",
}


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.parametrize("zipped", [True, False])
def test_containers_that_would_take_for_ever_to_look_through_are_refused(kind, zipped, original, tmp_path):
    content = BOMBS[kind]()
    path = original(content)
    if not zipped:
        torch.save({}, path, _use_new_zipfile_serialization=False)
        start = path.read_bytes().partition(pickle.dumps({}, 2))[0]  # the pickles before the one with the tensors
        path.write_bytes(start + (content if isinstance(content, bytes) else pickle.dumps(content, 2)))
    assert f"{path} holds containers within containers without end" in refused(path)


COPIES = "torch._utils._rebuild_device_tensor_from_cpu_tensor"
GROWING = {
    "_codecs.encode": b"\x80\x02c_codecs\nencode\n(X\x01\0\0\0aX\x03\0\0\0hextR.",
    "builtins.bytearray": b"\x80\x02cbuiltins\nbytearray\n(K\x05tR.",
    COPIES: b"\x80\x02c" + b"\n".join(COPIES.encode().rsplit(b".", 1)) + b"\n.",
}


@pytest.mark.parametrize("what", GROWING)
def test_what_could_make_much_of_little_is_refused(what, original):
    assert f"holds more than tensors ({what})" in refused(original(GROWING[what]))


def test_bytes_as_they_are_pickled_do_no_harm(original, good):
    tensors = meta_dit.to_theirs(load(good).model.state_dict(), load(good).config)
    path = original({"ema": tensors, "random_state": b"\x00\xff", "args": {"lr": (1e-4, {"a": [1, 2, {3: "b"}]})}})
    assert load(path, heads=4).config == load(good).config


def test_a_pickle_of_far_more_objects_than_a_model_has_is_refused(original):
    assert "holds more than a model (over" in refused(original(b"\x80\x02](" + b"]" * (MOST_STEPS + 1) + b"e."))


def test_a_training_state_of_hundreds_of_tensors_and_its_optimiser_is_looked_through_in_no_time(tmp_path):
    tensors = {f"blocks.{n}": torch.zeros(3, 4) for n in range(300)}
    moments = {n: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(3, 4), "exp_avg_sq": torch.zeros(3, 4)}
               for n in range(300)}  # fmt: skip
    torch.save({"model": tensors, "ema": tensors, "opt": {"state": moments}}, tmp_path / "a.pt")
    assert "its tensors are no DiT's" in refused(tmp_path / "a.pt")


def test_a_zip_with_two_pickles_is_refused(original):
    path = original({})
    with zipfile.ZipFile(path, "a") as packed:
        packed.writestr("other/Data.pkl", pickle.dumps({}, 2))
    assert "is a zip, but not one of a model's tensors" in refused(path)


def test_a_zip_whose_table_of_contents_is_longer_than_any_models_is_refused(original, monkeypatch):
    monkeypatch.setattr(reading, "MOST_LISTED", 5000)
    path = original({})
    with zipfile.ZipFile(path, "a") as packed:
        for n in range(100):
            packed.writestr(f"archive/data/{n}", "")
    assert "its table of contents is over 5000 bytes" in refused(path)


def test_a_name_of_a_hundred_thousand_containers_is_taken_apart_at_once(original):
    assert "its tensors are no DiT's" in refused(original({"model." * 10**5 + "x": torch.zeros(1)}))


# Safetensors


def safetensors(path: Path, header, content: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)
    return path


def test_ten_thousand_empty_tensors_are_refused_at_once(tmp_path):
    save_file({f"blocks.{n}": torch.zeros(0) for n in range(10_000)}, tmp_path / "a.safetensors")
    assert "its tensors are no DiT's" in refused(tmp_path / "a.safetensors")


def test_a_header_larger_than_any_models_is_refused_unread(tmp_path):
    path = safetensors(tmp_path / "a.safetensors", b'{"a":"' + b" " * MOST_HEADER + b'"}')
    assert "its header would be" in refused(path)
    for length in 2**40, 2**64 - 1:
        path.write_bytes(struct.pack("<Q", length) + b"{}" + bytes(99))
        assert "its header would be" in refused(path)


ENTRY = dict(dtype="F32", shape=[2], data_offsets=[0, 8])
HEADERS = {
    "overlapping": {"a": ENTRY, "b": ENTRY},
    "a hole": {"a": ENTRY | dict(data_offsets=[8, 16])},
    "beyond the file": {"a": ENTRY | dict(shape=[2**40], data_offsets=[0, 2**42])},
    "another size": {"a": ENTRY | dict(shape=[3])},
    "below 0": {"a": ENTRY | dict(shape=[-2])},
    "a product over 64 bits": {"a": ENTRY | dict(shape=[2**40, 2**40], data_offsets=[0, 0])},
    "an unknown type": {"a": ENTRY | dict(dtype="F4", shape=[16])},
    "no type": {"a": dict(shape=[2], data_offsets=[0, 8])},
    "a list": {"a": [ENTRY]},
    "nested": b'{"a":' + b"[" * 10**5,
    "metadata of numbers": {"__metadata__": {"dit_lab": 5}, "a": ENTRY},
    "empty of absurd size": {"a": ENTRY, "b": dict(dtype="F32", shape=[0, 2**62, 2**62], data_offsets=[8, 8])},
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_header_that_says_nonsense_is_refused(kind, tmp_path):
    path = safetensors(tmp_path / "a.safetensors", HEADERS[kind], bytes(8))
    assert "not a safetensors file" in refused(path) or "no DiT's" in refused(path)


def test_tensors_come_back_from_their_maps_with_every_bit(tmp_path):
    random = torch.Generator().manual_seed(0)
    sizes = [(), (0,), (3,), (5, 7), (1, 2, 3), (2**21,), (0, 4), (1023, 1025), (2,)]
    tensors = {f"{n}": torch.randn(size, generator=random) for n, size in enumerate(sizes)}
    tensors |= {"half": torch.ones(3).half(), "byte": torch.arange(5).byte(), "flag": torch.tensor([True, False])}
    save_file(tensors, tmp_path / "a", {"said": "word"})
    back, about = map_tensors(tmp_path / "a")
    assert about == {"said": "word"} and list(back) == list(load_file(tmp_path / "a"))
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype and torch.equal(back[name], tensor)
        back[name].zero_()  # in memory alone
    assert all(torch.equal(load_file(tmp_path / "a")[name], tensor) for name, tensor in tensors.items())


def test_tensors_at_odd_places_are_read_as_they_are(tmp_path):
    numbers = torch.tensor([1.5, -2.5])
    header = {"a": dict(dtype="U8", shape=[1], data_offsets=[0, 1]), "b": ENTRY | dict(data_offsets=[1, 9])}
    path = safetensors(tmp_path / "a", header, b"\x07" + numbers.numpy().tobytes())
    back, _ = map_tensors(path)
    assert back["a"].tolist() == [7] and torch.equal(back["b"], numbers)


def loaded_within(path, most: int) -> str:
    """What comes of loading a file in a process whose addresses may grow by so many bytes."""
    resource.setrlimit(resource.RLIMIT_AS, (memory("VmSize") + most, resource.RLIM_INFINITY))
    try:
        return str(load(path).config.depth)
    except CheckpointError as error:
        return str(error)


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_an_honest_file_takes_few_addresses_and_what_does_not_fit_is_not_called_damaged(ending, tmp_path):
    """17 GB for 125 MB, when every tensor mapped the whole file."""
    with torch.device("meta"):
        model = build("DiT-S/2", depth=4, num_classes=10, dim=768, heads=12).half()
    model = model.to_empty(device="cpu")
    for tensor in model.state_dict().values():
        tensor.zero_()
    path = save(tmp_path / "a", model) / "model.safetensors"
    if ending == ".pt":
        path = tmp_path / "a.pt"
        torch.save(meta_dit.to_theirs(model.state_dict(), model.config), path)
    size = path.stat().st_size
    assert size > 60 * MB
    assert in_child(loaded_within, path, 2 * size + 8 * size + 100 * MB) == "4"
    said = in_child(loaded_within, path, size // 2)
    assert "Cannot allocate memory" in said and "truncated" not in said


# JSON and places


@pytest.mark.parametrize(
    "text",
    ["[" * 10**5, '{"a":' * 10**5, '{"a": ' + "[" * (MOST_NESTED + 1) + "]" * (MOST_NESTED + 1) + "}",
     '{"a": ' + "9" * 10**4 + "}", '{"a": "' + "x" * MOST_JSON + '"}', "{\x00}"],
    ids=["lists", "objects", "a little deep", "digits", "large", "no JSON"],
)  # fmt: skip
def test_json_that_no_config_is_gets_a_sentence(text, good, tmp_path):
    save_file(load_file(good / "model.safetensors"), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(text)
    assert "config.json should hold a JSON object: it " in refused(tmp_path)
    if len(text) < MOST_JSON:
        (tmp_path / "config.json").unlink()
        save_file(load_file(good / "model.safetensors"), tmp_path / "model.safetensors", {"dit_lab": text})
        assert str(tmp_path) in refused(tmp_path)


def test_pipes_beside_and_in_a_checkpoint_are_never_waited_for(good, tmp_path):
    os.mkfifo(tmp_path / "config.json")
    save_file(load_file(good / "model.safetensors"), tmp_path / "model.safetensors")
    assert "nothing says what model it is" in refused(tmp_path)
    os.mkfifo(tmp_path / "model_index.json")
    assert "nothing says what model it is" in refused(tmp_path)


@pytest.mark.parametrize("shards", [["pipe"], ["gone"], [f"{n:05}-of-{10**12}" for n in range(9_000)], [[["x"]] * 9]])
def test_shards_that_are_not_there_are_told_at_once(shards, tmp_path):
    folder = tmp_path / "transformer"
    folder.mkdir()
    os.mkfifo(folder / "pipe")
    index = {"metadata": {"total_size": 10**400}, "weight_map": {str(n): shard for n, shard in enumerate(shards)}}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model_index.json").write_text("{}")
    assert "not in its folder" in refused(tmp_path)


# Shapes


def test_a_position_table_of_many_grids_is_told_from_them_at_once(good, tmp_path):
    model = load(good).model
    tensors = meta_dit.to_theirs(model.state_dict(), model.config)
    tensors["pos_embed"] = torch.zeros(1, 5040, tensors["pos_embed"].shape[2])  # 60 grids, and none of theirs
    torch.save(tensors, tmp_path / "a.pt")
    assert "5040 places, which is no square, and is no grid's sine table" in refused(tmp_path / "a.pt")
    tensors["pos_embed"] = torch.zeros(1, 2**19, 96).half()
    torch.save(tensors, tmp_path / "a.pt")
    assert "is none that a DiT has" in refused(tmp_path / "a.pt")


def test_a_stream_is_walked_through_only_to_its_end():
    from dit_lab.checkpoints.pickles import check_pickle

    stream = io.BytesIO(pickle.dumps({"a": 1}, 2) + pickle.dumps([], 2))
    check_pickle(stream)
    check_pickle(stream)
    with pytest.raises(ValueError, match="exhausted"):
        check_pickle(stream)
