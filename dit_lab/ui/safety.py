"""What the server refuses before Gradio sees it: other hosts' names, files, and requests that it would stumble over."""

import ipaddress
import json

from starlette.middleware import Middleware

LOCAL = {"localhost", "127.0.0.1", "::1"}
MOST_BYTES = 48 * 2**20  # of a request: a trajectory of 32 MiB in base64, and little else
# Gradio's doors to files, to other servers and to its developers' tools; nothing of the app goes through them.
CLOSED = (
    "/upload", "/upload_progress", "/file", "/file=", "/proxy=", "/stream", "/custom_component", "/process_recording",
    "/deep_link", "/vibe-", "/undo-vibe-", "/run-history", "/runs", "/dev/", "/monitoring", "/profiling", "/svelte",
)  # fmt: skip
PREFIX = "/gradio_api"
LARGE = "That is larger than anything the app takes."


class Large(Exception):  # noqa: N818, raised and caught here
    """A request goes on beyond `MOST_BYTES`."""


class Hosts:
    """Answer only to the names that the app was started for, so that no page of another site can rebind to it.

    On an address that stands for all (0.0.0.0), or with a public link, every name is answered: whoever opens it so has
    chosen that. Uploads and Gradio's other doors are refused, for the app takes files through its own, and what Gradio
    fails on becomes a sentence.
    """

    def __init__(self, app, names: frozenset[str] | None):
        self.app, self.names = app, names

    @classmethod
    def allowing(cls, host: str) -> list[Middleware]:
        """For `app_kwargs` of Gradio: a guard for an app that listens at `host`."""
        bare = host.strip("[]").lower()
        try:
            everywhere = ipaddress.ip_address(bare).is_unspecified
        except ValueError:
            everywhere = False
        return [Middleware(cls, names=None if everywhere else frozenset({*LOCAL, bare}))]

    async def __call__(self, scope, receive, send):
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        headers = dict(scope["headers"])
        if self.names is not None and named(headers.get(b"host", b"")) not in self.names:
            return await refused(send, scope, 421, "This app answers at the address that it was started for alone.")
        origin = headers.get(b"origin", b"")  # whose page asks: a browser says it, also of what no page may read
        if self.names is not None and origin and named(origin.partition(b"//")[2]) not in self.names:
            return await refused(send, scope, 403, "This app answers its own page, and no other site's.")
        path = scope.get("path", "").removeprefix(PREFIX)
        if path.startswith(CLOSED):
            return await refused(send, scope, 403, "This app takes no uploads and hands out no files that way.")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 12 or int(length) > MOST_BYTES:
            return await refused(send, scope, 413, LARGE)
        begun, taken = False, 0

        async def receiving():
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > MOST_BYTES:  # in pieces, of which no header says how many
                raise Large
            return message

        async def sending(message):
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receiving, sending)
        except Exception as error:  # a wrong number of a component, values that are missing: not foreseen by Gradio
            if begun:
                raise
            large = isinstance(error, Large)
            await refused(
                send, scope, *((413, LARGE) if large else (400, "The app has nothing of that kind to answer."))
            )


def named(host: bytes) -> str:
    """The name in a Host header, without its port."""
    name = host.decode("latin-1").lower()
    return name[1 : name.find("]")] if name.startswith("[") else name.partition(":")[0]


async def refused(send, scope, status: int, why: str) -> None:
    """Answer with a status and a sentence."""
    if scope["type"] == "websocket":
        return await send({"type": "websocket.close", "code": 1008, "reason": why})
    body = json.dumps({"error": why}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
