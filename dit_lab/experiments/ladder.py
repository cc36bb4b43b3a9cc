"""`python -m dit_lab.experiments.ladder`: U-DiT's toy experiment (sections 3 and 5.4) run for real, as small as a laptop needs it.

Every rung of the ladder is trained and judged alike (`experiment`), by the loss on pictures it has not seen and by
samples.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro

from dit_lab.checkpoints import load
from dit_lab.experiments import plots as plots_experiments
from dit_lab.experiments.experiment import Plan, by_model, experiment, folder_of, save_figure, spelt, told, write_page
from dit_lab.files import write_json
from dit_lab.inside import plots
from dit_lab.inside.spectrum import feature_spectra
from dit_lab.inside.trajectory import record
from dit_lab.models.config import Config
from dit_lab.models.count import count
from dit_lab.models.presets import RUNGS, ladder
from dit_lab.program import run

PAPER_FID = dict(zip(ladder(), (97.85, 93.48, 94.38, 89.43, 86.96, 84.64, 79.30, 75.71), strict=True))
CHANGES = {
    "toy/isotropic": "DiT-S/4",
    "toy/unet": "a U-shape of the same blocks",
    **{f"toy/{name}": ", ".join(f"`{k}={v}`" for k, v in change.items()) for name, change in RUNGS.items()},
}
TITLE, COMMAND = "From DiT to U-DiT, step by step", "python -m dit_lab.experiments.ladder"


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
    plan: Annotated[Plan, tyro.conf.arg(name="")] = Plan(),  # noqa: B008
    *,
    out: Path = Path("runs/udit_ladder"),
    results: Path = Path("docs/results/udit_ladder.json"),
) -> None:
    """Train and judge every rung with every seed, and write what came out as JSON, a page and two figures.

    Args:
        scale: How small.
        plan: What all runs share.
        out: Folder for the checkpoints and the judge.
        results: The JSON to write; the page and the figures go beside it.
    """
    rungs = lambda images: {name: scale.of(config, images) for name, config in ladder().items()}
    shape = {name: value for name, value in asdict(scale).items() if name != "size"}
    table = experiment(plan, scale.size, rungs, shape, out, results)
    report(table, results, out)


def report(table: dict, results: Path, out: Path) -> None:
    """Beside the JSON: the table in the page of the same name, the ladder's plot, and the spectra of two rungs."""
    rungs = by_model(table, ladder())
    save_figure(plots_experiments.ladder(rungs), results.with_suffix(".png"))
    seed = table["runs"][0]["seed"]
    spectra = {}
    for name in ("toy/unet", "toy/isotropic"):
        if (folder := folder_of(out, name, seed)).is_dir():
            model = load(folder).model
            labels = torch.arange(8) % max(model.config.num_classes, 1)
            spectra[name] = feature_spectra(record(model, labels, steps=11), model)
    if spectra:
        save_figure(plots.spectrum(spectra), results.with_name("udit_spectrum.png"))
        write_json(results.with_name("udit_spectrum.json"), {name: seen.as_json() for name, seen in spectra.items()})
    write_page(results.with_suffix(".md"), TITLE, COMMAND, markdown(table))


def markdown(table: dict) -> str:
    """The results as a table: mean over the seeds, and half of their range after a ±."""
    lines = [
        "| rung | what changes | GMACs at the paper's size | MMACs | parameters | mse, unseen | mse + vb, training | "
        "Fréchet | as asked | FID (paper) |",
        "| --- " * 10 + "|",
    ]
    for name, runs in by_model(table, ladder()).items():
        lines.append(
            f"| {name} | {CHANGES[name]} | {count(name).macs / 1e9:.2f} | {runs[0]['macs'] / 1e6:.1f} | "
            f"{runs[0]['parameters']:,} | {spelt(runs, 'test_mse', '.4f')} | {spelt(runs, 'train_loss', '.4f')} | "
            f"{spelt(runs, 'frechet', '.1f')} | {spelt(runs, 'agreement', '.0%')} | {PAPER_FID[name]:.2f} |"
        )
    return "\n".join([*lines, "", told(table)])


if __name__ == "__main__":
    run(ladder_command, "dit_lab.experiments.ladder")
