"""`python -m dit_lab.ladder`: U-DiT's toy experiment (sections 3 and 5.4) run for real, as small as a laptop needs it.

Every rung of the ladder is trained on the same pictures in the same order, with the same noise and timesteps, and
judged by the loss on pictures it has not seen and by samples. What is done is kept: run again, it goes on where it was.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from dit_lab import plots
from dit_lab.checkpoints import load
from dit_lab.checkpoints.places import STATE
from dit_lab.config import Config
from dit_lab.count import count
from dit_lab.data import open_data
from dit_lab.features import classifier_for, everything, judge
from dit_lab.files import atomic, write_json
from dit_lab.folder import LOG
from dit_lab.metrics import agreement, frechet_distance
from dit_lab.objectives import process_of
from dit_lab.presets import RUNGS, build, ladder
from dit_lab.program import run
from dit_lab.run import follow
from dit_lab.samples import draw
from dit_lab.spectrum import feature_spectra
from dit_lab.train import TrainOptions, train
from dit_lab.trajectory import record

PAPER_FID = dict(zip(ladder(), (97.85, 93.48, 94.38, 89.43, 86.96, 84.64, 79.30, 75.71), strict=True))
CHANGES = {
    "toy/isotropic": "DiT-S/4",
    "toy/unet": "a U-shape of the same blocks",
    **{f"toy/{name}": ", ".join(f"`{k}={v}`" for k, v in change.items()) for name, change in RUNGS.items()},
}
BEGIN, END = "<!-- written by python -m dit_lab.ladder -->", "<!-- end -->"
PAGE = "# From DiT to U-DiT, step by step\n\n"
TRAINING_STEPS_MEANT = 100  # the training loss is the mean of so many last steps
TEST_IMAGES = 2_000
MEASURED = "train_to_test_frechet"


@dataclass(frozen=True)
class Scale:
    """How much smaller than the paper the experiment is: the picture's side, the U-Net's and the isotropic width."""

    size: int = 16
    dim: int = 16
    isotropic_dim: int = 56
    heads: int = 2

    def of(self, config: Config, images) -> Config:
        """A rung's config at this scale. The isotropic one keeps the 8 x 8 tokens that the paper's has."""
        shape = dict(in_channels=images.shape[0], input_size=self.size, num_classes=len(images.names), heads=self.heads)
        if hasattr(config, "patch_size"):
            return replace(config, dim=self.isotropic_dim, patch_size=max(self.size // 8, 1), **shape)
        return replace(config, dim=self.dim, **shape)


def ladder_command(
    scale: Scale = Scale(),  # noqa: B008
    *,
    data: str = "ylecun/mnist",
    seeds: tuple[int, ...] = (0, 1, 2),
    steps: int = 1500,
    batch_size: int = 32,
    lr: float = 1e-3,
    samples: int = 1000,
    sample_steps: int = 25,
    out: Path = Path("runs/udit_ladder"),
    results: Path = Path("docs/results/udit_ladder.json"),
) -> None:
    """Train and judge every rung with every seed, and write what came out as JSON, after each run.

    Args:
        scale: How small.
        data: Pictures with a train and a test split: a hub id or a local folder.
        seeds: Each trains the whole ladder once; it fixes weights, data order, noise, timesteps and dropped labels.
        steps: Optimiser steps.
        batch_size: Pictures a step.
        lr: Learning rate of AdamW, after 100 steps of warm-up.
        samples: Pictures drawn from each model, without guidance, for the agreement and the Fréchet distance.
        sample_steps: DDIM steps of those.
        out: Folder for the checkpoints and the judge.
        results: The JSON to write.
    """
    train_images, test_images = (open_data(data, split=split, size=scale.size) for split in ("train", "test"))
    options = dict(steps=steps, batch_size=batch_size, lr=lr, warmup=100, ema_decay=0.998, save_every=250)
    classifier = classifier_for(train_images, out / "classifier.safetensors")
    test = judge(classifier, everything(test_images))[1]
    settings = {
        "data": data.rstrip("/").rpartition("/")[2], **asdict(scale), **options,
        "samples": samples, "sampler": "ddim", "sample_steps": sample_steps, "cfg_scale": 1.0,
        MEASURED: frechet_distance(judge(classifier, everything(train_images))[1], test),
    }  # fmt: skip
    table = opened(results, settings)
    for seed in seeds:
        for name, rung in ladder().items():
            if any(row["rung"] == name and row["seed"] == seed for row in table["runs"]):
                continue
            config, start = scale.of(rung, train_images), time.perf_counter()
            print(f"{name}, seed {seed}", flush=True)
            loss = trained(config, train_images, TrainOptions(**options, seed=seed), folder_of(out, name, seed))
            model, counted = load(folder_of(out, name, seed)).model, count(config)
            drawn, labels = draw(model, samples, sample_steps, 1.0)
            seen, features = judge(classifier, drawn)
            table["runs"].append({
                "rung": name, "seed": seed, "parameters": counted.params, "macs": counted.macs,
                "train_loss": loss, **test_losses(model, test_images), "frechet": frechet_distance(features, test),
                "agreement": agreement(seen, labels), "seconds": time.perf_counter() - start,
            })  # fmt: skip
            write_json(results, table)
    report(table, results, out)


def report(table: dict, results: Path, out: Path) -> None:
    """Beside the JSON: the table in the page of the same name, the ladder's plot, and the spectra of two rungs."""
    names = [name for name in ladder() if any(row["rung"] == name for row in table["runs"])]
    rungs = {name: [row for row in table["runs"] if row["rung"] == name] for name in names}
    save_figure(plots.ladder(rungs), results.with_suffix(".png"))
    seed = table["runs"][0]["seed"]
    spectra = {}
    for name in ("toy/unet", "toy/isotropic"):
        if (folder := folder_of(out, name, seed)).is_dir():
            model = load(folder).model
            labels = torch.arange(8) % max(model.config.num_classes, 1)
            spectra[name] = feature_spectra(record(model, labels, steps=11), model)
    if spectra:
        save_figure(plots.spectrum(spectra), results.with_name("udit_spectrum.png"))
    page = results.with_suffix(".md")
    told = page.read_text(encoding="utf-8") if page.is_file() else f"{PAGE}{BEGIN}{END}\n"
    before, after = told.partition(BEGIN)[0], told.partition(END)[2]
    with atomic(page) as partial:
        partial.write_text(f"{before}{BEGIN}\n{markdown(rungs, table['settings'])}\n{END}{after}", encoding="utf-8")


