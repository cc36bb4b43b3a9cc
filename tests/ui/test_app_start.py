"""`python app.py`: what cannot be is one sentence, at once; what can be is served, and its page is small."""

import importlib.util
import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import urllib.request

import pytest
from shared import ROOT, random_model, stirred

from dit_lab.checkpoints import save, zoo
from dit_lab.program import run

pytest.importorskip("gradio")


@pytest.fixture
def app():
    """The program as a module of its own."""
    spec = importlib.util.spec_from_file_location("started", ROOT / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def refused(app, capsys, monkeypatch):
    """Run it with arguments that it refuses: its sentence. Gradio, which takes seconds, is not imported for that."""

    def refuse(*arguments, code=2):
        monkeypatch.setitem(sys.modules, "gradio", None)
        monkeypatch.setitem(sys.modules, "dit_lab.ui.page", None)
        with pytest.raises(SystemExit) as left:
            run(app.app, "app.py", list(map(str, arguments)))
        out, told = capsys.readouterr()
        assert left.value.code == code and out == "", told
        assert told.startswith("dit_lab: ") and told.count("\n") == 1, told
        assert "&#" not in told and "Traceback" not in told and len(told) < 340
        return told

    return refuse


@pytest.fixture
def started(app, monkeypatch):
    """Run it up to where Gradio begins: the checkpoints that it would serve, and how."""
    import dit_lab.ui

    def start(*arguments):
        given = []
        monkeypatch.setattr(dit_lab.ui, "open_page", lambda checkpoints, **how: given.append((checkpoints, how)))
        run(app.app, "app.py", list(map(str, arguments)))
        return given[0]

    return start


def tiny(folder):
    """A checkpoint in a folder."""
    return save(folder, random_model(in_channels=1), labels=list("abcde"), codec_hint="pixels")


def test_steps_are_compiled_where_that_is_asked_for_and_can_be(started, refused, monkeypatch):
    assert [started(*given, "--device", "cpu")[0].compile for given in ([], ["--no-compile"])] == [False, False]
    monkeypatch.setattr("dit_lab.models.compiling.shutil.which", lambda name: name)
    assert started("--compile", "--device", "cpu")[0].compile is True
    monkeypatch.setattr("dit_lab.models.compiling.shutil.which", lambda name: None)
    assert "--compile needs a C++ compiler" in refused("--compile", "--device", "cpu")


@pytest.mark.parametrize("port", ["0", "-1", "65536", "9" * 400, "x", "1.5", ""])
def test_a_port_that_cannot_be_is_a_sentence(port, refused):
    assert "port" in refused("--port", port)


def test_a_taken_port_is_a_sentence(refused):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert f"port {port} is taken; choose another --port" in refused("--port", port)
        assert "is taken" in refused("--port", port, "--host", "0.0.0.0")


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1", "a b", "<b>", "300.1.1.1", "x" * 300, "é" * 70])
def test_a_host_that_is_not_this_machine_is_a_sentence(host, refused):
    told = refused("--host", host)
    assert "cannot listen at --host" in told and "127.0.0.1 is always there" in told


def test_a_checkpoint_that_is_not_there_is_a_sentence(refused, tmp_path):
    assert "gone" in refused("--checkpoint", tmp_path / "gone")
    assert "gone" in refused("--checkpoint", tmp_path / "gone", "--checkpoint", "mnist")
    (tmp_path / "noise.safetensors").write_bytes(b"\x00" * 100)
    assert "noise.safetensors" in refused("--checkpoint", tmp_path / "noise.safetensors")


def test_a_folder_without_a_checkpoint_is_a_sentence(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    assert "is no folder" in refused("--checkpoint-dir", tmp_path / "gone")
    assert "is no folder" in refused("--checkpoint-dir", tmp_path / "file")
    assert "holds no checkpoint" in refused("--checkpoint-dir", tmp_path / "empty")


def test_data_that_is_not_there_is_a_sentence_before_gradio_is_imported(refused, tmp_path):
    assert "gone" in refused("--checkpoint", "mnist", "--data", tmp_path / "gone")


@pytest.mark.parametrize("asked", [False, True])
def test_the_protocols_package_is_imported_only_where_it_is_asked_for(asked):
    """With Gradio it would come by itself, and take as long again."""
    pytest.importorskip("mcp")
    code = f"import sys; from dit_lab.ui import page_module; page_module({asked}); print('mcp.server' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert told.stdout == f"{asked}\n", told.stderr


def test_mcp_without_its_package_is_a_sentence_that_says_what_to_install(app, refused, monkeypatch):
    monkeypatch.setattr(app, "find_spec", lambda name: None)
    assert '--mcp needs the package mcp, which is not installed here: pip install "gradio[mcp]"' in refused("--mcp")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--trained-as", "sit"], "name the --checkpoint that trained_as is said of"),
        (["--checkpoint", "mnist", "--trained-as", "sit"], "it says of itself trained_as dit, not 'sit'"),
        (["--device", "toaster"], "toaster"),
        (["--chekpoint", "mnist"], "did you mean --checkpoint"),
        (["mnist"], "is one argument too many"),
        (["--checkpoint"], "--checkpoint"),
    ],
)
def test_what_is_said_wrong_is_a_sentence(given, told, refused):
    assert told in refused(*given)


