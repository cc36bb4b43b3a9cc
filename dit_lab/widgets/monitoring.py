"""The training panel in a notebook, beside any loop that trains: it sees the loss of each step and looks at the model.

While a cell runs, its kernel can send to the browser and answer nothing. So this widget asks for nothing: the panel's
script goes out with it, and every state as it comes. When the loop ends the page and the still are put in its place.
"""

import math
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

import anywidget
import traitlets
from IPython.display import display, update_display

from dit_lab.inside.walking import ended
from dit_lab.panels import asset, looks, page_of, panel
from dit_lab.panels.terms import glossary_script
from dit_lab.panels.training import Watching, drawn
from dit_lab.widgets.shown import UNSEEN, Shown, kept, png, text

EVERY = 0.5  # seconds between two states, where no look comes between
NAME = "training"


class MonitorWidget(anywidget.AnyWidget):
    """The live view of a run: the panel's script, the newest state, and all looks so far, for views that come late."""

    _esm = text("monitor.js")
    parts = traitlets.Dict().tag(sync=True)
    about = traitlets.Unicode().tag(sync=True)
    state = traitlets.Dict().tag(sync=True)
    looks = traitlets.List().tag(sync=True)
    saved = traitlets.Unicode().tag(sync=True)

    def __repr__(self) -> str:
        return UNSEEN


class Monitor:
    """A loop that is watched: it is called with the loss of each step; `looks` are the looks at the model so far.

    A look has its `step`, the `samples` as the panel draws them, and in `read` the label that each looks like.
    """

    def __init__(self, watching: Watching, about: str):
        self.watching, self.about, self.looks, self.token = watching, about, [], secrets.token_hex(8)
        parts = {
            "lab": asset("lab.js"), "panel": panel(NAME).script, "glossary": glossary_script(),
            "looks": looks([panel(NAME)]),
        }  # fmt: skip
        self.look()
        self.widget = MonitorWidget(
            parts=parts, about=about, saved=self.token, state=watching.state(), looks=[*self.looks]
        )

    def __call__(self, loss) -> None:
        """A step is done, and its loss was so much. Raises ValueError where that is no number, or no step is left."""
        loss, step = float(loss), self.watching.step + 1
        if step > self.watching.steps:
            raise ValueError(f"monitor was told of {self.watching.steps} steps, and this is step {step}")
        if not math.isfinite(loss):
            raise ValueError(f"the loss of step {step} is {loss}: training diverged; try a lower learning rate")
        self.watching.note(step, loss, perf_counter() - self.began)
        if self.watching.due():
            self.look()
            self.send(self.watching.state())
        elif perf_counter() - self.sent > EVERY:
            self.send(self.watching.state())
        self.began = perf_counter()

    def look(self) -> None:
        """Look at the model as it is now."""
        ended(self.watching.looking())
        self.looks.append(self.watching.look)
        self.began = self.sent = perf_counter()

    def send(self, state: dict) -> None:
        """Show a state, and the looks with it."""
        with self.widget.hold_sync():
            self.widget.looks, self.widget.state = [*self.looks], state
        self.sent = perf_counter()

    def end(self, status: str, told: str) -> Shown:
        """The run is over: the last state is shown, and what the notebook keeps of all is given."""
        state = self.watching.state(status, told)
        self.send(state)
        state, title = state | {"looks": self.looks}, f"{panel(NAME).title}: {self.watching.name or 'a run'}"
        page = page_of({NAME: {"about": self.about, "states": [state]}})
        return Shown(None, kept(page, title, self.token, True), png(drawn(state)), title)


@contextmanager
def monitor(
    model, images, steps: int, *, name: str = "", settings: dict | None = None, codec=None, read: Callable | None = None
) -> Iterator[Monitor]:
    """The app's training panel under a cell, live while a loop of so many steps runs in it, and kept when it ends.

    `with monitor(average, images, steps) as watching:`, and then `watching(loss)` after each step, whoever makes it:
    the library's `train` or a loop of one's own. `model` is looked at, and should be the average of the weights
    that are trained; `images` are what it trains on, `codec` decodes its samples (None: they are pictures), `settings`
    are words by name, and `read(x: b c h w)` gives the label that each sample looks like.
    """
    watching = Watching(model, images, steps, name=name, settings=settings, codec=codec, read=read)
    about = f"A network learns from {len(images):,} pictures, looked at through its averaged weights."
    seen, status, told = Monitor(watching, about), "done", ""
    places = [f"{seen.token}-{part}" for part in ("still", "page")]
    for place in places:  # filled at the end: a cell's outputs stay in the order in which they came
        display({"text/plain": ""}, raw=True, display_id=place)
    display(seen.widget)
    try:
        yield seen
        status = "done" if watching.step == steps else "stopped"
    except KeyboardInterrupt:
        status = "stopped"
        raise
    except Exception as error:
        status, told = "failed", str(error) or type(error).__name__
        raise
    finally:
        for place, each in zip(places, seen.end(status, told).outputs(), strict=True):
            update_display(each.pop("obj"), display_id=place, **each)
