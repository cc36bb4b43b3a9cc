"""Frames that were made before, to be scrubbed: core ipywidgets that are linked in the browser, and a page for later.

All frames are sent once; a slider then swaps them without asking the kernel, which may be busy, or gone.
"""

import html
import secrets
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from string import Template

import ipywidgets
import numpy as np
from PIL import Image

from dit_lab.panels import asset
from dit_lab.panels.saved import inline
from dit_lab.program import quoted
from dit_lab.widgets.pictures import encode, enlarged, picture, still_of
from dit_lab.widgets.shown import UNSEEN, Shown, kept, text

PLAYED = 4000  # milliseconds that playing all frames takes, where a frame's share is neither too short nor too long
SHORTEST, LONGEST = 80, 700


class Explorer(ipywidgets.VBox):
    """The live view: sliders over stacks of pictures."""

    def __repr__(self) -> str:
        return UNSEEN


def scrub(frames: Mapping, title: str, *, along="step", at=None) -> Shown:
    """Frames by label, with a slider: `{0: frame, 1: frame}`, or `{(0, "flow"): frame}` along `("step", "schedule")`.

    A frame is a Matplotlib figure (which is closed), an array `h w` or `h w 3` in [0, 1] or uint8, or a tensor `c h w`
    in [-1, 1]; all are of one size, and small ones are enlarged. It opens at the label `at` (None: the last), which is
    also what the still shows. Raises ValueError on an empty mapping, a combination of labels that is missing, frames
    of different size, and an `at` that is not there.
    """
    names = (along,) if isinstance(along, str) else tuple(along)
    labels = axes_of(frames, names)
    wanted = list(product(*labels))
    at = wanted[-1] if at is None else at if isinstance(at, tuple) else (at,)
    if at not in wanted:
        raise ValueError(f"scrub has no frame at {told(names, at)}; {there(names, labels)}")
    by_label = {label if isinstance(label, tuple) else (label,): frame for label, frame in frames.items()}
    pictures = {label: picture(by_label[label], told(names, label)) for label in wanted}
    check_sizes(names, pictures)
    opened, token = enlarged(pictures[at]), secrets.token_hex(8)
    made = Frames(
        title, names, [[*map(name_of, options)] for options in labels],
        [options.index(label) for options, label in zip(labels, at, strict=True)],
        encode([*map(enlarged, pictures.values())]), opened.width,
    )  # fmt: skip
    still = still_of(opened, title, f"{told(names, at)}, one of {len(wanted)} frames")
    return Shown(made.live(token), kept(made.page(), title, token, True), still, title)


# ---- What is asked for


def axes_of(frames: Mapping, names: tuple) -> list[list]:
    """The labels along each axis, in the order in which they come. Raises ValueError where the frames fill no grid."""
    if not isinstance(frames, Mapping) or not frames:
        raise ValueError(f"scrub wants frames by label, such as {{0: frame, 1: frame}}, not {quoted(frames)}")
    given = [label if isinstance(label, tuple) else (label,) for label in frames]
    for label in given:
        if len(label) != len(names):
            raise ValueError(f"a frame's label {quoted(label)} must have {len(names)} parts, {', '.join(names)}")
    labels = [list(dict.fromkeys(column)) for column in zip(*given, strict=True)]
    if missing := [label for label in product(*labels) if label not in set(given)]:
        raise ValueError(
            f"scrub has no frame at {told(names, missing[0])}, and wants one at every combination of "
            f"{' and '.join(names)}: {len(missing)} of {len(given) + len(missing)} are missing"
        )
    return labels


def check_sizes(names: tuple, pictures: dict[tuple, Image.Image]) -> None:
    """Raises ValueError where pictures, by their labels, are not of one size."""
    (first, one), *rest = pictures.items()
    for label, other in rest:
        if other.size != one.size:
            size, another = ("{} x {}".format(*each.size) for each in (one, other))
            raise ValueError(
                f"scrub's frames must be of one size: at {told(names, first)} it is {size} pixels, width x height, "
                f"at {told(names, label)} it is {another}"
            )


