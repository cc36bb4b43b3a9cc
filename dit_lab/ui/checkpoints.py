"""What an app serves: checkpoints by name, loaded when they are first wanted, and few of them in memory at a time."""

import gc
from collections import OrderedDict
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from weakref import WeakValueDictionary

import torch

from dit_lab.checkpoints import Told, load, zoo
from dit_lab.files import read_json
from dit_lab.inside import TraceError, Trajectory
from dit_lab.models import config_of
from dit_lab.panels import Opened
from dit_lab.program import quoted
from dit_lab.ui.served import Lent, Served

RUN = "run.safetensors"  # the run that is recorded beside a checkpoint of the zoo
KEPT_BYTES = 2**30  # of weights, where more than one checkpoint is in memory
EXACT, UNLIKE = 1e-4, 0.05  # of eps, by which a replay differs on another machine, and after half precision


class Checkpoints:
    """Checkpoints by the names that the page offers; `sources` maps a name to what `load` takes.

    One is kept in memory, and others as long as all take no more than `KEPT_BYTES`. What loads is called in the model's
    thread alone.
    """

    def __init__(
        self, sources: dict[str, str], told: Told, vae: str | None, device: torch.device, compile: bool = False
    ):
        self.sources, self.told, self.vae, self.device, self.compile = sources, told, vae, device, compile
        self.kept: OrderedDict[str, Served] = OrderedDict()
        self.alive: WeakValueDictionary[str, Served] = WeakValueDictionary()  # those that a run under way holds, too

    def names(self) -> list[dict]:
        """The chooser's entries."""
        own = [name for name in self.sources if name not in zoo()]
        groups = {name: "Yours" if name in own else "Zoo" for name in self.sources} if own else {}
        return [{"name": name, "title": name, "group": groups.get(name)} for name in self.sources]

    def check(self, name, made: dict[str, Served]) -> Served | None:
        """The checkpoint of a name if it is in memory, else None. Raises ValueError on a name that is not served."""
        if not isinstance(name, str) or name not in self.sources | made:
            raise ValueError(f"This app serves {', '.join([*self.sources, *made])}, not {quoted(name)}.")
        return made.get(name) or self.kept.get(name)

    def get(self, name: str, made: dict[str, Served] | None = None) -> Served:
        """A checkpoint, or one that a session `made`. Raises ValueError on a name that is not served, or was lost."""
        self.check(name, made or {})
        if name in (made or {}):
            return made[name]
        if name not in self.kept:
            self.make_room()
            self.kept[name] = self.alive.get(name) or self.load(name)
            self.alive[name] = self.kept[name]
        self.kept.move_to_end(name)
        self.make_room(keep=1)
        return self.kept[name]

    def load(self, name: str) -> Served:
        """Load a checkpoint. Raises ValueError, which names it as the page does: where it lies is nobody's business."""
        source = self.sources[name]
        try:
            loaded = load(source, device=self.device, **asdict(self.told))
        except ValueError as error:
            raise ValueError(str(error).replace(source, name)) from None
        return Served(name, loaded, self.vae, self.device, self.compile)

    def make_room(self, keep: int = 0) -> None:
        """Let go of those that were used longest ago, beyond what is kept."""
        before = len(self.kept)
        while len(self.kept) > keep and sum(served.bytes for served in self.kept.values()) > KEPT_BYTES:
            self.kept.popitem(last=False)
        if len(self.kept) < before:
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def opened(self, name: str, trajectory: Trajectory, made: dict[str, Served], decoded=None) -> Opened:
        """A run of a checkpoint, opened for the panels; `decoded` are pictures of x0 by sample. Raises ValueError."""

        def lend() -> Served:
            served = self.get(name, made)
            trajectory.check_model(served.model)  # its file may have been replaced meanwhile
            return served

        others = {other: partial(self.compared, other, made) for other in [*self.sources, *made]}
        return Lent(lend, trajectory, labels=lend().labels, source=name, decoded=decoded, others=others)

    def compared(self, name: str, made: dict[str, Served]) -> tuple:
        """A checkpoint's model, codec and labels."""
        served = self.get(name, made)
        return served.model, served.codec, served.labels

    def first(self, name: str) -> Opened | None:
        """The run that is recorded beside a checkpoint of the zoo, opened; None where there is none."""
        folder = zoo().get(self.sources.get(name))
        try:
            return self.opened(name, Trajectory.load(folder / RUN), {}) if folder else None
        except TraceError:
            return None

    def made_by(self, trajectory: Trajectory, made: dict[str, Served]) -> str | None:
        """The name of the checkpoint that says the most alike of a trajectory's step; None where none made it."""
        names = [*made, *reversed(self.kept), *(each for each in self.sources if each not in self.kept)]
        best, nearest = None, UNLIKE
        for name in names:
            if name in made or name in self.kept or self.may_be(name, trajectory):
                try:
                    unlike = unlikeness(trajectory, self.get(name, made).model)
                except ValueError:
                    continue
                if unlike <= nearest:
                    best, nearest = name, unlike
                if unlike <= EXACT:
                    break
        return best

    def may_be(self, name: str, trajectory: Trajectory) -> bool:
        """Whether a checkpoint may be a trajectory's, as far as can be told without its weights."""
        source = self.sources[name]
        try:
            there = config_of(read_json(Path(zoo().get(source, source)) / "config.json")["model"])
        except (ValueError, OSError, KeyError, TypeError):  # another format says it elsewhere
            return True
        try:
            trajectory.check_model(SimpleNamespace(config=there))
        except TraceError:
            return False
        return True


def unlikeness(trajectory: Trajectory, model) -> float:
    """How far a model's eps is, relatively, from a trajectory's at its middle. Raises TraceError on another config."""
    trajectory.check_model(model)
    step = len(trajectory.t) // 2
    try:
        said, (a, s) = trajectory.lens(model, step)[-1], trajectory.levels(step)
    except TraceError:  # a process of its own: the config has to do
        return UNLIKE
    x, x0 = trajectory.x[step, 0], trajectory.x0[step, 0]
    return (a * (said - x0).norm() / (x - a * x0).norm().clamp(min=1e-6 * s)).item()


def served(checkpoints, folders) -> dict[str, str]:
    """Checkpoints, and those in some folders, by the names that a page offers: `name -> what load takes`."""
    sources = {}
    for source in dict.fromkeys(checkpoints):
        name = source if source in zoo() else Path(source).name if Path(source).exists() else source
        sources[name if name not in sources else source] = source
    return sources | {name: path for name, path in found(folders).items() if name not in sources}


def found(folders) -> dict[str, str]:
    """The checkpoints in some folders, by name: files of weights, and folders that hold one. Raises ValueError."""
    sources = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise ValueError(f"--checkpoint-dir {folder} is no folder")
        there = [path for path in sorted(folder.iterdir()) if is_checkpoint(path)]
        if not there:
            raise ValueError(
                f"--checkpoint-dir {folder} holds no checkpoint: no .pt, no .safetensors, no folder of one"
            )
        sources |= {path.name: str(path) for path in there}
    return sources


def is_checkpoint(path: Path) -> bool:
    """Whether a path looks like one: it is opened when it is chosen, and says then what is wrong with it."""
    inside = ("model.safetensors", "model_index.json", "transformer")
    return path.suffix in (".pt", ".safetensors") if path.is_file() else any((path / name).exists() for name in inside)
