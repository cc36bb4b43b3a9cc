"""What all runs of an experiment share, and where they are kept."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from dit_lab.training import TrainOptions


@dataclass(frozen=True)
class Plan:
    """What all runs of an experiment share."""

    data: str = "ylecun/mnist"
    """Pictures to learn from and to judge by, a hub id or a local folder: its splits train and test, or a single one,
    of which a tenth is held back."""
    vae: str | None = None
    """Train on latents of this VAE (a name of the zoo, a hub id or a folder); samples are judged as pictures."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each trains every model once; it fixes weights, data order, noise, timesteps and dropped labels."""
    steps: tuple[int, ...] = (1500,)
    """Optimiser steps after which a model is judged; the last one ends its training."""
    batch_size: int = 32
    """Pictures a step."""
    lr: float = 1e-3
    """Learning rate of AdamW, after 100 steps of warm-up."""
    samples: int = 1000
    """Pictures drawn from each model, without guidance, for the agreement and the Fréchet distance, which takes 129."""
    sample_steps: int = 25
    """DDIM steps of those."""

    def options(self, steps: int, seed: int) -> TrainOptions:
        """A run's training, up to some of the steps; in fp32, since "auto" may find something else for each model."""
        return TrainOptions(
            steps=steps, batch_size=self.batch_size, lr=self.lr, warmup=100, ema_decay=0.998, save_every=250, seed=seed,
            precision="fp32",
        )  # fmt: skip

    @property
    def settings(self) -> dict:
        """What makes figures comparable, as JSON."""
        said = {name: value for name, value in asdict(self).items() if name not in ("data", "vae", "seeds")}
        names = {"data": last_part(self.data), "vae": self.vae and last_part(self.vae)}
        fixed = {"warmup": 100, "ema_decay": 0.998, "sampler": "ddim", "cfg_scale": 1.0}
        return json.loads(json.dumps({**names, **said, **fixed}))


def last_part(source: str) -> str:
    """`mnist` of a hub id or a folder that ends so: a result does not tell where it was made."""
    return source.rstrip("/").rpartition("/")[2]


@dataclass(frozen=True)
class Kept:
    """Where an experiment is kept."""

    out: Path
    """Folder for the checkpoints and the judge."""
    results: Path
    """The JSON to write; the page and the figure go beside it."""

    @classmethod
    def named(cls, name: str) -> "Kept":
        """Runs in `runs`, and results where those that ship are."""
        return cls(Path("runs") / name, Path("docs/results") / f"{name}.json")
