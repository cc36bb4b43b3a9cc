"""What a notebook is given of a view: live while there is a kernel, and kept with the notebook for when there is none.

A widget's output is only a reference to the kernel: a notebook that was closed and opened again shows an error in its
place. So three things are put out, of which one is seen. A still picture is for readers without scripts, such as
GitHub. A page with the data inside is for those with scripts and no kernel, an export or a reopened notebook: it hides
the picture. The widget, once it is there, hides the page.
"""

import io
import sys
from base64 import b64encode
from importlib.resources import files
from string import Template

from IPython.display import display

from dit_lab.panels import framed

# What stands where the widget cannot be shown; saved.html knows it by what comes before the colon.
UNSEEN = "Live with the kernel that made it: run this cell to have it again."
DPI = 110


class Shown:
    """What is put into a notebook when it is the last line of a cell, or is given to `display`.

    `widget` is the live view, None where it is only saved; `html` and `png` are what the notebook keeps, None where
    it is only live.
    """

    def __init__(self, widget, html: str | None, png: bytes | None, title: str):
        self.widget, self.html, self.png, self.title = widget, html, png, title

    def outputs(self) -> list[dict]:
        """What the notebook keeps, as arguments of `display`: the still, then the page."""
        found = []
        if self.png is not None:
            bundle = {"image/png": b64encode(self.png).decode(), "text/plain": self.title}
            found.append({"obj": bundle, "raw": True, "metadata": {"image/png": {"alt": self.title}}})
        if self.html is not None:
            found.append({"obj": {"text/html": self.html, "text/plain": ""}, "raw": True})
        return found

    def _ipython_display_(self) -> None:
        for each in self.outputs():
            display(each.pop("obj"), **each)
        if self.widget is not None:
            display(self.widget)


def kept(page: str, title: str, token: str, still: bool) -> str:
    """A page as a notebook keeps it, in a frame that hides a `still` above it, and itself for the widget of a token."""
    return Template(text("saved.html")).substitute(
        token=token, frame=framed(page, title, height=80), still="1" if still else "", unseen=UNSEEN.split(":")[0]
    )


def png(figure, **options) -> bytes:
    """A Matplotlib figure as PNG; it is closed, so that a notebook does not show it a second time."""
    figure.savefig(buffer := io.BytesIO(), format="png", dpi=DPI, **options)
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close(figure)
    return buffer.getvalue()


def text(name: str) -> str:
    """The text of a file of this wing."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
