"""The Gradio host: one component that carries the whole page, one server function behind it, and typed endpoints."""

import os
from importlib.resources import files

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr  # noqa: E402

from dit_lab.panels import asset, looks, panel  # noqa: E402
from dit_lab.panels.terms import glossary_script  # noqa: E402
from dit_lab.panels.tour import steps  # noqa: E402
from dit_lab.ui.endpoints import add_endpoints  # noqa: E402
from dit_lab.ui.safety import Hosts  # noqa: E402
from dit_lab.ui.workbench import Workbench  # noqa: E402

# The panels as tabs, in their order; the trajectory stands above them, and training comes last where it is on.
TABS = ("attention", "conditioning", "contributions", "whatif", "compare", "anatomy", "training")
PANELS = ("trajectory", *TABS, "tour")
PAGE = ("shell", "session", "settings", "address")  # the scripts of the page itself
# Turns the texts that came with the value into modules and starts the page: nothing is fetched, and there is no build.
START = """
const { modules, first, style } = JSON.parse(JSON.stringify(props.value));
// Not by launch(css=…): Gradio rewrites that, and loses what depends on a panel's own width.
document.head.append(Object.assign(document.createElement("style"), { textContent: style }));
const known = {};
const address = (name) => URL.createObjectURL(new Blob([modules[name]], { type: "text/javascript" }));
const load = (name) => (known[name] ??= import(address(name)));
load("shell").then(({ start }) => start({ element, call: (body) => server.call(body), load, first }))
  .catch((error) => { element.textContent = "The page could not start: " + error.message; throw error; });
"""


class Page(gr.Blocks):
    """What Gradio says of an endpoint that is given too little, as a sentence."""

    def validate_inputs(self, block_fn, inputs):
        if len(inputs) < len(block_fn.inputs):
            told = f"{block_fn.name} takes {len(block_fn.inputs)} values, and {len(inputs)} came."
            raise gr.Error(told, print_exception=False)


def build_app(workbench: Workbench, title: str = "dit_lab") -> gr.Blocks:
    """The page of a workbench."""

    def call(body):
        return workbench.call(body)

    with Page(title=title, analytics_enabled=False, fill_width=True) as app:
        gr.HTML(
            value={"modules": modules(), "first": begun(workbench), "style": style()},
            html_template="", js_on_load=START,
            server_functions=[call], apply_default_css=False, elem_id="lab", elem_classes=["lab-host"],
        )  # fmt: skip
        add_endpoints(workbench)
    return app.queue(max_size=16, api_open=False)  # what passed by it would be no 4xx where it fails


def begun(workbench: Workbench) -> dict:
    """What the page begins with."""
    tabs = [name for name in TABS if name != "training" or workbench.trains]
    titles = [{"name": name, "title": panel(name).title} for name in tabs]
    return workbench.first() | {"panels": titles, "tour": steps(), "hosted": {"training": panel("training").data(None)}}


def style() -> str:
    """The looks of the page and of all its panels, within Gradio's container, whose own rules then give way to them."""
    ours = looks([panel(name) for name in PANELS]) + of_page("page.css")
    return of_page("host.css") + ".gradio-container.gradio-container {" + ours + "}"


def of_page(name: str) -> str:
    """The text of a file of the page's own."""
    return files(__package__).joinpath("page", name).read_text("utf-8")


def modules() -> dict[str, str]:
    """The texts of all scripts, by the names that the page loads them by."""
    own = {name: of_page(f"{name}.js") for name in PAGE}
    panels = {f"panel:{name}": panel(name).script for name in PANELS}
    return {"lab": asset("lab.js"), "glossary": glossary_script(), **own, **panels}


def launch_options(host: str, share: bool = False) -> dict:
    """For `Blocks.launch`: the looks, in fonts that Gradio itself serves; nothing shared, fetched, or taken in."""
    theme = gr.themes.Base(
        # Not 600: the semi-bold that Gradio carries lacks half of the letters.
        font=[gr.themes.LocalFont("IBM Plex Sans", (400, 700)), "system-ui", "sans-serif"],
        font_mono=[gr.themes.LocalFont("IBM Plex Mono", (400,)), "ui-monospace", "monospace"],
    )  # fmt: skip
    closed = {"ssr_mode": False, "max_file_size": "1kb", "footer_links": [], "show_error": True}
    closed["max_threads"] = 160  # a page that is open waits for its news in one of them
    return {
        "theme": theme,
        "app_kwargs": {"middleware": Hosts.allowing("0.0.0.0" if share else host)},
        **closed,
    }


def ask_directly(host: str) -> None:
    """Have this process reach the app's own addresses without the proxy of its environment, which could not.

    Gradio asks itself, at `host`, whether it is there. All else, such as the hub, still goes through the proxy.
    """
    spared = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if spared != "*":
        os.environ["no_proxy"] = ",".join([*filter(None, [spared]), "localhost", "127.0.0.1", host.strip("[]")])
