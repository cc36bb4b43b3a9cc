"""What the server refuses: other hosts, files of its disk, uploads, and requests that Gradio fails on."""

import asyncio
import json

import pytest

pytest.importorskip("gradio")
httpx = pytest.importorskip("httpx")

from launched import launched  # noqa: E402
from shared import random_model, random_udit  # noqa: E402
from small_workbench import Page  # noqa: E402

from dit_lab.ui.safety import MOST_BYTES, Hosts  # noqa: E402

SECRET = "a line that no answer may hold"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    (folder / "secret.txt").write_text(SECRET)
    models = {"tiny": random_model(), "u": random_udit()}
    given = {"trust_env": False, "timeout": 60}
    with launched(folder, **models) as (address, bench), httpx.Client(base_url=address, **given) as client:
        client.secret, client.bench = folder / "secret.txt", bench
        yield client


def asked(client, **body):
    """The page's one function, as its component calls it."""
    config = client.get("/config").json()
    component = next(each["id"] for each in config["components"] if each["type"] == "html")
    return client.post("/gradio_api/component_server", json={
        "component_id": component, "fn_name": "call", "session_hash": "x", "data": body,
    })  # fmt: skip


def test_the_page_is_one_component_whose_scripts_are_there_once_and_answers_its_function(served):
    page = served.get("/")
    config = served.get("/config").json()
    texts = [each["props"]["value"] for each in config["components"] if each["type"] == "html"]
    assert page.status_code == 200 and len(texts) == 1
    text = json.dumps(texts[0])
    assert text.count("export async function start(") == 1 and text.count("export function createLab(") == 1
    assert len(json.dumps(config)) < 700_000
    token = Page(served.bench).token
    reply = asked(served, op="about", session=token, checkpoint="tiny").json()
    assert set(reply["ok"]) == {"job"}
    assert "The app is asked for one of" in asked(served, op="x").json()["error"]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "", "[::2]", "localhost.x"]
)
def test_another_host_is_refused(served, host):
    for path in ("/", "/config", "/gradio_api/info"):
        answer = served.get(path, headers={"Host": host})
        assert answer.status_code == 421 and answer.json()["error"].endswith(".")


def test_this_machines_names_are_answered(served):
    for host in ("localhost", "127.0.0.1:1234", "[::1]:80", "LOCALHOST"):
        assert served.get("/config", headers={"Host": host}).status_code == 200


# Tricks by which files were read, or other servers asked, through Gradio and its like.
TRICKS = """
/gradio_api/file={secret} /file={secret} /gradio_api/file=/etc/passwd /gradio_api/file=../../../../etc/passwd
/gradio_api/file=%2e%2e%2f%2e%2e%2fetc/passwd /gradio_api/file=file:///etc/passwd /gradio_api/file//etc/passwd
/gradio_api/file=http://127.0.0.1:{port}/config /gradio_api/proxy=http://127.0.0.1:{port}/config
/gradio_api/proxy=https://evil.hf.space/ /static/../../../../../../etc/passwd /static/%2e%2e/%2e%2e/etc/passwd
/assets/..%2f..%2f..%2f..%2fetc/passwd /assets/%5c..%5c..%5cetc%5cpasswd /svelte/../../etc/passwd //etc/passwd
/gradio_api/custom_component/x/client/component/..%2f..%2fetc%2fpasswd /theme.css/../../etc/passwd
/gradio_api/stream/x/1/1/playlist.m3u8 /gradio_api/stream/x/1/1/playlist-file /monitoring /gradio_api/runs
/gradio_api/deep_link?session_hash=x /pwa_icon/../../etc/passwd /gradio_api/dev/reload /gradio_api/vibe-code
"""


@pytest.mark.parametrize("path", TRICKS.split())
def test_no_file_of_the_server_and_no_other_server_is_reached(served, path):
    path = path.format(secret=served.secret, port=served.base_url.port)
    for url in (path, path.replace("/gradio_api", "")):
        raw = served.build_request("GET", "/")
        raw.url = raw.url.copy_with(raw_path=url.encode())
        answer = served.send(raw)
        assert SECRET not in answer.text and "root:" not in answer.text and '"components"' not in answer.text, url
        assert answer.status_code != 500, url


