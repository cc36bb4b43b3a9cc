"""Panels as a piece of HTML with their data inside: for saved notebooks, books and files, with no model behind them."""

import html
import json

from dit_lab.panels.opened import Opened
from dit_lab.panels.panel import Panel, asset, panel
from dit_lab.panels.terms import glossary_script

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>{looks}
body {{ margin: 0; background: var(--lab-back); }}
.lab-page {{ display: grid; grid-template-columns: minmax(0, 1fr); gap: 16px; padding: 12px; }}</style>
</head>
<body class="lab-root"><main class="lab-page"></main>
<noscript>This page draws with JavaScript, which is switched off here. Nothing in it asks the network.</noscript>
<script type="application/json" id="lab-data">{data}</script>
<script type="module">{script}</script></body></html>
"""


def page(opened: Opened, *names: str, asked: dict[str, list[dict]] | None = None, place: dict | None = None) -> str:
    """A whole page of panels, one below the other, that needs no model, no server and no network.

    `asked` are requests by panel whose answers are put into it, such as the clicks that a lesson speaks of; others are
    refused with a sentence. `place` is where it opens: step, sample, patch, block, head, half. Raises ValueError on a
    panel that is not there, or a request that cannot be answered.
    """
    panels = [panel(name) for name in names]
    run = opened.run(*{0, (place or {}).get("sample", 0)})
    asked = {panel(name): requests for name, requests in (asked or {}).items()}
    answers = [
        {"panel": each.name, "request": request, "answer": each.asked(opened, request)}
        for each, requests in asked.items()
        for request in requests
    ]
    return page_of({each.name: each.data(opened) for each in panels}, run, place, answers)


def page_of(drawn: dict[str, dict], run: dict | None = None, place: dict | None = None, answers=()) -> str:
    """The same of what panels draw, by their names; without a `run` where they draw none. Raises ValueError."""
    panels = [panel(name) for name in drawn]
    data = {
        "run": run, "place": place or {}, "answers": list(answers), "lab": asset("lab.js"),
        "glossary": glossary_script(),
        "panels": [{"name": each.name, "title": each.title, "script": each.script, "data": drawn[each.name]}
                   for each in panels],
    }  # fmt: skip
    title, script = html.escape(", ".join(each.title for each in panels)), asset("around.js") + asset("saved.js")
    return PAGE.format(title=title, looks=looks(panels), data=inline(data), script=script)


def framed(page: str, title: str = "dit_lab", height: int = 560) -> str:
    """A page as an `<iframe>` to be put into another: its looks and scripts stay apart, and it grows to its height.

    `height` is what it takes before that, in pixels.
    """
    told = html.escape(title, quote=True)
    return (
        f'<iframe title="{told}" style="width:100%;height:{height}px;border:0;color-scheme:normal" '
        f'srcdoc="{html.escape(page, quote=True)}"></iframe>'
    )


def looks(panels: list[Panel]) -> str:
    """The style sheet of some panels."""
    return asset("lab.css") + asset("glossary.css") + "".join(each.looks for each in panels)


def inline(value) -> str:
    """JSON that can stand within a `<script>`: it holds no `<` that could end it."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
