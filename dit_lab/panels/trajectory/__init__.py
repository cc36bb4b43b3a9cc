"""The trajectory: the frames of every step under one time bar, which all panels follow, with curves and spectra."""

from dit_lab.data import Autoencoder
from dit_lab.data.previews import FalseColours, LinearPreview
from dit_lab.inside.walking import ended
from dit_lab.panels.asking import choice
from dit_lab.panels.opened import Opened
from dit_lab.panels.panel import Panel
from dit_lab.panels.trajectory.downloads import FILES, download, figure, trajectory_bytes
from dit_lab.panels.trajectory.numbers import numbers
from dit_lab.panels.trajectory.pictures import channels, final_pictures, frames, guidance, preview

__all__ = ["PANEL", "preview", "trajectory_bytes"]

# What made the pictures of predicted x0, for the words beneath them.
MADE_BY = {Autoencoder: "vae", LinearPreview: "approximate", FalseColours: "false"}


def data(opened: Opened) -> dict:
    """How pictures were made, the first sample's numbers, and what a batch ended with unless a VAE has to decode it."""
    codec = MADE_BY.get(type(opened.codec), "false" if opened.latent else "pixels")
    batch = len(opened.trajectory.labels) > 1 and codec != "vae"
    finals = ended(final_pictures(opened))["finals"] if batch else None
    return {"run": opened.id, "codec": codec, "numbers": numbers(opened, 0), "finals": finals}


def answer(opened: Opened, request: dict):
    """The frames and numbers of a sample, `{sample}`; or what else there is to be had of it.

    `{sample, channels: "x"}` is each channel of x_t, x0 or eps apart, `{sample, guidance: true}` what the label changes
    in eps, `{sample, download: "gif"}` a file; `{finals: true}` what every sample ended with. Raises ValueError.
    """
    if request.get("finals"):
        return opened.answering("finals", lambda: final_pictures(opened))
    sample = opened.placed(request, "sample")["sample"]
    if request.get("guidance"):
        opened.asked(request, "sample")
        if "uncond" not in opened.halves():
            raise ValueError("This model has no null label, so no pass without the label to take a difference to.")
        return opened.answering(("guidance", sample), lambda: guidance(opened, sample))
    if "channels" in request:
        kind = choice("Channels", request["channels"], ("x", "x0", "eps"))
        return opened.once(("channels", sample, kind), lambda: channels(opened, sample, kind))
    if "download" in request:
        return download(opened, sample, choice("Download", request["download"], FILES))
    return opened.answering(("frames", sample), lambda: frames(opened, sample))


def still(opened: Opened, *, sample: int = 0, **place):
    """A few steps side by side."""
    return figure(opened, sample)


PANEL = Panel("trajectory", "From noise to picture", data, answer, still)
