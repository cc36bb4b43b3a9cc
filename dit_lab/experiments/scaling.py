"""`python -m dit_lab.experiments.scaling`: what more multiply-accumulates buy, by size and by patch (the paper's figures 2 and 8).

Some small sizes of adaLN-Zero DiT at several patch sizes, each trained and judged alike (`experiment`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from dit_lab.experiments import plots as plots_experiments
from dit_lab.experiments.experiment import Plan, by_model, experiment, judged, save_figure, told, write_page
from dit_lab.models.config import Config
from dit_lab.models.presets import preset, taking
from dit_lab.program import run

# Width, depth, heads: each step about trebles the parameters, as S, B, L do.
SIZES = {"XS": (32, 2, 2), "S": (48, 4, 3), "M": (80, 6, 5), "L": (128, 8, 8)}
PAPER = "The paper's twelve models give -0.93 for the correlation of GMACs with FID (figure 8)."
TITLE, COMMAND = "What scale buys", "python -m dit_lab.experiments.scaling"
# As in the paper, latents: CIFAR-10's are 8 x 8, so that patches of 1, 2 and 4 make 64, 16 and 4 tokens of them.
LATENTS = Plan(data="uoft-cs/cifar10", vae="cifar10_vae", seeds=(0,), steps=(2000,), batch_size=64)


@dataclass(frozen=True)
class Grid:
    """Which models: the patch sizes that each size is trained with, and what they learn."""

    size: int | None = None
    """The pictures' side (default: as they are)."""
    patches: tuple[int, ...] = (1, 2, 4)
    prediction: str = "v"
    """What they predict: v, as in `four_blocks`, where small models learn it sooner than the paper's eps."""

    def configs(self, images) -> dict[str, Config]:
        """A config for each size and patch, the cheapest first."""
        fixed = {"prediction": self.prediction, **taking(images)}
        return {
            f"{name}/{patch}": preset("DiT-S/4", dim=dim, depth=depth, heads=heads, patch_size=patch, **fixed)
            for name, (dim, depth, heads) in SIZES.items()
            for patch in sorted(self.patches, reverse=True)
        }


def scaling_command(
    grid: Grid = Grid(),  # noqa: B008
    plan: Annotated[Plan, tyro.conf.arg(name="")] = LATENTS,
    *,
    out: Path = Path("runs/scaling"),
    results: Path = Path("docs/results/scaling.json"),
) -> None:
    """Train and judge every size with every patch, and write what came out as JSON, a page and a figure.

    Args:
        grid: Which models.
        plan: What all runs share.
        out: Folder for the checkpoints and the judge.
        results: The JSON to write; the page and the figure go beside it.
    """
    said = {"patches": list(grid.patches), "prediction": grid.prediction}
    table = experiment(plan, grid.size, grid.configs, said, out, results)
    save_figure(plots_experiments.scaling(in_order(table)), results.with_suffix(".png"))
    write_page(results.with_suffix(".md"), TITLE, COMMAND, markdown(table))


def in_order(table: dict) -> dict[str, list[dict]]:
    """The runs by model: size by size, in each the fewest tokens first."""
    patches = sorted(table["settings"]["patches"], reverse=True)
    return by_model(table, [f"{name}/{patch}" for name in SIZES for patch in patches])


def correlation(models: dict[str, list[dict]]) -> float:
    """Pearson's correlation of the logarithm of MACs with that of the Fréchet distance, over models' means."""
    macs = [np.log(runs[0]["macs"]) for runs in models.values()]
    distances = [np.log(np.mean([run["frechet"] for run in runs])) for runs in models.values()]
    return float(np.corrcoef(macs, distances)[0, 1])


def markdown(table: dict) -> str:
    """The results as a table, and the correlation."""
    models = in_order(table)
    lines = [
        "| model | width, depth, heads | tokens | parameters | MMACs | loss, unseen | Fréchet | as asked |",
        "| --- " * 8 + "|",
    ]
    for name, runs in models.items():
        size = name.partition("/")[0]
        lines.append(
            f"| {name} | {', '.join(map(str, SIZES[size]))} | {runs[0]['tokens']} | {runs[0]['parameters']:,} | "
            f"{runs[0]['macs'] / 1e6:.2f} | {judged(runs)} |"
        )
    found = (
        f"Correlation of log MACs with log Fréchet distance over the {len(models)} models: {correlation(models):.2f}."
    )
    return "\n".join([*lines, "", f"{found} {PAPER}", "", told(table)])


if __name__ == "__main__":
    run(scaling_command, "dit_lab.experiments.scaling")
