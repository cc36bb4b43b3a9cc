"""The app's page and what stands behind its events, with tiny random models and no browser."""

import io
import json
import os
import socketserver
import subprocess
import sys
import threading
import urllib.request
from base64 import b64decode

import numpy as np
import pytest
import torch
from PIL import Image
from shared import ROOT, stirred

gr = pytest.importorskip("gradio")
httpx = pytest.importorskip("httpx")

from dit_lab.checkpoints import Loaded, load, save  # noqa: E402
from dit_lab.data import open_codec  # noqa: E402
from dit_lab.models import BLOCKS, build, count, preset  # noqa: E402
from dit_lab.ui import ask_directly, build_app, launch_options  # noqa: E402
from dit_lab.ui.pictures import atlas, pack  # noqa: E402
from dit_lab.ui.studio import Studio  # noqa: E402
from dit_lab.ui.words import facts  # noqa: E402

GOOD = {"label": 2, "seed": "5", "steps": 4, "sampler": "ddim", "cfg_scale": 2.0}
SHAPE = {"dim": 32, "depth": 2, "heads": 2, "patch_size": 4, "input_size": (8, 12), "in_channels": 1, "num_classes": 3}


def loaded(labels=("a", "b", "<img src=x onerror=alert(1)>"), **changes):
    torch.manual_seed(0)
    model = build("DiT-nano/4", **(SHAPE | changes)).eval()
    for parameter in model.parameters():  # zero gates would hide what the blocks do
        torch.nn.init.normal_(parameter, std=0.2)
    hint = "pixels" if model.config.in_channels in (1, 3) else None
    labels = list(labels) if model.config.num_classes else None
    return Loaded(model=model, config=model.config, labels=labels, codec_hint=hint, source="tiny")


def studio(**changes):
    found = loaded(**changes)
    return Studio(found, open_codec(found.codec_hint, channels=found.config.in_channels))


def run(of, **changes):
    """The outputs of a run: (run to keep, trajectory panel, modulation panel) at every yield."""
    return list(of.sample(**(GOOD | changes)))


def click(of, kept, request):
    return of.attend(kept, gr.EventData(target=None, _data=request))


def unpack(packed):
    return np.frombuffer(b64decode(packed["data"]), "<f4").reshape(packed["shape"])


def frame(atlas, number):
    """One frame of an atlas, as the page cuts it: h w or h w 3."""
    picture = np.asarray(Image.open(io.BytesIO(b64decode(atlas["uri"].split(",")[1]))))
    row, column = divmod(number, atlas["columns"])
    h, w = atlas["height"], atlas["width"]
    return picture[row * h : (row + 1) * h, column * w : (column + 1) * w]


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_samples_and_shows_the_attention_of_a_clicked_patch(block):
    of = studio(block=block)
    kept, frames, modulation = run(of)[-1]
    shown = click(of, kept, {"run": kept.run, "step": 1, "patch": 4})
    (stage,) = shown["stages"]
    rows = unpack(stage["rows"])
    assert rows.shape == (2, 2, 6 + (2 if block == "in_context" else 0))
    assert stage["grid"] == [2, 3] and stage["query"] == 4 and stage["stride"] == 1
    assert stage["blocks"] == ["block 0", "block 1"] and stage["name"] == ""
    np.testing.assert_allclose(rows.sum(-1), 1, atol=1e-5)
    assert np.array_equal(rows, kept.trajectory.attention_rows(of.model, 1, 4).numpy())
    assert frames["t"] == kept.trajectory.t and frames["grid"] == [2, 3] and frames["run"] == shown["run"]
    assert bool(modulation["parts"]) == BLOCKS[block].modulated != bool(modulation["reason"])


U_STAGES = ["encoder 1", "encoder 2", "middle", "decoder 2", "decoder 1"]


def u_studio(folder, input_size=16, **changes):
    """A studio on a small U-DiT that was saved and loaded, as app.py opens one."""
    model = stirred("U-DiT-tiny", in_channels=1, num_classes=10, input_size=input_size, **changes)
    found = load(str(save(folder / "u", model, labels=[str(digit) for digit in range(10)], codec_hint="pixels")))
    return Studio(found, open_codec(found.codec_hint, channels=1))