def name_of(label) -> str:
    """A label as it is read: whole numbers as they are, others to four digits."""
    if isinstance(label, str):
        return label
    number = label.item() if isinstance(label, np.generic) else label
    return f"{number:.4g}" if isinstance(number, float) else str(number)


def told(names: tuple, label: tuple) -> str:
    """A combination of labels in words: `step 3, scale 2`."""
    return ", ".join(f"{name} {name_of(each)}" for name, each in zip(names, label, strict=False)) or quoted(label)


def there(names: tuple, labels: list[list]) -> str:
    """Which labels there are, shortened."""
    few = lambda options: ", ".join(map(name_of, options if len(options) < 9 else [*options[:4], "...", options[-1]]))
    return "; ".join(f"{name} is one of {few(options)}" for name, options in zip(names, labels, strict=True))


# ---- The two that scrub


@dataclass(frozen=True)
class Frames:
    """Encoded frames in the order of their labels, the last axis fastest; `place` is where they open on each axis."""

    title: str
    names: tuple
    labels: list[list[str]]
    place: list[int]
    encoded: list[bytes]
    width: int

    @property
    def pause(self) -> int:
        """Milliseconds from a frame to the next while it plays."""
        return max(SHORTEST, min(LONGEST, PLAYED // len(self.labels[0])))

    def page(self) -> str:
        """A whole page that needs no kernel and no network: a range input an axis."""
        uris = [f"data:image/webp;base64,{b64encode(each).decode()}" for each in self.encoded]
        data = {
            "along": self.names, "labels": self.labels, "frames": uris, "place": self.place, "pause": self.pause,
        }  # fmt: skip
        return Template(text("scrub.html")).substitute(
            title=html.escape(self.title), looks=asset("lab.css") + text("scrub.css"), data=inline(data),
            script=asset("around.js") + text("scrub.js"),
        )  # fmt: skip

    def live(self, token: str) -> Explorer:
        """The same of core widgets, linked in the browser."""
        sliders = self.sliders()
        play = ipywidgets.Play(
            min=0, max=len(self.labels[0]) - 1, value=self.place[0], interval=self.pause, layout={"flex": "0 0 auto"}
        )
        ipywidgets.jslink((play, "value"), (sliders[0], "index"))
        rows = [
            ipywidgets.HBox(each, layout={"flex_flow": "row wrap", "max_width": "640px", "grid_gap": "0 12px"})
            for each in ([sliders[0], play], *([slider] for slider in sliders[1:]))
        ]
        longest = max(map(len, sum(self.labels, [])))
        looks = f"{text('scrub.css')} .lab-live-{token} .widget-readout {{ width: auto; min-width: {longest}ch; }}"
        head = ipywidgets.HTML(f"<style>{looks}</style><b>{html.escape(self.title)}</b>")
        explorer = Explorer([head, *rows, self.stacked(sliders)])
        return explorer.add_class("lab-scrub").add_class(f"lab-live-{token}")

    def sliders(self) -> list:
        """A slider an axis, with the label that it stands at."""
        style = {"description_width": f"{1 + max(map(len, self.names))}ch"}
        return [
            ipywidgets.SelectionSlider(
                options=options, index=index, description=name, style=style, layout={"flex": "1 1 220px"}
            )
            for name, options, index in zip(self.names, self.labels, self.place, strict=True)
        ]

    def stacked(self, sliders: list):
        """The pictures in stacks of stacks, of which the sliders choose."""
        layout = ipywidgets.Layout(max_width="100%", width=f"{self.width}px")
        images = (ipywidgets.Image(value=each, format="webp", layout=layout) for each in self.encoded)

        def stack(axis: int):
            if axis == len(sliders):
                return next(images)
            made = ipywidgets.Stack([stack(axis + 1) for _ in self.labels[axis]], selected_index=self.place[axis])
            ipywidgets.jslink((sliders[axis], "index"), (made, "selected_index"))
            return made

        return stack(0)
