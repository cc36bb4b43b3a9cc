"""What a run shows while it trains: a grid of samples of the averaged weights now and then, and curves."""

from dataclasses import asdict
from pathlib import Path

from dit_lab.data import open_codec, write_grid
from dit_lab.diffusion import generate
from dit_lab.files import clear, make_folder
from dit_lab.training.options import TrainOptions
from dit_lab.training.parallel import bare, processes
from dit_lab.training.state import TrainState
from dit_lab.training.trackers import Trackers

COUNT = 16
STEPS = 25
CFG_SCALE = 2.0
FOLDER = "samples"


class Board:
    """The pictures and curves of the run in `out`, which is continued from `step`; without a folder there are none."""

    def __init__(self, out: Path | None, images, options: TrainOptions, step: int):
        self.out, self.every = out, options.sample_every
        main = out is not None and processes().is_main_process
        if main:
            clear(out / FOLDER, r"step-\d{7,}\.png")  # what a killed run half wrote
        about = {"data": images.fingerprint, **asdict(options)} if main and options.tracker else {}
        self.trackers = Trackers(options.tracker if main else (), out, step, about)
        self.codec = open_codec(images.codec, channels=images.shape[0]) if main and self.every else None

    def due(self, step: int) -> bool:
        """Whether samples are to be drawn after this step."""
        return self.out is not None and self.every > 0 and step % self.every == 0

    def scalars(self, step: int, figures: dict[str, float]) -> None:
        """Add the figures of a line of the loss log."""
        self.trackers.scalars(step, figures)

    def close(self) -> None:
        """Have the trackers write or send what they have."""
        self.trackers.close()

    def samples(self, state: TrainState) -> None:
        """Draw the classes in turn with the first average, always from the same noise. Every process must ask."""
        config = bare(state.model).config
        labels = [number % max(config.num_classes, 1) for number in range(COUNT)]
        with state.showing(next(iter(state.averages))) as model:
            latents = generate(model, labels, steps=STEPS, cfg_scale=CFG_SCALE if config.null_label else 1.0)
        if not self.codec:
            return
        pictures = self.codec.decode(latents)
        make_folder(self.out / FOLDER)
        write_grid(self.out / FOLDER / f"step-{state.step:07}.png", pictures)
        self.trackers.pictures(state.step, pictures)
