"""`python app.py`: open the app on the zoo, or on any checkpoint that `dit_lab.load` takes."""

import errno
import socket
from importlib.util import find_spec
from typing import Annotated

from dit_lab.program import quoted, refusing, run

with refusing("app.py"):  # packages take seconds to import, and Ctrl-C may come meanwhile
    import tyro

    from dit_lab.checkpoints import Told, zoo

FIRST = "mnist"


def app(
    told: Annotated[Told, tyro.conf.arg(name="")] = Told(),  # noqa: B008
    *,
    checkpoint: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    checkpoint_dir: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    vae: str | None = None,
    data: str | None = None,
    training: bool = True,
    device: str = "auto",
    compile: bool = False,
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    mcp: bool = False,
) -> None:
    """Open the app on the zoo, or on checkpoints that `dit_lab.load` takes.

    Args:
        told: What the checkpoints' files may not say of their models.
        checkpoint: Zoo name, folder, file or hub id; may be given several times (default: all of the zoo).
        checkpoint_dir: Folder of checkpoints, each to be chosen in the page; may be given several times.
        vae: Folder or hub id of a diffusers VAE, to decode latents with.
        data: The pictures that models learnt from, a hub id or folder, to look for the nearest to a sample.
        training: Let people train small models in the page.
        device: Where models run: cpu, cuda, mps, or auto.
        compile: Sample by compiled code, made when a model first draws so many pictures of a size: it takes a minute or
            so, in which nobody is answered. Looks run the model as it is.
        host: Address to listen on; others can reach 0.0.0.0.
        port: Port to listen on (default: the first free one from 7860).
        share: Also open a public link, through Gradio's servers.
        mcp: Also serve the endpoints as tools of the Model Context Protocol; needs `pip install "gradio[mcp]"`.
    """
    if port is not None and not 0 < port < 2**16:
        raise ValueError(f"the port must be a number from 1 to 65535, not {port}")
    check_address(host, port or 0)
    if mcp and not find_spec("mcp"):
        raise ValueError('--mcp needs the package mcp, which is not installed here: pip install "gradio[mcp]"')
    from dit_lab.models import check_compiler, pick_device
    from dit_lab.ui.checkpoints import Checkpoints, served

    place = pick_device(device)
    if compile:
        check_compiler(place)
    if told.known and not (checkpoint or checkpoint_dir):
        raise ValueError(f"name the --checkpoint that {', '.join(told.known)} is said of")
    sources = served(checkpoint, checkpoint_dir) or {name: name for name in [FIRST, *sorted(zoo().keys() - {FIRST})]}
    checkpoints = Checkpoints(sources, told, vae, place, compile)
    checkpoints.get(next(iter(sources)))  # Gradio takes seconds to import: what cannot be loaded is said before
    from dit_lab.ui import open_page

    open_page(checkpoints, training=training, data=data, host=host, port=port, share=share, mcp=mcp)


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
