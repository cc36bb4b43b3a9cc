"""`python -m dit_lab experiment four-blocks`: the paper's four conditioning blocks (section 3.2, figure 5), small."""

from dataclasses import asdict, dataclass

from dit_lab.experiments import plots
from dit_lab.experiments.experiment import Experiment, command_of
from dit_lab.experiments.page import by_model, judged, told
from dit_lab.experiments.papers import DIT_BLOCKS
from dit_lab.experiments.plan import Plan
from dit_lab.models import BLOCKS, Config, preset, taking


@dataclass(frozen=True)
class FourBlocks(Experiment):
    """In-context, cross-attention, adaLN and adaLN-Zero at one size, judged as they train."""

    name = "four-blocks"
    title = "Four ways to condition, compared"
    files = "blocks"

    dim: int = 96
    """Width of the tokens."""
    depth: int = 4
    """Number of blocks."""
    heads: int = 4
    """Attention heads."""
    patch_size: int = 7
    """Pixels along a patch."""
    prediction: str = "v"
    """What they predict. The paper's eps takes these small ones several times as long to draw anything."""

    def configs(self, images) -> dict[str, Config]:
        """A config a block."""
        shape = {name: value for name, value in asdict(self).items() if name != "size"}
        return {name: preset("DiT-S/4", block=name, **shape, **taking(images)) for name in DIT_BLOCKS}

    @staticmethod
    def figure(table: dict):
        """The four as they train."""
        curves = {BLOCKS[name].title: runs for name, runs in by_model(table, DIT_BLOCKS).items()}
        return plots.comparison(curves, table["settings"]["batch_size"])

    @staticmethod
    def markdown(table: dict) -> str:
        """The results as a table: mean over the seeds, and half of their range after a ±."""
        lines = [
            "| block | parameters | MMACs | loss, unseen | Fréchet | as asked | "
            "GMACs of XL/2 (paper) | its FID (paper) |",
            "| --- " * 8 + "|",
        ]
        for name, runs in by_model(table, DIT_BLOCKS).items():
            paper = DIT_BLOCKS[name]
            lines.append(
                f"| {BLOCKS[name].title} | {runs[0]['parameters']:,} | {runs[0]['macs'] / 1e6:.1f} | {judged(runs)} | "
                f"{paper.gmacs:.2f} | {paper.fid:.2f} |"
            )
        return "\n".join([*lines, "", told(table)])


four_blocks_command = command_of(FourBlocks, Plan(steps=(500, 1000, 2000, 4000, 8000), batch_size=64))
