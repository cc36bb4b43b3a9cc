"""Models compared: each trained on the same pictures in the same order with the same noise, judged alike, and kept.

A run is a model's name and a seed. What is done is kept: killed or run again, an experiment goes on where it was.
"""

import json
import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import torch
import tyro
from torch import nn

from dit_lab.checkpoints import load
from dit_lab.checkpoints.reading import listed
from dit_lab.data import Images, Latents
from dit_lab.experiments.judge import Judge
from dit_lab.experiments.kept import check_settings, log_of, read_judged, read_results
from dit_lab.experiments.page import Part, save_figure, sections, write_page
from dit_lab.experiments.plan import Kept, Plan
from dit_lab.files import make_folder, writable, write_json
from dit_lab.models import Config, build, count
from dit_lab.training import TrainOptions, train
from dit_lab.training.folder import can_resume
from dit_lab.training.following import follow
from dit_lab.training.lock import hold

JUDGED = "judged.json"
TRAINING_STEPS_MEANT = 100  # the training loss is the mean of so many last steps


@dataclass(frozen=True)
class Experiment(ABC):
    """Which models an experiment compares, and how what came out is told: a subclass, whose fields are its options.

    `name` is its command's, `title` its page's, and `files` that of its folder of runs and of its results; `further`
    are the names of parts that it may have besides, each with a figure of its own.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    files: ClassVar[str]
    further: ClassVar[tuple[str, ...]] = ()

    size: int | None = None
    """The pictures' side (default: as they are)."""

    @abstractmethod
    def configs(self, images: Images | Latents) -> dict[str, Config]:
        """The models by name, for a data set, in the order in which they are trained."""

    @staticmethod
    @abstractmethod
    def markdown(table: dict) -> str:
        """The results as a table, with what a reader must know beside it."""

    @staticmethod
    @abstractmethod
    def figure(table: dict):
        """The results as a figure of Matplotlib."""

    @property
    def settings(self) -> dict:
        """Those of its options that make runs comparable."""
        return asdict(self)

    def check(self, plan: Plan) -> None:  # noqa: B027
        """Raise ValueError, before any work, on options that cannot be carried out."""

    def measure_more(self, table: dict, plan: Plan, judge: Judge, kept: Kept) -> None:  # noqa: B027
        """What the further parts need of the trained models: put into the table, and written as it comes."""

    @staticmethod
    def parts(table: dict) -> dict[str, Part]:
        """Those of the further parts that the table has something of, by name."""
        return {}

    @classmethod
    def command(cls) -> str:
        """What carries it out, as the page says it."""
        return f"python -m dit_lab experiment {cls.name}"


def command_of(kind: type[Experiment], plan: Plan = Plan()) -> Callable:  # noqa: B008
    """The typed function that is an experiment's command: its options, `plan` for what all runs share, and where."""
    flat = tyro.conf.arg(name="")

    def command(
        models: Annotated[kind, flat] = kind(),  # noqa: B008
        plan: Annotated[Plan, flat] = plan,
        kept: Annotated[Kept, flat] = Kept.named(kind.files),  # noqa: B008
    ) -> None:
        carry_out(models, plan, kept)

    command.__doc__ = f"{kind.__doc__}\n\nTrained and judged with every seed, told as JSON, a page and figures."
    return command


def carry_out(models: Experiment, plan: Plan, kept: Kept) -> dict:
    """Train and judge what is not yet, and write the figures and the page. Returns the results."""
    models.check(plan)
    figure, page = kept.results.with_suffix(".png"), kept.results.with_suffix(".md")
    further = {name: kept.results.with_name(f"{kept.results.stem}_{name}.png") for name in models.further}
    writable(kept.results, figure, page, *further.values())
    with hold(kept.out, "experiment"):
        table = compared(models, plan, kept)
        parts = models.parts(table)
        save_figure(models.figure(table), figure)
        for name, part in parts.items():
            save_figure(part.figure, further[name])
        written = models.markdown(table) + sections(parts, kept.results.stem)
        write_page(page, models.title, models.command(), written)
        return table


