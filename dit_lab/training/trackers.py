"""Where a run is watched from outside: TensorBoard and Weights & Biases, each through accelerate's tracker of it."""

from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from einops import rearrange

from dit_lab.checkpoints.reading import first_line

PROJECT = "dit_lab"  # of Weights & Biases, where a run is named after its folder
LOGIN = "log in (wandb login), or set WANDB_MODE=offline and send it later (wandb sync)"


def check_trackers(names: tuple[str, ...]) -> None:
    """Raise ValueError where a tracker's package is not installed, or accelerate, through which it is called."""
    lacking = [name for name in (*names, *["accelerate"][: len(names)]) if find_spec(name) is None]
    if lacking:
        packages = " and ".join(lacking)
        raise ValueError(
            f"--tracker {' '.join(names)} needs {packages}, not installed here: pip install {' '.join(lacking)}"
        )


class Trackers:
    """The trackers of the run in `out`, which goes on after `step`; `about` is what the run is, by name.

    Raises ValueError where one does not start.
    """

    def __init__(self, names: tuple[str, ...], out: Path, step: int, about: dict):
        self.started = [started(name, out, step, about) for name in names]

    def scalars(self, step: int, figures: dict[str, float]) -> None:
        """Add figures by name."""
        for tracker in self.started:
            tracker.log(figures, step=step)

    def pictures(self, step: int, pictures: torch.Tensor) -> None:
        """Add samples: `b c h w` in [-1, 1]."""
        pixels = rearrange((pictures.clamp(-1, 1) + 1) * 127.5, "b c h w -> b h w c").round().byte().cpu().numpy()
        for tracker in self.started:
            tracker.log_images({"samples": pixels}, step=step, **SHAPED.get(tracker.name, {}))

    def close(self) -> None:
        """Have all that was added written or sent."""
        for tracker in self.started:
            tracker.finish()


SHAPED = {"tensorboard": {"dataformats": "NHWC"}}


def started(name: str, out: Path, step: int, about: dict):
    """One of accelerate's trackers at work. Raises ValueError that says why it does not start."""
    from accelerate.tracking import TensorBoardTracker, WandBTracker  # here: seconds, which not every run wants to wait

    whose = dict(dir=str(out), name=out.resolve().name, config=about, id=before(out), resume="allow")
    kinds = {
        # What a killed run wrote after `step` is left out of the curves.
        "tensorboard": partial(TensorBoardTracker, "tensorboard", out, purge_step=step + 1),
        "wandb": partial(WandBTracker, PROJECT, **whose),
    }
    tracker = kinds[name]()
    try:
        tracker.start()
    except Exception as error:  # a service's client fails in its own ways: no account, no network, no disk
        advice = f"; {LOGIN}" if name == "wandb" else ""
        raise ValueError(f"--tracker {name} did not start: {first_line(error)}{advice}") from error
    return tracker


def before(out: Path) -> str | None:
    """What Weights & Biases called the run in a folder when it was last at work, so that its curves go on."""
    runs = sorted(out.glob("wandb/*run-*-*"), key=lambda run: run.stat().st_mtime)
    return runs[-1].name.rpartition("-")[2] if runs else None