@pytest.mark.parametrize(
    "size, patch, grids, queries",
    [
        (16, 6 * 16 + 7, [[16, 16], [8, 8], [4, 4]], [6 * 16 + 7, 3 * 8 + 3, 1 * 4 + 1]),
        ((16, 24), 15 * 24 + 9, [[16, 24], [8, 12], [4, 6]], [15 * 24 + 9, 7 * 12 + 4, 3 * 6 + 2]),
    ],
)
def test_a_patchs_attention_comes_in_every_stage_of_a_u_dit_on_that_stages_grid(tmp_path, size, patch, grids, queries):
    of = u_studio(tmp_path, size)
    kept, frames, _ = run(of, steps=2)[-1]
    shown = click(of, kept, {"run": kept.run, "step": 1, "patch": patch})
    expected = kept.trajectory.patch_rows(of.model, 1, patch)
    assert frames["grid"] == grids[0] and [stage["name"] for stage in shown["stages"]] == U_STAGES == list(expected)
    assert [stage["grid"] for stage in shown["stages"]] == [*grids, *grids[1::-1]]
    assert [stage["query"] for stage in shown["stages"]] == [*queries, *queries[1::-1]]
    assert [stage["first"] for stage in shown["stages"]] == [0, 2, 4, 8, 10]
    for stage in shown["stages"]:
        rows, (_, columns) = unpack(stage["rows"]), stage["grid"]
        assert np.array_equal(rows, expected[stage["name"]].numpy())
        # A token sees every second row and column, counted from its own: a quarter of the tokens, and nothing else.
        row, column = divmod(stage["query"], columns)
        own = rows.reshape(*rows.shape[:2], -1, columns)[..., row % stage["stride"] :: 2, column % stage["stride"] :: 2]
        assert stage["stride"] == 2 and np.allclose(own.sum((-1, -2)), 1, atol=1e-5)
        assert (own > 0).all() and own.size == rows.size / 4
    assert shown["stages"][2]["blocks"] == [f"block {n}, pair {pair}" for n in (1, 2) for pair in "ab"]


@pytest.mark.parametrize("downsample", ["none", "kv"])
def test_a_u_dit_that_keeps_all_its_queries_on_one_grid_is_not_drawn_as_interleaved(tmp_path, downsample):
    of = u_studio(tmp_path, downsample=downsample)
    kept, _, _ = run(of, steps=1)[-1]
    shown = click(of, kept, {"run": kept.run, "step": 0, "patch": 3})
    assert {stage["stride"] for stage in shown["stages"]} == {1}
    assert all((unpack(stage["rows"]) > 0).all() for stage in shown["stages"])


def test_the_header_the_modulation_and_the_opening_run_know_a_u_dits_stages(tmp_path, monkeypatch):
    monkeypatch.setattr("dit_lab.ui.studio.OPENING_SECONDS", 300)
    monkeypatch.setattr("dit_lab.ui.studio.defaults", lambda config: GOOD)
    of = u_studio(tmp_path)
    assert {fact["name"]: fact["text"] for fact in of.about()["facts"][1:]} == {
        "Model": "U-DiT, adaLN-Zero blocks, 1.2 M parameters",
        "Depth": "1 + 1 + 2 + 1 + 1 blocks of two pairs × 2 heads",
        "Input": "16 × 16 picture, 1 channel",
        "Tokens": "16 × 16, 8 × 8 and 4 × 4, one a pixel at first",
    }
    kept, _, modulation, attention = of.opening()
    assert [stage["name"] for stage in modulation["stages"]] == U_STAGES and attention["patch"] == 8 * 16 + 8
    gates = unpack(modulation["parts"]["gate_attn"])
    assert np.array_equal(gates, kept.trajectory.modulation_norms(of.model)["gate_attn"].numpy())
    assert len(gates) == sum(len(stage["blocks"]) for stage in modulation["stages"]) == 12


def test_the_header_of_u_dit_s_on_latents():
    said = facts(preset("U-DiT-S", num_classes=0, input_size=(32, 64)), 52_000_000, latent=True)
    assert said["Depth"] == "2 + 5 + 8 + 5 + 2 blocks of two pairs × 4 heads"
    assert said["Input"] == "32 × 64 latent, 4 channels"
    assert said["Tokens"] == "32 × 64, 16 × 32 and 8 × 16, one a latent pixel at first"


@pytest.mark.parametrize("name", ["DiT-nano/4", "U-DiT-tiny"])
def test_whether_the_page_opens_with_a_run_is_decided_on_about_the_real_macs(name):
    with torch.device("meta"):
        model = build(name)
    of = Studio(Loaded(model=model, config=model.config, labels=None, codec_hint=None, source=name), None)
    assert 0.5 < of.macs() / count(model).macs < 2


def test_modulation_comes_for_every_block_and_step():
    of = studio()
    kept, _, modulation = run(of)[-1]
    norms = kept.trajectory.modulation_norms(of.model)
    assert list(modulation["parts"]) == list(norms)
    assert modulation["stages"] == [{"name": "", "first": 0, "blocks": ["block 0", "block 1"]}]
    assert np.array_equal(unpack(modulation["parts"]["gate_attn"]), norms["gate_attn"].numpy())


