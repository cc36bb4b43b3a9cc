"""A run to take away: a film of its three pictures as GIF or MP4, its figure as SVG, and the trajectory itself."""

import io
import re
from base64 import b64encode
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from einops import repeat
from PIL import Image

from dit_lab.inside.plots import as_pictures, picture_table
from dit_lab.inside.plots.base import spread
from dit_lab.panels.opened import NOISE_REACH, Opened
from dit_lab.panels.panel import Progress

MOST_FRAMES = 150  # of a film, evenly over the steps
SECONDS, HELD = 4.0, 1.5  # from end to end, and how long the last frame stays
SIDE, GAP = 192, 8  # pixels: small pictures are magnified to about this many a side
STRIP = 8  # steps of the figure
MOST_BYTES = 2**27  # of a trajectory that a page takes away


def trajectory_bytes(opened: Opened) -> bytes:
    """The trajectory's file, which `Trajectory.load` reads. Raises ValueError where it is too large for a page."""
    run = opened.trajectory
    size = sum(tensor.numel() * tensor.element_size() for tensor in (run.x, run.x0, run.eps, run.sample))
    if size > MOST_BYTES:
        raise ValueError(f"This run has {size / 2**20:.0f} MiB: save it in Python, trajectory.save(path).")
    with TemporaryDirectory() as folder:
        run.save(path := Path(folder) / "run.safetensors")
        return path.read_bytes()


def figure(opened: Opened, sample: int):
    """x_t, predicted x0 and predicted noise in rows, some steps in columns, on the scales of the panel."""
    run = opened.trajectory
    steps = spread(len(run.t), STRIP)
    scale = "false colours" if opened.latent else f"{-NOISE_REACH:g} to {NOISE_REACH:g}"
    rows = {
        f"$x_t$\n({scale})": opened.shown(run.x[steps, sample]),
        "predicted $x_0$": opened.pictures(sample)[steps],
        f"predicted noise\n({scale})": opened.shown(run.eps[steps, sample]),
    }
    return picture_table(rows, [f"t = {run.t[step]:.4g}" for step in steps], opened.title())


def films(opened: Opened, sample: int) -> tuple[np.ndarray, float]:
    """x_t, predicted x0 and eps side by side at each step, `-> f h w 3` uint8, and frames a second."""
    run = opened.trajectory
    steps = spread(len(run.t), MOST_FRAMES)
    pictures = [
        opened.shown(run.x[steps, sample]),
        opened.pictures(sample)[steps],
        opened.shown(run.eps[steps, sample]),
    ]
    high = max(SIDE, *(picture.shape[-2] for picture in pictures))
    shown = [magnified(as_pictures(picture), high) for picture in pictures]
    high = min(picture.shape[1] for picture in shown)
    shown = [picture[:, :high] for picture in shown]
    gap = np.full((len(steps), high, GAP, 3), 255, np.uint8)
    film = np.concatenate([shown[0], gap, shown[1], gap, shown[2]], axis=2)
    return film[:, : high // 2 * 2, : film.shape[2] // 2 * 2], max(2.0, len(steps) / SECONDS)


def magnified(pictures: np.ndarray, high: int) -> np.ndarray:
    """Pictures whose pixels are repeated until they are about so high: `f h w 3 -> f h w 3`."""
    times = max(1, round(high / pictures.shape[1]))
    return repeat(pictures, "f h w c -> f (h p) (w q) c", p=times, q=times)


def gif(opened: Opened, sample: int) -> bytes:
    """The film as an animated GIF that begins again after its last frame was held."""
    film, rate = films(opened, sample)
    frames, buffer = [Image.fromarray(frame) for frame in film], io.BytesIO()
    times = [round(1000 / rate)] * (len(frames) - 1) + [round(1000 * HELD)]
    frames[0].save(buffer, "gif", save_all=True, append_images=frames[1:], duration=times, loop=0)
    return buffer.getvalue()


def mp4(opened: Opened, sample: int) -> bytes:
    """The film as H.264. Raises ValueError where ffmpeg is not there."""
    try:
        from imageio_ffmpeg import write_frames
    except ImportError:
        raise ValueError("A film needs ffmpeg: pip install imageio-ffmpeg. A GIF needs nothing more.") from None
    film, rate = films(opened, sample)
    film = np.concatenate([film, repeat(film[-1], "h w c -> f h w c", f=round(HELD * rate))])
    with TemporaryDirectory() as folder:
        path = Path(folder) / "run.mp4"
        writer = write_frames(str(path), film.shape[2:0:-1], fps=rate, macro_block_size=2, quality=8)
        writer.send(None)
        for frame in film:
            writer.send(np.ascontiguousarray(frame))
        writer.close()
        return path.read_bytes()


def svg(opened: Opened, sample: int) -> bytes:
    """The figure for print."""
    buffer = io.BytesIO()
    figure(opened, sample).savefig(buffer, format="svg")
    return buffer.getvalue()


# Ending, media type and maker of each.
FILES = {
    "gif": ("gif", "image/gif", gif),
    "mp4": ("mp4", "video/mp4", mp4),
    "svg": ("svg", "image/svg+xml", svg),
    "trajectory": ("safetensors", "application/octet-stream", lambda opened, sample: trajectory_bytes(opened)),
}


def download(opened: Opened, sample: int, kind: str):
    """A file as a page takes it, `{name, mime, data}` with its bytes in base64; yields while pictures are decoded."""
    ending, mime, make = FILES[kind]
    if kind != "trajectory":
        for done in opened.decoding(sample):
            yield Progress(done, len(opened.trajectory.t), "Decoding its pictures")
        yield Progress(0, 1, "Writing the file")
    data = b64encode(make(opened, sample)).decode()
    return {"name": f"{stem(opened, sample)}.{ending}", "mime": mime, "data": data}


def stem(opened: Opened, sample: int) -> str:
    """A file's name, from what made the run."""
    of = f"-sample-{sample + 1}" if len(opened.trajectory.labels) > 1 else ""
    seed = opened.trajectory.options["seed"]
    named = re.sub(r"[^A-Za-z0-9_]+", "-", str(opened.source))[:40].strip("-") or "run"
    return named + ("" if seed is None else f"-seed-{seed}") + of
