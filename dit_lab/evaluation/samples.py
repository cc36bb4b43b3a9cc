"""Labelled samples of a checkpoint in a folder, made batch by batch.

A batch's noise depends on the seed and the batch's number alone: a killed run goes on, and several processes share the
work, without changing a pixel.
"""

import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from einops import rearrange
from tqdm.auto import tqdm

from dit_lab.checkpoints.reading import listed
from dit_lab.data import Pixels
from dit_lab.diffusion import SAMPLERS, Process, Unusual, check_finite, check_walk, chosen, generate, process_of
from dit_lab.evaluation import adm
from dit_lab.files import check_fields, clear, make_folder, read_json, write_json
from dit_lab.models import DTYPES
from dit_lab.program import quoted

BATCH = 100
SETTINGS = "settings.json"
CODE = "compiled"  # whether it was, among the settings
PLAIN = re.compile(r"[\w./-]{1,40}")
OWN = r"batch-\d{6,}\.npz|settings\.json"  # files of samples, as a pattern of their names


@dataclass(frozen=True)
class Sampling(Unusual):
    """How samples are made. The same values give the same samples, however many processes make them."""

    count: int = 10_000
    """Pictures, of the classes 0, 1, 2 … in turn (published FIDs: 50,000)."""
    sampler: Literal[tuple(SAMPLERS)] | None = None
    """How to step (default: ddim)."""
    steps: int | tuple[int | float, ...] | None = None
    """Denoising steps (default: 50; the paper: 250 of ddpm), or the timesteps themselves, noisiest first."""
    cfg_scale: float = 1.0
    """Guidance; 1 is none."""
    cfg_channels: int | None = None
    """Guide only the first channels (the original: 3 of 4)."""
    cfg_interval: tuple[float, float] | None = None
    """Guide only between these two timesteps."""
    seed: int = 0
    """Fixes the noise of every batch."""
    batch_size: int = BATCH
    """Pictures at a time; fewer need less memory, and get other noise."""

    def __post_init__(self):
        """Raise ValueError on numbers that make no sense, and on ways of walking that need or exclude another."""
        for name, least in dict(count=1, batch_size=1, seed=0).items():
            if not least <= getattr(self, name) < 2**63:
                raise ValueError(f"{name} must be at least {least} and of 63 bits at most, not {getattr(self, name)}")
        self.check(self.cfg_scale)
        check_walk(self.steps)

    @property
    def passes(self) -> int:
        """Pictures that go through the model at a time: with guidance a batch goes twice."""
        return self.batch_size * (1 + (self.cfg_scale != 1))

    def settled(self, quality: str | None = None, process: Process | None = None, own=None) -> "Sampling":
        """With the sampler and steps of a quality (`chosen`), else those given, or 50 of DDIM; `own` is `chosen`'s.

        Raises ValueError where a quality is named and a sampler or steps are given too.
        """
        return replace(self, **chosen(quality, process, self.sampler, self.steps, own))

    def options(self, process: Process) -> dict:
        """The arguments of `sample` for a model of this process, but for the seed. Raises ValueError."""
        way = self.settled()
        plain = {name: getattr(way, name) for name in ("sampler", "cfg_scale", "cfg_channels", "cfg_interval")}
        return plain | {"steps": self.spaced(process, way.steps), "guide": self.guide}


