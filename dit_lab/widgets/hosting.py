"""A panel in a notebook, live through anywidget: the browser asks this kernel's model, and a page is kept for later."""

import secrets
from zlib import crc32

import anywidget
import traitlets

from dit_lab.inside.walking import ended, relayed
from dit_lab.panels import Opened, asset, looks, page, panel
from dit_lab.panels.asking import choice
from dit_lab.panels.terms import glossary_script
from dit_lab.program import quoted
from dit_lab.widgets.shown import UNSEEN, Shown, kept, png, text

PLACES = "step", "sample", "patch", "block", "head", "half"


class PanelWidget(anywidget.AnyWidget):
    """One panel of an opened run; widgets of the same run share step, sample, patch, block, head and half.

    The browser is told which panel and run it is, and asks for the rest: what several widgets need is sent once.
    """

    _esm = text("widget.js")
    name = traitlets.Unicode().tag(sync=True)
    run = traitlets.Unicode().tag(sync=True)
    place = traitlets.Dict().tag(sync=True)
    saved = traitlets.Unicode().tag(sync=True)
    version = traitlets.Unicode().tag(sync=True)

    def __init__(self, name: str, opened: Opened, *, saved: str = "", **place):
        self.panel, self.opened = panel(name), opened
        version = f"{crc32((asset('lab.js') + self.panel.script + looks([self.panel])).encode()):08x}"
        super().__init__(name=name, run=opened.id, place=checked(opened, place), saved=saved, version=version)
        self.on_msg(self.asked)

    def __repr__(self) -> str:
        return UNSEEN

    def part(self, name: str):
        """What the browser asks for before it can show anything. Raises ValueError on any other name."""
        parts = {
            "lab": lambda: asset("lab.js"), "glossary": glossary_script,
            f"panel {self.name}": lambda: self.panel.script, f"looks {self.name}": lambda: looks([self.panel]),
            "run": lambda: self.opened.run(*{0, self.place.get("sample", 0)}),
            "data": lambda: self.panel.data(self.opened),
        }  # fmt: skip
        return parts[choice("A widget's part", name, parts)]()

    def answers(self, message):
        """The answer to a question of the browser, or a generator that comes to it. Raises ValueError."""
        if "part" in message:
            return {"answer": self.part(message["part"])}
        return self.panel.ask(self.opened, message.get("request"))

    def asked(self, _, message, buffers) -> None:
        """Answer one question of the browser, with progress on the way where the answer takes longer."""
        if not isinstance(message, dict):
            return
        of = {name: message.get(name) for name in ("id", "view")}
        try:
            answer = self.answers(message)
            if not isinstance(answer, dict):
                answer = ended(relayed(answer, lambda progress: self.send(of | {"progress": progress._asdict()})))
            self.send(of | {"answer": answer["answer"] if "part" in message else answer})
        except Exception as error:  # whatever it is: who asked waits for an answer
            self.send(of | {"error": str(error) or type(error).__name__})


def show(name: str, opened: Opened, *, asked=(), live: str | bool = "auto", **place) -> Shown:
    """A panel of a run, opened at a `place`: step, sample, patch, block, head, half.

    Widgets of one run move together, and so to the place of the last that was shown with one.

    `live` "auto" is the widget, and what the notebook keeps for when there is no kernel: a page that scrubs, with the
    answers to `asked` (requests of the panel) in it, and a still picture. True is the widget alone, False what is kept.
    Raises ValueError on another panel, a place that is not there, or a request that cannot be answered.
    """
    if live not in ("auto", True, False):
        raise ValueError(f'live must be "auto", True or False, not {quoted(live)}.')
    place, token = checked(opened, place), secrets.token_hex(8)
    widget = PanelWidget(name, opened, saved=token, **place) if live else None
    if live is True:
        return Shown(widget, None, None, panel(name).title)
    title, still = f"{panel(name).title}: {opened.title()}", picture(name, opened, place)
    html = kept(page(opened, name, asked={name: list(asked)}, place=place), title, token, still is not None)
    return Shown(widget, html, still, title)


def picture(name: str, opened: Opened, place: dict) -> bytes | None:
    """A panel's still as PNG, None where it has none."""
    if (still := panel(name).still) is None:
        return None
    return png(still(opened, **place), bbox_inches="tight")


def checked(opened: Opened, place: dict) -> dict:
    """A place to open at. Raises ValueError on one that is not there."""
    for name in place:
        choice("A place", name, PLACES)
    mean = {"head": "mean"} if place.get("head") == "mean" else {}
    return opened.placed(place, *(name for name in place if name not in mean)) | mean
