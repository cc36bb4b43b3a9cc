"""A hub id loads through the real download path, here from a local server that stands in for the hub."""

import hashlib
import json
import os
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
from safetensors.torch import load_file
from shared import in_child

from dit_lab.checkpoints import CheckpointError, load, places, save
from dit_lab.commands.convert import convert_command
from dit_lab.models import build

COMMIT = "0123456789abcdef0123456789abcdef01234567"

# huggingface_hub reads its settings when imported, so each load runs in a process of its own.


class Hub(ThreadingHTTPServer):
    """The hub's file API for some folders; `asked` lists (method, path, range) of what was asked for."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.folders, self.asked = {}, []
        self.refuse = {}  # repository -> (status, error code) for its listing, or its files
        self.breaks = {}  # file name -> how many bytes each of the next answers has before the line goes dead
        self.short = set()  # names of files whose answer is only half of what was announced

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fetched(self, ending: str) -> list[str | None]:
        """The ranges in which a file's content was asked for."""
        return [span for method, path, span in self.asked if method == "GET" and path.endswith(ending)]


class Answers(BaseHTTPRequestHandler):
    """One request to the hub."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = urlsplit(self.path).path
        self.server.asked.append((self.command, path, self.headers.get("Range")))
        listing = path.startswith("/api/models/")
        owner, name, *rest = path.removeprefix("/api/models").strip("/").split("/")
        folder = self.server.folders.get(f"{owner}/{name}")
        status, code, of_files = self.server.refuse.get(f"{owner}/{name}", (404, "RepoNotFound", False))
        if folder is None or (f"{owner}/{name}" in self.server.refuse and of_files != listing):
            self.send(status, b"", {"X-Error-Code": code} if code else {})
        elif listing and rest[0] == "revision":
            self.send(200, json.dumps({"id": f"{owner}/{name}", "sha": COMMIT}).encode())
        elif listing:
            self.send(200, json.dumps([self.entry(folder, file) for file in folder]).encode())
        else:
            self.send_file("/".join(rest[2:]), folder["/".join(rest[2:])])

    def entry(self, folder: dict, file: str) -> dict:
        return {"type": "file", "path": file, "size": len(folder[file]), "oid": hashlib.sha1(folder[file]).hexdigest()}

    def send_file(self, name: str, content: bytes):
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        headers = {"ETag": etag, "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        start = int((self.headers.get("Range") or "bytes=0-")[6:].partition("-")[0])
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body = content[start:]
        if self.command == "GET" and name in self.server.short:
            body = body[: len(body) // 2]
        self.send(206 if start else 200, body, headers, self.server.breaks.get(name))

    def send(self, status: int, body: bytes, headers: dict | None = None, breaks: list | None = None):
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            dead_after = breaks.pop(0) if breaks else None
            self.wfile.write(body[:dead_after])
            self.close_connection = dead_after is not None


@pytest.fixture
def hub():
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def repositories(tmp_path_factory):
    """(repositories by id, the digest of the one model that all of them hold)."""
    torch.manual_seed(0)
    model = build("DiT-nano/4", depth=1, input_size=8, in_channels=1, num_classes=3)
    torch.nn.init.normal_(model.out.weight)
    place = tmp_path_factory.mktemp("repositories")
    save(place / "lab/ours", model, labels=["a", "b", "c"])
    convert_command(str(place / "lab/ours"), place / "lab/original" / "DiT.pt", to="meta_dit")
    convert_command(str(place / "lab/ours"), place / "lab/diffusers", to="diffusers")
    return {f"lab/{folder.name}": contents(folder) for folder in (place / "lab").iterdir()}, digest(model)


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def digest(model) -> str:
    state = sorted(model.state_dict().items())
    return hashlib.sha256(b"".join(name.encode() + tensor.numpy().tobytes() for name, tensor in state)).hexdigest()


@pytest.fixture
def fetch(hub, repositories, tmp_path):
    """Load a hub id in a new process; returns (digest, labels) or the complaint, and the seconds it took."""
    hub.folders |= {name: dict(files) for name, files in repositories[0].items()}

    def call(source, patience=places.PATIENCE, **environment):
        settings = dict(HF_ENDPOINT=hub.url, HF_HUB_CACHE=str(tmp_path / "cache"), HF_HOME=str(tmp_path / "home"))
        return in_child(load_there, source, settings | environment, patience)

    return call


def load_there(source: str, settings: dict, patience: float):
    """In the new process: load, and return what came of it."""
    places.PATIENCE = patience
    os.environ.update(HF_HUB_DISABLE_PROGRESS_BARS="1", HF_HUB_DISABLE_XET="1", NO_PROXY="127.0.0.1", **settings)
    assert "huggingface_hub" not in sys.modules, "its settings are read already"
    wait = time.sleep
    time.sleep = lambda seconds: wait(min(seconds, 0.02))  # the library waits a second or more before it tries again
    began = time.monotonic()
    try:
        loaded = load(source)
        answer = digest(loaded.model), loaded.labels
    except CheckpointError as error:
        answer = str(error)
    return answer, time.monotonic() - began


@pytest.mark.parametrize("name", ["lab/ours", "lab/original", "lab/diffusers"])
def test_a_hub_id_loads_the_model_that_is_there_and_again_without_fetching(name, hub, fetch, repositories):
    assert fetch(name)[0] == (repositories[1], ["a", "b", "c"])
    files = [path for method, path, _ in hub.asked if method == "GET" and "/resolve/" in path]
    assert len(files) == len(set(files)) > 0
    hub.asked.clear()
    assert fetch(name)[0] == (repositories[1], ["a", "b", "c"])
    assert hub.asked and not [path for _, path, _ in hub.asked if "/resolve/" in path]


@pytest.mark.parametrize("name", ["lab/ours", "lab/original", "lab/original/DiT.pt"])
def test_what_was_fetched_once_loads_without_the_hub(name, hub, fetch, repositories):
    assert fetch(name)[0][0] == repositories[1]
    hub.asked.clear()
    assert fetch(name, HF_HUB_OFFLINE="1")[0][0] == repositories[1]
    assert fetch(name, HF_ENDPOINT=nowhere())[0][0] == repositories[1]
    assert not hub.asked


def test_of_several_checkpoints_in_a_repository_one_is_named_and_only_that_is_fetched(hub, fetch, repositories):
    """As the released U-DiTs are: several sizes side by side, gigabytes together."""
    original = hub.folders["lab/original"]
    hub.folders["lab/sizes"] = {
        "S.pt": original["DiT.pt"], "S.json": original["DiT.json"], "L.pt": b"not looked at", "old/S.pt": b"nor this"
    }  # fmt: skip
    said, _ = fetch("lab/sizes")
    assert said == "'lab/sizes' holds several, so name one, such as lab/sizes/L.pt: L.pt, S.pt"
    assert not hub.fetched(".pt")
    assert fetch("lab/sizes/S.pt")[0] == (repositories[1], ["a", "b", "c"])
    assert hub.fetched("S.pt") == [None] and not hub.fetched("L.pt")


def test_a_file_that_the_repository_does_not_have_is_told(hub, fetch):
    said, _ = fetch("lab/original/XL.pt")
    assert (
        said == "there is no file or folder 'lab/original/XL.pt' here, nor XL.pt in the hub's repository lab/original"
    )


def test_a_path_into_a_folder_that_is_here_never_asks_the_hub(hub, fetch, tmp_path, monkeypatch):
    (tmp_path / "lab").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="there is no file or folder 'lab/original/DiT.pt'"):
        load("lab/original/DiT.pt")
    assert not hub.asked


def test_weights_in_the_old_format_load_beside_a_vae_in_the_new_one(hub, fetch, repositories, tmp_path):
    files = hub.folders["lab/diffusers"]
    new = tmp_path / "new.safetensors"
    new.write_bytes(files.pop("transformer/diffusion_pytorch_model.safetensors"))
    torch.save(load_file(new), tmp_path / "old.bin")
    files["transformer/diffusion_pytorch_model.bin"] = (tmp_path / "old.bin").read_bytes()
    files |= {"vae/config.json": b"{}", "vae/diffusion_pytorch_model.safetensors": b"not looked at"}
    assert fetch("lab/diffusers")[0][0] == repositories[1]


def test_pickled_weights_are_fetched_only_of_the_part_that_has_no_others(hub, fetch, repositories):
    files = hub.folders["lab/diffusers"]
    files |= {"transformer/diffusion_pytorch_model.bin": b"not looked at"}
    files |= {"vae/config.json": b"{}", "vae/diffusion_pytorch_model.bin": b"kept for the codec"}
    assert fetch("lab/diffusers")[0][0] == repositories[1]
    fetched = {path.rpartition(COMMIT + "/")[2] for method, path, _ in hub.asked if method == "GET"}
    assert "vae/diffusion_pytorch_model.bin" in fetched and "transformer/diffusion_pytorch_model.bin" not in fetched


def test_a_download_that_breaks_off_goes_on_where_it_broke(hub, fetch, tmp_path):
    model = build("DiT-S/4", depth=3, num_classes=3)
    hub.folders["lab/large"] = contents(save(tmp_path / "large", model))
    piece = 10 * 2**20  # what the library takes and keeps at a time
    hub.breaks["model.safetensors"] = [piece + 5, piece + 5, 0]
    assert fetch("lab/large")[0][0] == digest(model)
    spans = [None, f"bytes={piece}-", f"bytes={2 * piece}-", f"bytes={2 * piece}-"]
    assert hub.fetched("model.safetensors") == spans


def test_a_download_that_stays_broken_is_told_leaves_nothing_half_and_works_later(hub, fetch, repositories, tmp_path):
    hub.breaks["model.safetensors"] = [20_000] + [0] * 50
    said, _ = fetch("lab/ours")
    assert "'lab/ours': the hub could not be reached, or broke off" in said and "local folder" in said
    assert not list((tmp_path / "cache").rglob("*.incomplete")) and not list(tmp_path.rglob("model.safetensors"))
    assert fetch("lab/ours", HF_HUB_OFFLINE="1")[0].startswith("'lab/ours': the hub could not be reached")
    hub.breaks.clear()
    assert fetch("lab/ours")[0][0] == repositories[1]


def test_a_file_shorter_than_announced_is_never_loaded(hub, fetch, repositories):
    hub.short.add("model.safetensors")
    said, _ = fetch("lab/ours")
    assert said.startswith("'lab/ours': the hub could not be reached, or broke off (Consistency check failed")
    hub.short.clear()
    assert fetch("lab/ours")[0][0] == repositories[1]


@pytest.mark.parametrize("answer", [(404, "RepoNotFound"), (401, "RepoNotFound")])
def test_an_unknown_repository_is_told_so(answer, hub, fetch):
    hub.refuse["lab/nothing"] = (*answer, False)
    said, _ = fetch("lab/nothing")
    assert said.startswith("'lab/nothing': neither a file or folder here nor a repository of the hub")


@pytest.mark.parametrize("of_files", [True, False])
@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_repository_is_told_with_the_way_in(status, of_files, hub, fetch):
    hub.refuse["lab/ours"] = (status, "GatedRepo", of_files)
    said, _ = fetch("lab/ours")
    assert said.startswith("'lab/ours': the hub asks for a login: run `hf auth login`")


def nowhere() -> str:
    """The address of a port where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_a_hub_out_of_reach_is_told_soon_with_the_way_around(fetch):
    for settings in dict(HF_ENDPOINT=nowhere()), dict(HF_HUB_OFFLINE="1"):
        said, seconds = fetch("lab/ours", **settings)
        assert said.startswith("'lab/ours': the hub could not be reached") and "the path of a local folder" in said
        assert said.isprintable() and seconds < 10