@dataclass(frozen=True)
class Samples:
    """A checkpoint's pictures in a folder, one file a batch: iterating gives `(b h w 3 in uint8, labels: b)`."""

    folder: Path
    sampling: Sampling
    classes: int

    def __len__(self):
        return -(-self.sampling.count // self.sampling.batch_size)

    def __iter__(self):
        for number in range(len(self)):
            try:
                arrays = adm.read(self.path(number))
            except ValueError as error:
                if isinstance(error.__cause__, MemoryError | PermissionError):
                    raise  # the file may be whole
                raise ValueError(f"{error}; remove it, and the same command draws it again") from error
            yield arrays["arr_0"], arrays["arr_1"]

    def path(self, number: int) -> Path:
        """The file of a batch."""
        return self.folder / f"batch-{number:06}.npz"

    def versions(self) -> list[dict]:
        """The versions of dit_lab and its libraries that drew the batches, the first one's first."""
        return self.read()["drawn_with"]

    def drawn_in(self) -> str:
        """The precision of the batches that are there, as `fast` calls it; "auto" where there are none."""
        names = {str(dtype).removeprefix("torch."): name for name, dtype in DTYPES.items()}
        return names.get(str(self.told("precision")), "auto")

    def compiled(self) -> bool | None:
        """Whether compiled code drew the batches that are there; None where nothing says so, as in older folders."""
        drawn = self.told(CODE)
        return drawn if isinstance(drawn, bool) else None

    @property
    def begun(self) -> bool:
        """Whether batches are there: settings alone, of a run that ended before its first one, made nothing."""
        return any(self.folder.glob("batch-*.npz"))

    def told(self, name: str):
        """What the folder's settings say under a name; None where there are none."""
        return self.read().get(name) if (self.folder / SETTINGS).is_file() else None

    def labels(self, start: int, stop: int) -> np.ndarray:
        """Labels of pictures `start` to `stop`: the classes in turn, 0 without classes."""
        return np.arange(start, min(stop, self.sampling.count)) % max(self.classes, 1)

    def open(self, settings: dict, versions: dict) -> None:
        """Make the folder, or go on in it; `versions` are those that draw what is missing. Raises ValueError."""
        kept = self.kept(settings)
        make_folder(self.folder)
        clear(self.folder, OWN)
        drawn_with = kept.get("drawn_with", [])
        if versions not in drawn_with and not all(self.path(number).is_file() for number in range(len(self))):
            drawn_with.append(versions)
        write_json(self.folder / SETTINGS, {**settings, "drawn_with": drawn_with})

    def kept(self, settings: dict) -> dict:
        """What is kept of how the batches were made, if any are there. Raises ValueError unless by `settings`.

        Folders once did not say whether code was compiled: where one does not, that fits. Nor did they know of unusual
        ways, and were walked the usual one.
        """
        if not self.begun:
            return {}
        kept = self.read()
        there, settings = asdict(Unusual()) | kept, json.loads(json.dumps(settings))
        shown = lambda value: value if isinstance(value, str) and PLAIN.fullmatch(value) else quoted(value, 30)
        fits = lambda name: there.get(name) == settings[name] or name == CODE and there.get(name) is None
        changed = [f"{n} {shown(there.get(n))} (now {shown(now)})" for n, now in settings.items() if not fits(n)]
        if changed:
            raise ValueError(f"{self.folder} has samples of {listed(changed, 3)}; give --out another folder")
        return kept

    def read(self) -> dict:
        """How the batches that are there were made. Raises ValueError where nothing readable says so."""
        try:
            kept = {"drawn_with": []} | read_json(self.folder / SETTINGS)
            check_fields(kept, drawn_with=(is_versions, "the versions of libraries"))
            return kept
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{self.folder} has samples, but no readable {SETTINGS} that says how they were made; "
                "give --out another folder"
            ) from error

    def share(self, rank: int, processes: int) -> list[int]:
        """The batches of one process that are not there yet."""
        return [number for number in range(rank, len(self), processes) if not self.path(number).is_file()]

    def draw(self, model, codec, rank: int, processes: int) -> None:
        """Make this process's share of the batches that are not there yet."""
        size, share = self.sampling.batch_size, self.share(rank, processes)
        options = self.sampling.options(process_of(model.config))
        options["clip_x0"] = None if isinstance(codec, Pixels) else False  # latents have no bounds
        bar = tqdm(share, desc=f"samples, {size} a batch", unit="batch", mininterval=1, disable=rank > 0)
        for number in bar:
            labels = self.labels(number * size, (number + 1) * size)
            seed = np.random.SeedSequence([self.sampling.seed, number]).generate_state(1, np.uint64)[0]
            final = generate(model, labels.tolist(), seed=int(seed >> np.uint64(1)), **options)
            pictures = codec.decode(final).float()
            check_finite(f"batch {number}", final, pictures)
            pixels = ((pictures + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
            pixels = rearrange(pixels, "b c h w -> b h w c").cpu().numpy()
            adm.write(self.path(number), len(pixels), [(pixels, labels)])


def is_versions(value) -> bool:
    """Whether a value of JSON is a list of versions by name."""
    fits = lambda row: isinstance(row, dict) and all(isinstance(version, str) for version in row.values())
    return isinstance(value, list) and all(map(fits, value))


def draw(
    model, count: int, steps, cfg_scale: float, decode=lambda latents: latents, *, batch_size=BATCH, seed=0, **options
):
    """`count` samples with the labels 0, 1, 2 … in turn, batch k from seed `seed` + k: `-> (b c h w, b)`.

    `decode` makes pictures of what the model denoises, where those are not pictures yet; `options` are `sample`'s.
    """
    labels = torch.arange(count) % model.config.num_classes
    batches = tqdm(labels.split(batch_size), desc=f"{count} samples", unit="batch", mininterval=1)
    options = dict(steps=steps, cfg_scale=cfg_scale) | options
    one = lambda y, number: decode(generate(model, y.tolist(), seed=number, **options))
    return torch.cat([one(y, number) for number, y in enumerate(batches, seed)]).clamp(-1, 1), labels
