"""A page of another site cannot have the app do anything, not even what needs no answer."""

import asyncio

import pytest

from dit_lab.ui.safety import Hosts


def asked(origin: bytes | None, host="127.0.0.1") -> int:
    """The status that a request gets whose page is of an origin; 0 where it goes through."""
    (guard,) = Hosts.allowing(host)
    sent = []

    async def app(scope, receive, send):
        sent.append({"status": 0})

    async def send(message):
        sent.append(message)

    headers = [(b"host", b"127.0.0.1:7860"), *([(b"origin", origin)] if origin is not None else [])]
    scope = {"type": "http", "path": "/gradio_api/component_server", "headers": headers}
    asyncio.run(guard.cls(app, **guard.kwargs)(scope, None, send))
    return sent[0]["status"]


@pytest.mark.parametrize(
    "origin",
    [b"http://evil.example", b"null", b"file://", b"http://127.0.0.1.evil.example", b"https://localhost.evil.example",
     b"http://evil.example:7860", b"http://[::2]", b"http://user@evil.example", b"\xff"],
)  # fmt: skip
def test_another_sites_page_is_refused(origin):
    assert asked(origin) == 403


@pytest.mark.parametrize("origin", [None, b"http://127.0.0.1:7860", b"http://localhost:7860", b"http://[::1]:7860"])
def test_its_own_page_and_programs_are_not(origin):
    assert asked(origin) == 0


def test_who_opens_the_app_to_all_is_answered_from_everywhere():
    assert asked(b"https://0123.gradio.live", host="0.0.0.0") == 0
