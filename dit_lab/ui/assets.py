"""A panel of the page: a piece of HTML, its script, and the values that Python sends it.

The script is the only one who writes into the page, with `textContent` and canvases: a value is never read as HTML or
as a template, whatever a checkpoint's labels contain.
"""

from importlib.resources import files
from typing import Any

import gradio as gr


def asset(name: str) -> str:
    """The text of a file beside this one."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def panel(name: str, value: Any = None) -> gr.HTML:
    """The panel of `name.html` and `name.js`; `lab.js` runs before, and is what the panels share in the browser."""
    return gr.HTML(
        value=value,
        html_template=asset(f"{name}.html"),
        js_on_load=asset("lab.js") + asset(f"{name}.js"),
        apply_default_css=False,
        elem_id=f"{name}-panel",
        elem_classes=["lab-panel"],
    )
