"""The app with its page on small random checkpoints, launched in this process as app.py launches it."""

import json
from contextlib import contextmanager
from http.client import HTTPConnection
from urllib.parse import urlsplit

from small_workbench import saved, workbench

from dit_lab.ui.page import build_app, launch_options


@contextmanager
def launched(folder, host="127.0.0.1", **models):
    """(address without its last slash, the workbench behind it)."""
    with workbench(saved(folder, **models)) as bench:
        app = build_app(bench)
        _, address, _ = app.launch(server_name=host, prevent_thread_lock=True, quiet=True, **launch_options(host))
        try:
            yield address.rstrip("/"), bench
        finally:
            app.close(verbose=False)


def raw(address, path, method="GET", body=b"", **headers) -> tuple[int, bytes]:
    """Status and body of a request whose path no client tidies up."""
    place = urlsplit(address)
    connection = HTTPConnection(place.hostname, place.port, timeout=30)
    try:
        connection.putrequest(method, path, skip_host=True)
        headers = {"Host": place.netloc, "Content_Length": str(len(body))} | headers
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.read(4096)
    finally:
        connection.close()


def post(address, path, value, **headers) -> tuple[int, dict]:
    """Status and JSON of a request with JSON."""
    status, body = raw(address, path, "POST", json.dumps(value).encode(), Content_Type="application/json", **headers)
    return status, json.loads(body)
