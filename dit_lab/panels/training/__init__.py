"""Training, watched: loss, samples from one noise, gates and a head's map while a small DiT learns digits.

The panel shows states (`Watching.state`), one after the other, of whoever trains: it trains nothing itself.
"""

from dit_lab.panels.opened import Opened
from dit_lab.panels.panel import Panel
from dit_lab.panels.training.settings import Settings, checked, form
from dit_lab.panels.training.still import drawn, still
from dit_lab.panels.training.watching import Watching, look_steps, recorded

__all__ = ["PANEL", "Settings", "Watching", "checked", "drawn", "look_steps", "recorded", "still"]


def data(opened: Opened | None = None, states: list[dict] = ()) -> dict:
    """The form, and the states of runs to show at first, as `recorded` gives them; no opened run plays a part."""
    return {"form": form(), "states": list(states)}


PANEL = Panel("training", "Train, watched", data)