def test_previews_come_before_the_finished_run_and_the_frames_are_the_samplers():
    outputs = run(studio())
    assert [trajectory["kind"] for _, trajectory, _ in outputs[:-1]] == ["preview"] * (len(outputs) - 1) != []
    kept, frames, _ = outputs[-1]
    for name, tensor in {"x": kept.trajectory.x, "x0": kept.trajectory.x0}.items():
        for step in range(4):
            expected = ((tensor[step, 0, 0].clamp(-1, 1) + 1) * 127.5).round().numpy()
            assert np.array_equal(frame(frames["atlases"][name], step), expected)


@pytest.mark.parametrize(
    "bad",
    [
        {"seed": "seven"}, {"seed": ""}, {"seed": "-1"}, {"seed": "1.5"}, {"seed": "9" * 5000}, {"seed": None},
        {"seed": True}, {"seed": ["1"]}, {"seed": "٣"}, {"seed": str(2**63)},
        {"steps": 0}, {"steps": 1001}, {"steps": 2.5}, {"steps": float("nan")}, {"steps": float("inf")},
        {"steps": "4"}, {"steps": None}, {"steps": True}, {"steps": {}},
        {"cfg_scale": float("nan")}, {"cfg_scale": float("inf")}, {"cfg_scale": -1}, {"cfg_scale": "2"},
        {"cfg_scale": None}, {"cfg_scale": 1e30},
        {"label": 4}, {"label": -1}, {"label": None}, {"label": "a"}, {"label": [0]},
        {"sampler": "../../etc/passwd"}, {"sampler": None}, {"sampler": ["ddim"]},
    ],
)  # fmt: skip
def test_bad_input_is_a_sentence_and_the_next_run_works(bad, small=studio()):  # noqa: B008
    with pytest.raises(gr.Error) as caught:
        run(small, **bad)
    assert "must be" in caught.value.message and len(caught.value.message) < 120
    assert run(small)[-1][1]["kind"] == "trajectory"


@pytest.mark.parametrize(
    "request_",
    [
        None, "x", [], {}, {"step": 0, "patch": 0}, {"run": "other", "step": 0, "patch": 0},
        {"step": 4, "patch": 0, "run": True}, {"step": -1, "patch": 0, "run": True},
        {"step": 0, "patch": 6, "run": True}, {"step": 0, "patch": "0", "run": True},
        {"step": 0, "patch": float("nan"), "run": True}, {"step": True, "patch": 0, "run": True},
    ],
)  # fmt: skip
def test_a_hostile_click_is_a_sentence(request_, small=studio()):  # noqa: B008
    kept = run(small)[-1][0]
    if isinstance(request_, dict) and request_.get("run") is True:
        request_ = request_ | {"run": kept.run}
    for held in (kept, None):
        with pytest.raises(gr.Error):
            click(small, held, request_)
    assert click(small, kept, {"run": kept.run, "step": 0, "patch": 0})


def test_the_null_label_can_be_chosen():
    kept, frames, _ = run(studio(), label=3)[-1]
    assert kept.trajectory.labels == [3] and "no class" in frames["title"]


def test_a_model_without_classes_has_no_class_chooser_and_no_guidance():
    of = studio(num_classes=0)
    kept, frames, _ = run(of, label=0)[-1]
    assert "class" not in frames["title"] and kept.trajectory.options["cfg_scale"] == 1
    labels = {part["props"].get("label"): part["props"].get("visible") for part in page(num_classes=0)["components"]}
    assert labels["Class"] is False and labels["Guidance scale"] is False and labels["Seed"] is True


def test_latents_without_a_vae_come_in_false_colours_with_a_note():
    of = studio(in_channels=4)
    _, frames, _ = run(of)[-1]
    assert "--vae" in of.about()["note"] and frame(frames["atlases"]["x0"], 0).shape == (8, 12, 3)
    assert "4 channels" in json.dumps(of.about())


def page(**changes):
    found = loaded(**changes)
    return build_app(found, open_codec(found.codec_hint, channels=found.config.in_channels)).get_config_file()


def test_the_page_opens_with_a_recorded_run_and_its_attention(monkeypatch):
    monkeypatch.setattr("dit_lab.ui.studio.OPENING_SECONDS", 300)
    values = {part["props"].get("elem_id"): part["props"].get("value") for part in page()["components"]}
    assert values["trajectory-panel"]["kind"] == "trajectory"
    assert values["attention-panel"]["run"] == values["modulation-panel"]["run"] == values["trajectory-panel"]["run"]


def test_a_model_too_slow_to_wait_for_does_not_hold_up_the_page(monkeypatch):
    monkeypatch.setattr("dit_lab.ui.studio.OPENING_SECONDS", 0)
    assert studio().opening() == (None, None, None, None)


