"""`python -m dit_lab experiment scaling`: what more multiply-accumulates buy (the paper's figures 2 and 8), small.

Further parts: against training compute and sampling compute (figures 9 and 10), and several decoders (the appendix).
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from dit_lab.experiments import plots
from dit_lab.experiments.compute import sample_more, sampling, training
from dit_lab.experiments.decoders import LOSSES, Decoder, check_decoders, decode_more, decoded, decoders_of
from dit_lab.experiments.experiment import Experiment, command_of
from dit_lab.experiments.judge import Judge
from dit_lab.experiments.page import Part, by_model, judged, told
from dit_lab.experiments.plan import Kept, Plan
from dit_lab.models import Config, preset, taking

# Width, depth, heads: each step about trebles the parameters, as S, B, L do.
SIZES = {"XS": (32, 2, 2), "S": (48, 4, 3), "M": (80, 6, 5), "L": (128, 8, 8)}
PAPER = (
    "The paper's -0.93 (figure 8) is that of log Gflops with FID, of its twelve models; with the Gflops themselves it "
    "would be -0.73."
)
# As in the paper, latents: CIFAR-10's are 8 x 8, so that patches of 1, 2 and 4 make 64, 16 and 4 tokens of them.
# Judged after each doubling, so that sizes and patches, whose MACs differ three- to fivefold, meet at equal compute.
LATENTS = Plan(data="uoft-cs/cifar10", vae="cifar10_vae", steps=(250, 500, 1000, 2000), batch_size=64)
PARTS = "training", "sampling", "decoders"
# Options that add rows to results, or that rows carry themselves: results made with others are gone on with.
ADDING = "sizes", "sampling_steps", "decoders", "decoder_steps"


@dataclass(frozen=True)
class Scaling(Experiment):
    """Four small sizes of adaLN-Zero DiT, each with several patch sizes."""

    name = "scaling"
    title = "What scale buys"
    files = "scaling"
    further = PARTS

    sizes: tuple[Literal[tuple(SIZES)], ...] = tuple(SIZES)
    """The sizes that are trained."""
    patches: tuple[int, ...] = (1, 2, 4)
    """The patch sizes that each size is trained with."""
    prediction: str = "v"
    """What they predict: v, as in `four-blocks`, where small models learn it sooner than the paper's eps."""
    sampling_steps: tuple[int, ...] = (4, 8, 16, 32, 64)
    """Each trained model is judged at each of these numbers of DDIM steps too (none: leave that out)."""
    decoders: tuple[str, ...] = LOSSES
    """What decodes samples of the largest model of latents besides the VAE itself: l2 or l1, the VAE's decoder trained
    on with that loss, or another VAE of the same encoder (none: leave that out)."""
    decoder_steps: int = 1000
    """Optimiser steps that l2 and l1 are trained on."""

    @property
    def settings(self) -> dict:
        """Those of its options that make runs comparable."""
        return {name: value for name, value in asdict(self).items() if name not in ADDING}

    def check(self, plan: Plan) -> None:
        """Raise ValueError, before any work, on sizes, steps or decoders that there are not."""
        if unknown := [name for name in self.sizes if name not in SIZES]:
            raise ValueError(f"sizes must be of {', '.join(SIZES)}, not {unknown[0]}")
        if wrong := [steps for steps in self.sampling_steps if not 1 <= steps <= 1000]:
            raise ValueError(f"sampling_steps must be from 1 to 1000, not {wrong[0]}")
        if plan.vae and self.decoders:
            check_decoders(self.decoders_of(plan))

    def configs(self, images) -> dict[str, Config]:
        """A config for each size and patch, the cheapest first."""
        fixed = {"prediction": self.prediction, **taking(images)}
        return {
            f"{name}/{patch}": preset("DiT-S/4", dim=dim, depth=depth, heads=heads, patch_size=patch, **fixed)
            for name, (dim, depth, heads) in SIZES.items()
            if name in self.sizes
            for patch in sorted(self.patches, reverse=True)
        }

    def decoders_of(self, plan: Plan) -> list[Decoder]:
        """The VAE's own decoder and those asked for."""
        return decoders_of(plan.vae, self.decoders, self.decoder_steps)

    def measure_more(self, table: dict, plan: Plan, judge: Judge, kept: Kept) -> None:
        """Samples of several numbers of steps, and those of the largest model by several decoders."""
        configs = self.configs(judge.train)
        if self.sampling_steps:
            sample_more(table, self.sampling_steps, configs, plan, judge, kept)
        if plan.vae and self.decoders:
            largest, config = list(configs.items())[-1]
            decode_more(table, self.decoders_of(plan), largest, config, plan, judge, kept)

    @staticmethod
    def parts(table: dict) -> dict[str, Part]:
        """What the table has of them."""
        models = in_order(table)
        found = (
            training(models, table["settings"]["batch_size"]),
            sampling(table, models),
            decoded(table, models),
        )
        return {name: part for name, part in zip(PARTS, found, strict=True) if part}

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
