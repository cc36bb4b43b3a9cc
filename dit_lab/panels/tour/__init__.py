"""The guided tour: short steps of prose that drive the page, each showing what it speaks of.

`steps.json` has them. A step has several `texts`, and the first whose `when` fits the run is told: of the run that the
app opens with, `opening`, numbers are told too, which the tests hold against the library. `place` is what `lab.set`
takes; a percentage there is one of all steps or blocks, and "middle" the patch in the middle.
"""

from functools import lru_cache

from dit_lab.files import json_object
from dit_lab.panels.panel import Panel, asset

__all__ = ["PANEL", "steps"]


@lru_cache(maxsize=1)
def steps() -> dict:
    """The tour as its panel takes it, of any run or none: `{opening, steps}`."""
    return json_object(asset("tour", "steps.json"))


PANEL = Panel("tour", "Guided tour", lambda opened: steps())