def test_the_whole_zoo_is_served_the_smallest_first_and_one_is_loaded(started):
    checkpoints, how = started()
    assert list(checkpoints.sources) == ["mnist", *sorted(zoo().keys() - {"mnist"})] and list(checkpoints.kept) == [
        "mnist"
    ]
    assert how == {"training": True, "data": None, "host": "127.0.0.1", "port": None, "share": False, "mcp": False}
    assert [each["group"] for each in checkpoints.names()] == [None] * len(zoo())


def test_checkpoints_are_served_by_the_names_of_their_folders(started, tmp_path):
    one, two, other = tiny(tmp_path / "one"), tiny(tmp_path / "two"), tiny(tmp_path / "elsewhere" / "one")
    given = [argument for source in (one, "mnist", two, one, other) for argument in ("--checkpoint", source)]
    checkpoints, _ = started(*given)
    assert checkpoints.sources == {"one": str(one), "mnist": "mnist", "two": str(two), str(other): str(other)}
    assert [each["group"] for each in checkpoints.names()] == ["Yours", "Zoo", "Yours", "Yours"]


def test_a_folder_of_checkpoints_is_served_and_what_is_none_left_out(started, tmp_path):
    tiny(tmp_path / "models" / "b"), tiny(tmp_path / "models" / "a")
    (tmp_path / "models" / "notes").mkdir()
    (tmp_path / "models" / "readme.txt").write_text("x")
    checkpoints, how = started("--checkpoint-dir", tmp_path / "models", "--no-training")
    assert checkpoints.sources == {name: str(tmp_path / "models" / name) for name in "ab"} and not how["training"]


@pytest.fixture
def proxy():
    """The address of a proxy that forwards nothing, and what it was asked."""
    asked = []

    class Refusing(socketserver.StreamRequestHandler):
        def handle(self):
            asked.append(self.rfile.readline().decode())
            self.wfile.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


def behind(address: str) -> dict:
    """The environment of a process behind a proxy, for which nobody has said what it is not for."""
    rest = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return rest | dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"), address)


def test_behind_a_proxy_the_app_starts_serves_a_small_page_and_ends_by_ctrl_c(proxy):
    """The whole zoo, as most people start it; the proxy is never asked for the app's own address."""
    address, asked = proxy
    command = [sys.executable, "-u", "app.py", "--no-training"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=behind(address), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # jobs of a shell have none
    )  # fmt: skip
    try:
        said = [process.stdout.readline()]
        while said[-1] and "public link" not in said[-1]:  # which Gradio says once it has asked itself
            said.append(process.stdout.readline())
        assert said[-1], "".join(said)
        url = next(line for line in said if "Running on" in line).split()[-1]
        fetch = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
        assert fetch(url, timeout=30).status == 200
        text = fetch(f"{url}/config", timeout=30).read()
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert asked == [] and "Traceback" not in rest
    check_page(text)


def check_page(text: bytes) -> None:
    """The page's configuration: small, every script in it once, and a run to look at before anything has run."""
    assert len(text) < 700_000
    (part,) = [each for each in json.loads(text)["components"] if each["props"].get("elem_id") == "lab"]
    modules, first = part["props"]["value"]["modules"], part["props"]["value"]["first"]
    for name, script in modules.items():
        assert text.count(json.dumps(script, ensure_ascii=False)[1:-1].encode()) == 1, name
    assert first["about"]["name"] == "mnist" and first["run"]["id"] in first["data"] and first["run"]["frames"]["0"]
    assert "training" not in [panel["name"] for panel in first["panels"]]
    assert len(first["checkpoints"]) == len(zoo())


@pytest.mark.parametrize("before", [{}, {"no_proxy": "intra.net"}, {"NO_PROXY": "intra.net"}, {"no_proxy": "*"}])
def test_only_the_apps_own_addresses_are_asked_without_the_proxy(before, proxy, monkeypatch):
    import httpx

    from dit_lab.ui.page import ask_directly

    address, asked = proxy
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name, value in {"http_proxy": address, "no_proxy": "", **before}.items():
        monkeypatch.setenv(name, value)
    ask_directly("[::1]")
    for own in ("127.0.0.1", "localhost", "[::1]"):
        with pytest.raises(httpx.ConnectError):  # nobody listens there, and the proxy was not asked
            httpx.get(f"http://{own}:9/")
        assert urllib.request.proxy_bypass(own.strip("[]"))
    assert asked == [] and bool(before) == bool(urllib.request.proxy_bypass("intra.net"))
    if before != {"no_proxy": "*"}:
        assert httpx.get("http://hub.invalid/").status_code == 502 and asked[0].startswith("GET http://hub.invalid/")


def test_a_checkpoint_that_fails_in_the_page_ends_the_programs_thread(app, monkeypatch, tmp_path):
    """Where the page cannot be built, the model's thread does not go on."""
    import torch

    import dit_lab.ui
    from dit_lab.checkpoints import Told
    from dit_lab.ui.checkpoints import Checkpoints

    before = {thread.name for thread in threading.enumerate()}
    folder = save(tmp_path / "tiny", stirred("DiT-nano/4", in_channels=1, num_classes=3, input_size=8))
    checkpoints = Checkpoints({"tiny": str(folder)}, Told(), None, torch.device("cpu"))
    monkeypatch.setattr("dit_lab.ui.page.build_app", lambda workbench: (_ for _ in ()).throw(ValueError("no page")))
    with pytest.raises(ValueError, match="no page"):
        dit_lab.ui.open_page(checkpoints)
    assert "model" not in {thread.name for thread in threading.enumerate()} - before