@pytest.fixture
def mute():
    """The address of a hub that takes every call and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_hub_that_never_answers_is_told_within_ten_seconds_with_the_way_around(mute, fetch):
    said, seconds = fetch("lab/ours", HF_ENDPOINT=mute)
    assert said.startswith("'lab/ours': the hub could not be reached") and "the path of a local folder" in said
    assert "no answer in 8 seconds" in said or "timed out" in said
    assert said.isprintable() and len(said) <= 300 and seconds < 10


def test_a_hub_whose_address_nobody_tells_is_waited_for_no_longer(fetch, monkeypatch):
    def lost(*_, **__):
        time.sleep(60)

    monkeypatch.setattr(socket, "getaddrinfo", lost)
    monkeypatch.setattr(places, "PATIENCE", 0.5)
    began = time.monotonic()
    with pytest.raises(CheckpointError, match="no answer in 0.5 seconds"):
        load("lab/ours")
    assert time.monotonic() - began < 8


def test_what_was_fetched_once_loads_though_the_hub_never_answers(mute, hub, fetch, repositories):
    assert fetch("lab/original")[0][0] == repositories[1]
    answer, seconds = fetch("lab/original", patience=0.5, HF_ENDPOINT=mute)
    assert answer[0] == repositories[1] and seconds < 8


def test_a_hub_with_trouble_of_its_own_is_told(hub, fetch):
    hub.refuse["lab/ours"] = (500, None, False)
    said, _ = fetch("lab/ours")
    assert said.startswith("'lab/ours': the hub could not be reached, or broke off") and "500" in said


def test_a_repository_without_a_checkpoint_is_told_so(hub, fetch):
    hub.folders["lab/empty"] = {"README.md": b"hello"}
    said, _ = fetch("lab/empty")
    assert said == "'lab/empty': the repository has no file that a checkpoint could be in"


def test_files_outside_the_repository_are_never_written_or_read(hub, fetch, tmp_path):
    hub.folders["lab/ours"]["../../../../evil.json"] = b"{}"
    said, _ = fetch("lab/ours")
    assert isinstance(said, str) and not list(tmp_path.rglob("evil.json"))
    files = hub.folders["lab/diffusers"]
    weights = files.pop("transformer/diffusion_pytorch_model.safetensors")
    files["evil.safetensors"] = weights
    index = {"weight_map": {"out.weight": "../evil.safetensors"}}
    files["transformer/diffusion_pytorch_model.safetensors.index.json"] = json.dumps(index).encode()
    said, _ = fetch("lab/diffusers")
    assert "names ../evil.safetensors, not in its folder" in said