def compared(models: Experiment, plan: Plan, kept: Kept) -> dict:
    """Train and judge every model with every seed, and write what came out as JSON, after each run. Returns it.

    Raises ValueError where there are results already that were made with other settings.
    """
    judge = Judge(plan, models.size, kept.out)
    table = opened(kept.results, json.loads(json.dumps(models.settings | plan.settings)), judge)
    for seed in plan.seeds:
        for name, config in models.configs(judge.train).items():
            if any(row["model"] == name and row["seed"] == seed for row in table["runs"]):
                continue
            print(f"{name}, seed {seed}", flush=True)
            row = one_run(config, seed, plan, judge, folder_of(kept.out, name, seed))
            table["runs"].append({"model": name, "seed": seed, **row})
            make_folder(kept.results.parent)
            write_json(kept.results, table)
    models.measure_more(table, plan, judge, kept)
    return table


def opened(results: Path, settings: dict, judge: Judge) -> dict:
    """The table so far. Raises ValueError when it was made with other settings."""
    if not results.is_file():
        return {"settings": settings | judge.about(), "runs": []}
    table = read_results(results)
    check_settings(results, table["settings"], settings)
    return table


def one_run(config: Config, seed: int, plan: Plan, judge: Judge, folder: Path) -> dict:
    """Train a model and judge it after each of the plan's steps; what was judged before is not judged again."""
    made = made_of(config, seed, plan)
    curve = judged_before(kept := folder / JUDGED, made)
    for steps in plan.steps[len(curve) :]:
        start = time.perf_counter()
        loss = trained(config, judge.train, plan.options(steps, seed), folder)
        figures = judge.figures(load(folder).model)
        curve.append({"step": steps, "train_loss": loss, **figures, "seconds": time.perf_counter() - start})
        write_json(kept, {"made": made, "curve": curve})
    counted = count(config)
    tokens = math.prod(side // config.stages[0].patch for side in config.size)
    return {
        "parameters": counted.params, "macs": counted.macs, "tokens": tokens, **curve[-1],
        "seconds": sum(figures["seconds"] for figures in curve),
        "curve": curve, "losses": [[line["step"], line["mse"]] for line in log_of(folder)],
    }  # fmt: skip


def finished(config: Config, name: str, seed: int, plan: Plan, kept: Kept) -> nn.Module:
    """The model of a run that was judged to its end. Raises ValueError where there is none, or that of another run."""
    folder = folder_of(kept.out, name, seed)
    if len(judged_before(folder / JUDGED, made_of(config, seed, plan))) < len(plan.steps):
        raise ValueError(
            f"{kept.results} tells of {name}, seed {seed}, but its run is not in {folder}; give --out the folder that "
            "has it, or --results another name"
        )
    return load(folder).model


def made_of(config: Config, seed: int, plan: Plan) -> dict:
    """How a run is made, as it is read again."""
    return json.loads(json.dumps({"model": config.as_json(), "seed": seed, **plan.settings}))


def judged_before(kept: Path, made: dict) -> list[dict]:
    """A run's judgements so far. Raises ValueError when they are of another model, or made in another way."""
    if not kept.is_file():
        return []
    before = read_judged(kept)
    if changed := [name for name in made if before["made"].get(name) != made[name]]:
        raise ValueError(f"{kept.parent} holds a run with another {listed(changed)}; give --out another folder")
    return before["curve"]


def trained(config: Config, images, options: TrainOptions, folder: Path) -> float:
    """Train a model, or go on with it; leaves the program where it is stopped. Returns the last training loss."""
    torch.manual_seed(options.seed)
    steps = train(build(config), images, options, out=folder, resume=can_resume(folder))
    if stopped := follow(steps, options.steps):
        sys.exit(128 + stopped)
    last = [line["loss"] for line in log_of(folder) if line["step"] > options.steps - TRAINING_STEPS_MEANT]
    return sum(last) / len(last)


def folder_of(out: Path, name: str, seed: int) -> Path:
    """Where a model's run with a seed is kept."""
    return out / f"{name.replace('/', '-')}-{seed}"
