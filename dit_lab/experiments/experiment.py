"""Models compared: each trained on the same pictures in the same order with the same noise, judged alike, and kept.

A run is a model's name and a seed. What is done is kept: killed or run again, an experiment goes on where it was.
"""

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from dit_lab.checkpoints import load
from dit_lab.commands.encode import encode_command
from dit_lab.commands.train import follow
from dit_lab.data.codecs import open_codec
from dit_lab.data.images import Images, open_data
from dit_lab.data.latents import Latents
from dit_lab.diffusion.objectives import process_of
from dit_lab.evaluation.features import everything, judge, judge_for
from dit_lab.evaluation.metrics import agreement, frechet_distance
from dit_lab.evaluation.samples import draw
from dit_lab.files import atomic, write_json
from dit_lab.models.config import Config
from dit_lab.models.count import count
from dit_lab.models.presets import build
from dit_lab.training.folder import LOG, can_resume
from dit_lab.training.train import TrainOptions, train

JUDGED = "judged.json"
MEASURED = "train_to_test_frechet"
REBUILT = "rebuilt_to_test_frechet"
TRAINING_STEPS_MEANT = 100  # the training loss is the mean of so many last steps
TEST_IMAGES = 2_000
END = "<!-- end -->"


@dataclass(frozen=True)
class Plan:
    """What all runs of an experiment share."""

    data: str = "ylecun/mnist"
    """Pictures with a train and a test split: a hub id or a local folder."""
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
    """Pictures drawn from each model, without guidance, for the agreement and the Fréchet distance."""
    sample_steps: int = 25
    """DDIM steps of those."""

    def options(self, steps: int, seed: int) -> TrainOptions:
        """A run's training, up to some of the steps."""
        return TrainOptions(
            steps=steps, batch_size=self.batch_size, lr=self.lr, warmup=100, ema_decay=0.998, save_every=250, seed=seed
        )

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


class Judge:
    """The real pictures of a plan, the classifier that saw their training part only, and what models learn from.

    That is `train` and `test`: the pictures themselves, or their latents, encoded once into `folder`.
    """

    def __init__(self, plan: Plan, size: int | None, folder: Path):
        self.plan = plan
        self.pictures = [open_data(plan.data, split=split, size=size) for split in ("train", "test")]
        train, test = self.pictures
        self.classifier, _ = judge_for(test, "test", lambda: train, folder)
        self.train, self.test, self.decode = *self.pictures, lambda samples: samples
        if plan.vae:
            self.train, self.test = (latents(plan, size, split, folder) for split in ("train", "test"))
            self.decode = open_codec(None, plan.vae, channels=self.train.shape[0]).decode
        self.real = judge(self.classifier, everything(self.pictures[1]))[1]

    def distance_of_real(self) -> float:
        """The Fréchet distance between real training and test pictures, the floor of all others."""
        return frechet_distance(judge(self.classifier, everything(self.pictures[0]))[1], self.real)

    def distance_of_rebuilt(self) -> float:
        """The same between test pictures and what the VAE makes of them, the floor for models of latents."""
        rebuilt = self.decode(self.test.batch(range(len(self.test)))[0])
        return frechet_distance(judge(self.classifier, rebuilt)[1], self.real)

    def figures(self, model) -> dict[str, float]:
        """The losses on unseen pictures, and what samples look like."""
        drawn, labels = draw(model, self.plan.samples, self.plan.sample_steps, 1.0, self.decode)
        seen, features = judge(self.classifier, drawn)
        distance = frechet_distance(features, self.real)
        return {**unseen_losses(model, self.test), "frechet": distance, "agreement": agreement(seen, labels)}


def latents(plan: Plan, size: int | None, split: str, folder: Path) -> Latents:
    """A split of the plan's pictures through its VAE, kept in `folder`; what is there already is not encoded again."""
    out = folder / f"latents-{split}"
    encode_command(data=plan.data, vae=plan.vae, out=out, split=split, size=size)
    return open_data(out, split=split)


def experiment(
    plan: Plan,
    size: int | None,
    models: Callable[[Images | Latents], dict[str, Config]],
    scale: dict,
    out: Path,
    results: Path,
) -> dict:
    """Train and judge every model with every seed, and write what came out as JSON, after each run. Returns it.

    `models` names the configs for a data set, `scale` says how they were made. Raises ValueError where `results` was
    made with other settings.
    """
    judge = Judge(plan, size, out)
    table = opened(results, {"size": size, **scale, **plan.settings}, judge)
    for seed in plan.seeds:
        for name, config in models(judge.train).items():
            if any(row["model"] == name and row["seed"] == seed for row in table["runs"]):
                continue
            print(f"{name}, seed {seed}", flush=True)
            row = one_run(config, seed, plan, judge, folder_of(out, name, seed))
            table["runs"].append({"model": name, "seed": seed, **row})
            write_json(results, table)
    return table


def opened(results: Path, settings: dict, judge: Judge) -> dict:
    """The table so far. Raises ValueError when it was made with other settings."""
    if not results.is_file():
        rebuilt = {REBUILT: judge.distance_of_rebuilt()} if settings["vae"] else {}
        return {"settings": settings | {MEASURED: judge.distance_of_real(), **rebuilt}, "runs": []}
    table = json.loads(results.read_text(encoding="utf-8"))
    if changed := [name for name in settings if table["settings"].get(name) != settings[name]]:
        raise ValueError(f"{results} was made with another {', '.join(changed)}; give --results another name")
    return table


