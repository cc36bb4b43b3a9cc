"""`python -m dit_lab.zoo.record`: a run of each zoo checkpoint, which the app shows before anything has run.

It is the one that the app's Sample makes with the settings it begins with, recorded: class 7, seed 0.
"""

from pathlib import Path

from dit_lab.checkpoints import load, zoo
from dit_lab.data import Pixels, codec_of
from dit_lab.diffusion import process_of, quality
from dit_lab.files import writable
from dit_lab.inside import record
from dit_lab.program import run

RUN = "run.safetensors"


def record_command(names: tuple[str, ...] = (), /, *, label: int = 7, seed: int = 0, cfg_scale: float = 2.0) -> None:
    """Record a run of zoo checkpoints and keep it beside them, as `run.safetensors`.

    Args:
        names: Of the zoo (default: all).
        label: The class to draw.
        seed: Of the noise.
        cfg_scale: Guidance.
    """
    places = zoo()
    if unknown := [name for name in names if name not in places]:
        raise ValueError(f"the zoo has {', '.join(places)}, not {unknown[0]}")
    for name in names or sorted(places):
        path = Path(places[name]) / RUN
        writable(path)
        loaded = load(name)
        clip = None if isinstance(codec_of(loaded), Pixels) else False
        good = quality("good", process_of(loaded.config), loaded.qualities)
        record(loaded.model, [label], **good, cfg_scale=cfg_scale, seed=seed, clip_x0=clip).save(path)
        print(f"{path}: {path.stat().st_size / 1e3:.0f} kB", flush=True)


if __name__ == "__main__":
    run(record_command, "dit_lab.zoo.record")
