"""The app: the Gradio host of the panels, the page around them, and the one thread that works on models."""

import sys
from collections.abc import Callable

from dit_lab.data import open_data
from dit_lab.ui.checkpoints import Checkpoints
from dit_lab.ui.workbench import Workbench

__all__ = ["Checkpoints", "Workbench", "open_page"]


def open_page(
    checkpoints: Checkpoints, *, training: bool = True, data: str | None = None, host: str = "127.0.0.1",
    port: int | None = None, share: bool = False, mcp: bool = False,
) -> None:  # fmt: skip
    """Serve the page until the process ends. Raises ValueError on data that cannot be opened, before it begins."""
    pictures = pictures_of(data) if data else None
    page = page_module(mcp)
    workbench = Workbench(checkpoints, trains=training, pictures=pictures)
    try:
        app = page.build_app(workbench)
        page.ask_directly(host)
        app.launch(server_name=host, server_port=port, share=share, mcp_server=mcp, **page.launch_options(host, share))
    finally:
        workbench.scheduler.close()


def page_module(mcp: bool):
    """The module of the page, imported when it is needed: Gradio takes seconds.

    Where the package mcp is installed Gradio imports it too, which takes as long again, through a grammar that it
    builds; so without `mcp` it is not to be found meanwhile, as where it is not installed.
    """
    hidden = not mcp and "mcp" not in sys.modules
    if hidden:
        sys.modules["mcp"] = None
    try:
        from dit_lab.ui import page
    finally:
        if hidden:
            del sys.modules["mcp"]
    return page


def pictures_of(data: str) -> Callable:
    """The pictures that models learnt from, `(split) -> Images`; opened now, so that a wrong name is said at once."""
    opened = {"train": open_data(data, split="train")}

    def pictures(split: str, size: int | None = None):
        key = split if size is None else (split, size)
        if key not in opened:
            opened[key] = open_data(data, split=split, size=size)
        return opened[key]

    return pictures