def markdown(rungs: dict[str, list[dict]], settings: dict) -> str:
    """The results as a table: mean over the seeds, and half of their range after a ±."""
    lines = [
        "| rung | what changes | GMACs at the paper's size | MMACs | parameters | loss, unseen | loss, training | "
        "Fréchet | as asked | FID (paper) |",
        "| --- " * 10 + "|",
    ]
    for name, runs in rungs.items():
        spread = lambda field, form, runs=runs: spelt([run[field] for run in runs], form)
        lines.append(
            f"| {name} | {CHANGES.get(name, '')} | {count(name).macs / 1e9:.2f} | {runs[0]['macs'] / 1e6:.1f} | "
            f"{runs[0]['parameters']:,} | {spread('test_mse', '.4f')} | {spread('train_loss', '.4f')} | "
            f"{spread('frechet', '.1f')} | {spread('agreement', '.0%')} | {PAPER_FID[name]} |"
        )
    seeds = sorted({run["seed"] for runs in rungs.values() for run in runs})
    told = ", ".join(f"{name} {value}" for name, value in settings.items() if name != MEASURED)
    judge = (
        "The Fréchet distance is that of the project's own classifier, which saw real training pictures only; between "
        f"real training and test pictures it is {settings[MEASURED]:.2f}."
    )
    return "\n".join([*lines, "", f"Seeds {', '.join(map(str, seeds))}; {told}. {judge}"])


def spelt(values: list[float], form: str) -> str:
    """`0.0461 ± 0.0003`, without the second for a single value."""
    mean, half = sum(values) / len(values), (max(values) - min(values)) / 2
    return f"{mean:{form}}" + (f" ± {half:{form}}" if len(values) > 1 else "")


def save_figure(figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with atomic(path) as partial:
        figure.savefig(partial, format="png", dpi=110)


def folder_of(out: Path, name: str, seed: int) -> Path:
    """Where a rung's run with a seed is kept."""
    return out / f"{name.rpartition('/')[2]}-{seed}"


def opened(results: Path, settings: dict) -> dict:
    """The table so far. Raises ValueError when it was made with other settings."""
    if not results.is_file():
        return {"settings": settings, "runs": []}
    table = json.loads(results.read_text(encoding="utf-8"))
    given = [name for name in settings if name != MEASURED]  # its last digits are the machine's
    if changed := [name for name in given if table["settings"].get(name) != settings[name]]:
        raise ValueError(f"{results} was made with another {', '.join(changed)}; give --results another name")
    return table


def trained(config: Config, images, options: TrainOptions, folder: Path) -> float:
    """Train one rung, or what is left of it, and return the mean loss of the last steps."""
    torch.manual_seed(options.seed)
    steps = train(build(config), images, options, out=folder, resume=(folder / STATE).is_file())
    if stopped := follow(steps, options.steps):
        sys.exit(128 + stopped)
    lines = [json.loads(line) for line in (folder / LOG).read_text(encoding="utf-8").splitlines()]
    last = [line["loss"] for line in lines if line["step"] > options.steps - TRAINING_STEPS_MEANT]
    return sum(last) / len(last)


@torch.no_grad()
def test_losses(model, images) -> dict[str, float]:
    """The averaged model's losses on unseen pictures, at evenly spread timesteps and always the same noise."""
    model.eval()
    process = process_of(model.config)
    random = torch.Generator().manual_seed(0)
    x0, y = images.batch(range(min(TEST_IMAGES, len(images))))
    eps = torch.randn(x0.shape, generator=random)
    i = torch.linspace(0, len(process.timesteps) - 1, len(x0)).long()[torch.randperm(len(x0), generator=random)]
    batches = zip(*(part.split(100) for part in (x0, i, y, eps)), strict=True)
    parts = [process.losses(model, *batch) for batch in batches]
    return {f"test_{name}": torch.cat([getattr(part, name) for part in parts]).mean().item() for name in ("mse", "vb")}


if __name__ == "__main__":
    run(ladder_command, "dit_lab.ladder")
