"""`python app.py`: open the app on the zoo, or on any checkpoint that `dit_lab.load` takes."""

import errno
import socket
from dataclasses import asdict
from typing import Annotated

from dit_lab.program import quoted, refusing, run

with refusing("app.py"):  # packages take seconds to import, and Ctrl-C may come meanwhile
    import tyro

    from dit_lab.checkpoints import Told, load, zoo

FIRST = "mnist"


def app(
    told: Annotated[Told, tyro.conf.arg(name="")] = Told(),  # noqa: B008
    *,
    checkpoint: str | None = None,
    vae: str | None = None,
    device: str = "auto",
    host: str = "127.0.0.1",
    port: int | None = None,
) -> None:
    """Open the app on the zoo, or with --checkpoint on any checkpoint that `dit_lab.load` takes.

    Args:
        told: What the checkpoint's file may not say of its model.
        checkpoint: Zoo name, folder, file or hub id (default: all of the zoo, a page each).
        vae: Folder or hub id of a diffusers VAE, to decode latents with.
        device: Where the model runs: cpu, cuda, mps, or auto.
        host: Address to listen on; others can reach 0.0.0.0.
        port: Port to listen on (default: the first free one from 7860).
    """
    if port is not None and not 0 < port < 2**16:
        raise ValueError(f"the port must be a number from 1 to 65535, not {port}")
    check_address(host, port or 0)
    from dit_lab.data import codec_of
    from dit_lab.models import pick_device

    place = pick_device(device)
    if told.known and not checkpoint:
        raise ValueError(f"name the --checkpoint that {', '.join(told.known)} is said of")
    sources = [checkpoint] if checkpoint else [FIRST, *sorted(zoo().keys() - {FIRST})]
    models = [load(source, device=place, **asdict(told)) for source in sources]
    codecs = [codec_of(model, vae, place) for model in models]
    # Gradio takes seconds to import: what cannot be loaded is said before.
    from dit_lab.ui import ask_directly, build_app, launch_options

    first, *others = zip(models, codecs, strict=True)
    page = build_app(*first, others)
    ask_directly(host)
    page.launch(server_name=host, server_port=port, **launch_options())


def check_address(host: str, port: int) -> None:
    """Raise OSError where nobody can listen: another program does, or the host is not this machine."""
    try:
        kind, *_, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        with socket.socket(kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, UnicodeError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise OSError(f"port {port} is taken; choose another --port, or leave it out for a free one") from None
        why = getattr(error, "strerror", None) or "it is no address"
        raise OSError(f"cannot listen at --host {quoted(host)} ({why}); 127.0.0.1 is always there") from None


if __name__ == "__main__":
    run(app, "app.py")
