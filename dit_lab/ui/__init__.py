"""The app's page, one panel a file: a script and a piece of HTML each, laid out and wired here."""

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr  # noqa: E402

from dit_lab.ui.assets import asset, panel  # noqa: E402
from dit_lab.ui.controls import controls  # noqa: E402
from dit_lab.ui.studio import Studio  # noqa: E402

__all__ = ["ask_directly", "build_app", "launch_options"]

# Runs of a session are dropped an hour after they were made.
KEEP_SECONDS = 3600
MODEL_WORK = {"concurrency_id": "model", "concurrency_limit": 1, "show_progress": "hidden", "api_visibility": "private"}


def ask_directly(host: str) -> None:
    """Have this process reach the app's own addresses without the proxy of its environment, which could not.

    Gradio asks itself, at `host`, whether it is there. All else, such as the hub, still goes through the proxy.
    """
    spared = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if spared != "*":
        os.environ["no_proxy"] = ",".join([*filter(None, [spared]), "localhost", "127.0.0.1", host.strip("[]")])


def launch_options() -> dict:
    """For `Blocks.launch`: the looks, in fonts that Gradio itself serves; nothing shared, fetched, or taken in."""
    theme = gr.themes.Base(
        primary_hue="indigo", neutral_hue="slate", radius_size="lg",
        # Not 600: the semi-bold that Gradio carries lacks half of the letters.
        font=[gr.themes.LocalFont("IBM Plex Sans", (400, 700)), "system-ui", "sans-serif"],
        font_mono=[gr.themes.LocalFont("IBM Plex Mono", (400,)), "ui-monospace", "monospace"],
    )  # fmt: skip
    # Gradio's own grey is too pale to read in the light.
    theme.set(body_text_color_subdued="*neutral_500", block_info_text_color="*neutral_500")
    closed = {"share": False, "ssr_mode": False, "max_file_size": "1kb", "footer_links": []}
    return {"theme": theme, "css": asset("style.css"), **closed}


def build_app(loaded, codec, others=()) -> gr.Blocks:
    """The page for a loaded checkpoint (of `dit_lab.checkpoints.load`) and its codec (of `open_codec`).

    `others` are more such pairs, a page each, which sample when they are first shown.
    """
    with gr.Blocks(title="dit_lab", analytics_enabled=False, fill_width=True) as app:
        if others:
            gr.Navbar(main_page_name=loaded.source)
        studio = Studio(loaded, codec)
        page(studio, *studio.opening())
    for other in others:
        with app.route(other[0].source):
            gr.Navbar(main_page_name=loaded.source)
            run, inputs, outputs = page(Studio(*other))
            app.load(run, inputs, outputs, **MODEL_WORK)
    return app.queue(max_size=16)


def page(studio: Studio, kept=None, trajectory=None, modulation=None, attention=None):
    """Lay out a model's page, with a finished run to begin with; returns what samples, its inputs and its outputs."""
    panel("header", studio.about())
    state = gr.State(kept, time_to_live=KEEP_SECONDS)
    with gr.Row(elem_id="workbench"):
        with gr.Column(scale=1, min_width=280, elem_id="controls"):
            chosen = controls(studio.config, studio.labels)
        with gr.Column(scale=4, min_width=320, elem_id="panels"):
            frames = panel("trajectory", trajectory)
            attended = panel("attention", attention)
            modulated = panel("modulation", modulation)
    outputs = [state, frames, modulated]
    run = gr.on(
        [chosen.start.click, chosen.seed.submit],
        studio.sample, chosen.inputs, outputs, trigger_mode="once", **MODEL_WORK,
    )  # fmt: skip
    chosen.stop.click(stopped, outputs=frames, cancels=[run], queue=False, api_visibility="private")
    for clicked in (frames, attended):
        clicked.click(studio.attend, state, attended, **MODEL_WORK)
    return studio.sample, chosen.inputs, outputs


def stopped() -> dict:
    """What the trajectory panel is told when a run is cancelled: show the last finished one again."""
    return {"kind": "stopped"}
