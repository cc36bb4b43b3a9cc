"""`python -m dit_lab.experiments.four_blocks`: the paper's four conditioning blocks compared (section 3.2, figure 5), small.

In-context, cross-attention, adaLN and adaLN-Zero at one size, judged (`experiment`) as they train.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dit_lab.experiments import plots as plots_experiments
from dit_lab.experiments.experiment import Plan, by_model, experiment, judged, save_figure, told, write_page
from dit_lab.models.blocks import BLOCKS
from dit_lab.models.config import Config
from dit_lab.models.presets import preset, taking
from dit_lab.program import run

# DiT-XL/2 at 400k steps: GMACs and FID (table 4 and figure 5).
PAPER = {
    "in_context": (119.37, 35.24), "cross_attention": (137.62, 26.14), "adaln": (118.56, 25.21),
    "adaln_zero": (118.64, 19.47),
}  # fmt: skip
TITLE, COMMAND = "Four ways to condition, compared", "python -m dit_lab.experiments.four_blocks"


@dataclass(frozen=True)
class Shape:
    """The one size of all four."""

    size: int | None = None
    """The pictures' side (default: as they are)."""
    dim: int = 96
    depth: int = 4
    heads: int = 4
    patch_size: int = 7
    prediction: str = "v"
    """What they predict. The paper's eps takes these small ones several times as long to draw anything."""

    def configs(self, images) -> dict[str, Config]:
        """A config a block, for a data set."""
        shape = {name: value for name, value in asdict(self).items() if name != "size"}
        return {name: preset("DiT-S/4", block=name, **shape, **taking(images)) for name in PAPER}


def blocks_command(
    shape: Shape = Shape(),  # noqa: B008
    plan: Annotated[Plan, tyro.conf.arg(name="")] = Plan(steps=(500, 1000, 2000, 4000, 8000), batch_size=64),  # noqa: B008
    *,
    out: Path = Path("runs/blocks"),
    results: Path = Path("docs/results/blocks.json"),
) -> None:
    """Train and judge the four blocks with every seed, and write what came out as JSON, a page and a figure.

    Args:
        shape: The size of the models.
        plan: What all runs share.
        out: Folder for the checkpoints and the judge.
        results: The JSON to write; the page and the figure go beside it.
    """
    said = {name: value for name, value in asdict(shape).items() if name != "size"}
    table = experiment(plan, shape.size, shape.configs, said, out, results)
    curves = {BLOCKS[name].title: runs for name, runs in by_model(table, PAPER).items()}
    save_figure(plots_experiments.comparison(curves, table["settings"]["batch_size"]), results.with_suffix(".png"))
    write_page(results.with_suffix(".md"), TITLE, COMMAND, markdown(table))


def markdown(table: dict) -> str:
    """The results as a table: mean over the seeds, and half of their range after a ±."""
    lines = [
        "| block | parameters | MMACs | loss, unseen | Fréchet | as asked | GMACs of XL/2 (paper) | its FID (paper) |",
        "| --- " * 8 + "|",
    ]
    for name, runs in by_model(table, PAPER).items():
        macs, fid = PAPER[name]
        lines.append(
            f"| {BLOCKS[name].title} | {runs[0]['parameters']:,} | {runs[0]['macs'] / 1e6:.1f} | {judged(runs)} | "
            f"{macs:.2f} | {fid:.2f} |"
        )
    return "\n".join([*lines, "", told(table)])


if __name__ == "__main__":
    run(blocks_command, "dit_lab.experiments.four_blocks")