@pytest.mark.parametrize(
    "path", ["/gradio_api/upload", "/upload", "/gradio_api/upload/", "/gradio_api/process_recording"]
)
def test_uploads_are_refused(served, path):
    answer = served.post(path, files={"files": ("x.txt", b"x")})
    assert answer.status_code == 403 and "no uploads" in answer.json()["error"]
    assert served.get(path + "?upload_id=x").status_code == 403


BODIES = [
    {"component_id": 10**9, "fn_name": "call", "session_hash": "x", "data": {}},
    {"component_id": "x", "fn_name": "call", "session_hash": "x", "data": {}},
    {"fn_name": "call"}, {}, [], "x", 7, None,
    {"component_id": 1, "fn_name": "__init__", "session_hash": "x", "data": {}},
    {"component_id": 1, "fn_name": "call", "session_hash": ["x"], "data": {}},
]  # fmt: skip


@pytest.mark.parametrize("body", BODIES)
def test_a_wrong_number_of_a_component_or_a_wrong_body_is_no_failure_of_the_server(served, body):
    answer = served.post("/gradio_api/component_server", json=body)
    assert 400 <= answer.status_code < 500, answer.text


def test_wrong_endpoints_and_too_few_values_are_no_failures_of_the_server(served):
    for body in ({"fn_index": 10**6, "data": [], "session_hash": "x"}, {"fn_index": -1, "data": []}, {"data": []}, {},
                 {"fn_index": "x", "data": 3}, {"fn_index": 0, "data": [], "session_hash": "x"}):  # fmt: skip
        for path in (
            "/gradio_api/queue/join",
            "/gradio_api/run/predict",
            "/gradio_api/run/sample",
            "/gradio_api/api/none",
        ):
            answer = served.post(path, json=body)
            assert answer.status_code != 500 and "Traceback" not in answer.text, (path, body)
    for name, data in (("sample", []), ("attention", ["tiny"]), ("none", [])):
        answer = served.post(f"/gradio_api/call/{name}", json={"data": data})
        assert answer.status_code < 500
        if "event_id" in answer.text:
            said = served.get(f"/gradio_api/call/{name}/{answer.json()['event_id']}").text
            assert "error" in said and "Traceback" not in said and "null" not in said.split("data:")[-1], said


def test_a_file_that_an_endpoint_is_told_of_is_neither_read_nor_fetched(served):
    for told in (str(served.secret), f"http://127.0.0.1:{served.base_url.port}/config", "file:///etc/passwd"):
        data = [{"path": told, "url": told, "meta": {"_type": "gradio.FileData"}}, 1]
        answer = served.post("/gradio_api/call/sample", json={"data": data})
        if answer.status_code == 200:
            said = served.get(f"/gradio_api/call/sample/{answer.json()['event_id']}").text
            assert SECRET not in said and "root:" not in said and "error" in said


def test_what_is_too_large_or_too_deep_is_refused(served):
    answer = served.post("/gradio_api/component_server", content=b"x" * (MOST_BYTES + 1))
    assert answer.status_code == 413
    pieces = served.post("/gradio_api/component_server", content=iter([b"x" * 2**20] * 50))  # says no length
    assert pieces.status_code in (400, 413)  # by who reads them: FastAPI, or the guard
    deep = served.post(
        "/gradio_api/component_server", content=b"[" * 10**5, headers={"Content-Type": "application/json"}
    )
    assert 400 <= deep.status_code < 500
    assert served.get("/config").status_code == 200


def test_an_error_of_the_page_comes_as_plain_text(served):
    token = Page(served.bench).token
    said = asked(served, op="about", session=token, checkpoint="<img src=x>'&").json()["error"]
    assert said == """This app serves tiny, u, not "<img src=x>'&"."""


@pytest.mark.parametrize(
    "host, name, answered",
    [
        ("127.0.0.1", "localhost", True), ("127.0.0.1", "evil", False), ("::1", "[::1]", True),
        ("192.168.1.5", "192.168.1.5", True), ("192.168.1.5", "evil", False), ("box.local", "box.local:80", True),
        ("0.0.0.0", "evil", True), ("[::]", "evil", True),
    ],
)  # fmt: skip
def test_each_choice_of_a_host_answers_to_its_names(host, name, answered):
    (guard,) = Hosts.allowing(host)
    reached, sent = [], []

    async def app(scope, receive, send):
        reached.append(True)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": "/", "headers": [(b"host", name.encode())]}
    asyncio.run(guard.cls(app, **guard.kwargs)(scope, None, send))
    assert bool(reached) == answered == (not sent)