def test_a_slower_model_opens_with_fewer_steps(monkeypatch):
    """Seconds pass by a clock that counts the network's calls: 0.1 s each, so that 2 s are 20 steps."""
    of, calls = studio(), []
    of.model.register_forward_hook(lambda *_: calls.append(None))
    monkeypatch.setattr("dit_lab.ui.studio.time.monotonic", lambda: 0.1 * len(calls))
    kept, *_ = of.opening()
    assert len(kept.trajectory.t) == 20


def test_nothing_from_a_checkpoint_enters_a_template_or_a_script():
    for part in page()["components"]:
        for name in ("html_template", "js_on_load"):
            assert "onerror" not in str(part["props"].get(name)) and "tiny" not in str(part["props"].get(name))


def test_an_atlas_that_would_be_too_large_is_shrunk(monkeypatch):
    monkeypatch.setattr("dit_lab.ui.pictures.ATLAS_PIXELS", 2**18)
    small = atlas(torch.zeros(40, 3, 128, 256))
    assert abs(small["width"] / small["height"] - 2) < 0.1 and small["width"] < 256
    assert small["width"] * small["height"] * 40 <= 2**18 and small["uri"].startswith("data:image/jpeg")


def test_packed_numbers_are_exact():
    values = torch.randn(2, 3)
    assert np.array_equal(unpack(pack(values)), values.numpy())


@pytest.fixture(scope="module")
def server():
    """The address of the app, run as app.py does, and the numbers of its sampling and clicking events."""
    found = loaded()
    app = build_app(found, open_codec(found.codec_hint, channels=found.config.in_channels))
    _, address, _ = app.launch(prevent_thread_lock=True, quiet=True, **launch_options())
    numbers = {function.fn.__name__: number for number, function in app.fns.items() if function.fn}
    yield address, numbers
    app.close()


def post(server, event, data, session="s", **more):
    """Call an event as a browser does, or as somebody who is none; returns its last message."""
    address, numbers = server
    body = {"data": data, "fn_index": numbers[event], "session_hash": session, **more}
    joined = httpx.post(f"{address}gradio_api/queue/join", json=body)
    assert joined.status_code == 200, joined.text
    with httpx.stream("GET", f"{address}gradio_api/queue/data?session_hash={session}", timeout=60) as stream:
        for line in stream.iter_lines():
            message = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
            if message.get("msg") == "process_completed":
                return message


def test_hostile_requests_past_the_page_are_refused_and_the_next_one_is_served(server):
    good = [*GOOD.values(), None]  # of a picture that is no square no side can be asked for
    for place, value in enumerate([99, "<b>", 0, "rm", 1e9]):
        refused = post(server, "sample", [*good[:place], value, *good[place + 1 :]], f"bad{place}")
        assert refused["success"] is False and refused["output"]["error"]
    assert post(server, "attend", [None], "none")["success"] is False
    assert post(server, "attend", [None], "odd", event_data={"run": {}, "step": "x"})["success"] is False
    assert post(server, "sample", good, "good")["success"] is True


def test_no_event_is_offered_as_a_public_endpoint_and_no_file_is_served(server):
    address, _ = server
    assert httpx.get(f"{address}gradio_api/info").json()["named_endpoints"] == {}
    assert httpx.get(f"{address}gradio_api/file={ROOT / 'requirements.txt'}").status_code in (403, 404)


def test_a_checkpoint_that_cannot_be_loaded_is_one_sentence_and_exit_code_2(tmp_path):
    command = [sys.executable, "app.py", "--checkpoint", str(tmp_path / "gone")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("dit_lab: ") and "gone" in done.stderr and done.stderr.count("\n") == 1


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


def test_behind_a_proxy_the_app_starts_and_never_asks_it_for_its_own_address(proxy, tmp_path):
    address, asked = proxy
    model = stirred("DiT-nano/4", in_channels=1, num_classes=10, input_size=8)
    folder = save(tmp_path / "model", model, codec_hint="pixels")
    command = [sys.executable, "-u", "app.py", "--checkpoint", str(folder)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=behind(address), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        said = [process.stdout.readline()]
        while said[-1] and "public link" not in said[-1]:  # which Gradio says once it has asked itself
            said.append(process.stdout.readline())
        assert said[-1], "".join(said)
        url = next(line for line in said if "Running on" in line).split()[-1]
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        assert direct.open(url, timeout=30).status == 200
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert asked == []


@pytest.mark.parametrize("before", [{}, {"no_proxy": "intra.net"}, {"NO_PROXY": "intra.net"}, {"no_proxy": "*"}])
def test_only_the_apps_own_addresses_are_asked_without_the_proxy(before, proxy, monkeypatch):
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
