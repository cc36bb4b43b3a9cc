"""The views of `inside` that people click on: a folder a panel, one ES module each, the same in every host.

The app hosts them (`ui`), notebooks do (`widgets`), and `page` makes a file of them that needs neither.
"""

from dit_lab.panels.opened import Opened
from dit_lab.panels.panel import NAMES, Panel, Progress, asset, panel
from dit_lab.panels.saved import framed, looks, page, page_of

__all__ = ["NAMES", "Opened", "Panel", "Progress", "asset", "framed", "looks", "page", "page_of", "panel"]