def one_run(config: Config, seed: int, plan: Plan, judge: Judge, folder: Path) -> dict:
    """Train a model and judge it after each of the plan's steps; what was judged before is not judged again."""
    made = json.loads(json.dumps({"model": config.as_json(), "seed": seed, **plan.settings}))  # as it is read again
    curve = judged_before(kept := folder / JUDGED, made)
    for steps in plan.steps[len(curve) :]:
        start = time.perf_counter()
        loss = trained(config, judge.train, plan.options(steps, seed), folder)
        figures = judge.figures(load(folder).model)
        curve.append({"step": steps, "train_loss": loss, **figures, "seconds": time.perf_counter() - start})
        write_json(kept, {"made": made, "curve": curve})
    counted = count(config)
    log = [json.loads(line) for line in (folder / LOG).read_text(encoding="utf-8").splitlines()]
    tokens = math.prod(side // config.stages[0].patch for side in config.size)
    return {
        "parameters": counted.params, "macs": counted.macs, "tokens": tokens, **curve[-1],
        "seconds": sum(figures["seconds"] for figures in curve),
        "curve": curve, "losses": [[line["step"], line["mse"]] for line in log],
    }  # fmt: skip


def judged_before(kept: Path, made: dict) -> list[dict]:
    """A run's judgements so far. Raises ValueError when they are of another model, or made in another way."""
    if not kept.is_file():
        return []
    try:
        before = json.loads(kept.read_text(encoding="utf-8"))
        there, curve = dict(before["made"]), list(before["curve"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{kept} does not say what was judged; give --out another folder") from error
    if changed := [name for name in made if there.get(name) != made[name]]:
        raise ValueError(f"{kept.parent} holds a run with another {', '.join(changed)}; give --out another folder")
    return curve


def trained(config: Config, images, options: TrainOptions, folder: Path) -> float:
    """Train a model, or go on with it; leaves the program where it is stopped. Returns the last training loss."""
    torch.manual_seed(options.seed)
    steps = train(build(config), images, options, out=folder, resume=can_resume(folder))
    if stopped := follow(steps, options.steps):
        sys.exit(128 + stopped)
    lines = [json.loads(line) for line in (folder / LOG).read_text(encoding="utf-8").splitlines()]
    last = [line["loss"] for line in lines if line["step"] > options.steps - TRAINING_STEPS_MEANT]
    return sum(last) / len(last)


@torch.no_grad()
def unseen_losses(model, images) -> dict[str, float]:
    """The averaged model's losses on unseen pictures, at evenly spread timesteps and always the same noise.

    Of latents, their means.
    """
    model.eval()
    process = process_of(model.config)
    random = torch.Generator().manual_seed(0)
    x0, y = images.batch(range(min(TEST_IMAGES, len(images))))
    eps = torch.randn(x0.shape, generator=random)
    i = torch.linspace(0, len(process.timesteps) - 1, len(x0)).long()[torch.randperm(len(x0), generator=random)]
    batches = zip(*(part.split(100) for part in (x0, i, y, eps)), strict=True)
    parts = [process.losses(model, *batch) for batch in batches]
    return {f"test_{name}": torch.cat([getattr(part, name) for part in parts]).mean().item() for name in ("mse", "vb")}


def folder_of(out: Path, name: str, seed: int) -> Path:
    """Where a model's run with a seed is kept."""
    return out / f"{name.replace('/', '-')}-{seed}"


def by_model(table: dict, names) -> dict[str, list[dict]]:
    """The runs of each model that has any, in the order of `names`."""
    runs = {name: [row for row in table["runs"] if row["model"] == name] for name in names}
    return {name: rows for name, rows in runs.items() if rows}


def spelt(runs: list[dict], field: str, form: str) -> str:
    """`0.0461 ± 0.0003`, the mean of a field and half of its range; without the second for a single run."""
    values = [run[field] for run in runs]
    mean, half = sum(values) / len(values), (max(values) - min(values)) / 2
    return f"{mean:{form}}" + (f" ± {half:{form}}" if len(values) > 1 else "")


def judged(runs: list[dict]) -> str:
    """Three columns of a table: the loss on unseen pictures, the Fréchet distance, and the share seen as asked."""
    columns = ("test_mse", ".4f"), ("frechet", ".1f"), ("agreement", ".0%")
    return " | ".join(spelt(runs, *column) for column in columns)


def told(table: dict) -> str:
    """Under a table: how its figures were made."""
    settings, seeds = table["settings"], sorted({run["seed"] for run in table["runs"]})
    plain = lambda value: ", ".join(map(str, value)) if isinstance(value, list) else value
    left_out = (MEASURED, REBUILT, *(name for name, value in settings.items() if value is None))
    said = "; ".join(f"{name} {plain(value)}" for name, value in settings.items() if name not in left_out)
    floor = settings.get(REBUILT)
    rebuilt = "" if floor is None else f", between test pictures and what the VAE makes of them {floor:.2f}"
    return (
        f"Seeds {', '.join(map(str, seeds))}; {said}. The Fréchet distance is that of the project's own classifier, "
        "which saw real training pictures only; between real training and test pictures it is "
        f"{settings[MEASURED]:.2f}{rebuilt}."
    )


def write_page(page: Path, title: str, command: str, written: str) -> None:
    """Put what a command wrote between its marks in a page; what people wrote around them stays."""
    begin = f"<!-- written by {command} -->"
    text = page.read_text(encoding="utf-8") if page.is_file() else f"# {title}\n\n{begin}{END}\n"
    before, after = text.partition(begin)[0], text.partition(END)[2]
    with atomic(page) as partial:
        partial.write_text(f"{before}{begin}\n{written}\n{END}{after}", encoding="utf-8")


def save_figure(figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with atomic(path) as partial:
        figure.savefig(partial, format="png", dpi=110)
