"""What a panel is: a folder with an ES module, its looks, and the functions that make what it draws."""

from collections.abc import Callable, Generator
from importlib import import_module
from importlib.resources import files
from typing import NamedTuple

from dit_lab.inside.walking import ended
from dit_lab.panels.opened import Opened
from dit_lab.program import quoted

# In the order in which a page shows them.
NAMES = ("trajectory", "attention", "conditioning", "contributions", "whatif", "compare", "anatomy", "training", "tour")


class Panel(NamedTuple):
    """One view of a run, the same in every host.

    `panel.js` beside it exports `mount({ element, data, send, lab })`, which draws and gives `{ update(data),
    destroy() }`; `panel.css` holds its looks. `data(opened)` is what it draws at first, plain JSON with packed arrays,
    cheap enough to be made for every run. `answer(opened, request)` answers `send(request)`: JSON again, or a generator
    that yields `Progress` while it works and returns the answer. Both raise ValueError with a sentence. `still(opened,
    **place)` is the same view as a Matplotlib figure, for paper and for pages without scripts.
    """

    name: str
    title: str
    data: Callable
    answer: Callable | None = None
    still: Callable | None = None

    @property
    def script(self) -> str:
        return asset(self.name, "panel.js")

    @property
    def looks(self) -> str:
        return asset(self.name, "panel.css")

    def ask(self, opened: Opened, request) -> dict | Generator:
        """The answer of a request, or the generator that comes to it. Raises ValueError on what is no request."""
        if self.answer is None or not isinstance(request, dict):
            raise ValueError(f"The panel {self.name} answers no such request: {quoted(request)}.")
        return self.answer(opened, request)

    def asked(self, opened: Opened, request) -> dict:
        """The answer of a request to its end, for whoever does not show progress. Raises ValueError."""
        answer = self.ask(opened, request)
        return answer if isinstance(answer, dict) else ended(answer)


class Progress(NamedTuple):
    """How far a long answer has come: `done` of `total` parts, and what is being done."""

    done: int
    total: int
    told: str = ""


def panel(name: str) -> Panel:
    """The panel of a name. Raises ValueError, naming those that there are."""
    if name not in NAMES:
        raise ValueError(f"there is no panel {quoted(name)}; there are {', '.join(NAMES)}")
    return import_module(f"dit_lab.panels.{name}").PANEL


def asset(*path: str) -> str:
    """The text of a file of this wing."""
    return files(__package__).joinpath(*path).read_text(encoding="utf-8")
