"""`python -m dit_lab experiment scaling`: what more multiply-accumulates buy (the paper's figures 2 and 8), small."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dit_lab.experiments import plots
from dit_lab.experiments.experiment import Experiment, command_of
from dit_lab.experiments.page import by_model, judged, told
from dit_lab.experiments.plan import Plan
from dit_lab.models import Config, preset, taking

# Width, depth, heads: each step about trebles the parameters, as S, B, L do.
SIZES = {"XS": (32, 2, 2), "S": (48, 4, 3), "M": (80, 6, 5), "L": (128, 8, 8)}
PAPER = (
    "The paper's -0.93 (figure 8) is that of log Gflops with FID, of its twelve models; with the Gflops themselves it "
    "would be -0.73."
)
# As in the paper, latents: CIFAR-10's are 8 x 8, so that patches of 1, 2 and 4 make 64, 16 and 4 tokens of them.
LATENTS = Plan(data="uoft-cs/cifar10", vae="cifar10_vae", seeds=(0,), steps=(2000,), batch_size=64)


@dataclass(frozen=True)
class Scaling(Experiment):
    """Four small sizes of adaLN-Zero DiT, each with several patch sizes."""

    name = "scaling"
    title = "What scale buys"
    files = "scaling"

    patches: tuple[int, ...] = (1, 2, 4)
    """The patch sizes that each size is trained with."""
    prediction: str = "v"
    """What they predict: v, as in `four-blocks`, where small models learn it sooner than the paper's eps."""

    def configs(self, images) -> dict[str, Config]:
        """A config for each size and patch, the cheapest first."""
        fixed = {"prediction": self.prediction, **taking(images)}
        return {
            f"{name}/{patch}": preset("DiT-S/4", dim=dim, depth=depth, heads=heads, patch_size=patch, **fixed)
            for name, (dim, depth, heads) in SIZES.items()
            for patch in sorted(self.patches, reverse=True)
        }

    @staticmethod
    def figure(table: dict):
        """Quality against compute."""
        return plots.scaling(in_order(table))

    @staticmethod
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
        found = f"Correlation of log MACs over the {len(models)} models with the Fréchet distance"
        both = f"{correlation(models, lambda x: x):.2f}, with its logarithm: {correlation(models):.2f}"
        return "\n".join([*lines, "", f"{found}: {both}. {PAPER}", "", told(table)])


def in_order(table: dict) -> dict[str, list[dict]]:
    """The runs by model: size by size, in each the fewest tokens first."""
    patches = sorted(table["settings"]["patches"], reverse=True)
    return by_model(table, [f"{name}/{patch}" for name in SIZES for patch in patches])


def correlation(models: dict[str, list[dict]], scale: Callable[[float], float] = np.log) -> float:
    """Pearson's correlation of the logarithm of MACs with the Fréchet distance on a `scale`, over models' means."""
    macs = [np.log(runs[0]["macs"]) for runs in models.values()]
    distances = [scale(np.mean([run["frechet"] for run in runs])) for runs in models.values()]
    return float(np.corrcoef(macs, distances)[0, 1])


scaling_command = command_of(Scaling, LATENTS)
