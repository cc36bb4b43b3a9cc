"""What a notebook shows, live and kept: panels that ask this kernel's model, frames to scrub, a loop that trains."""

from dit_lab.widgets.hosting import PanelWidget, show
from dit_lab.widgets.monitoring import Monitor, monitor
from dit_lab.widgets.scrubbing import scrub
from dit_lab.widgets.shown import Shown

__all__ = ["Monitor", "PanelWidget", "Shown", "monitor", "scrub", "show"]
