"""`python -m dit_lab experiment ladder`: U-DiT's toy experiment (sections 3 and 5.4), as small as a laptop needs it."""

from dataclasses import dataclass, replace

from dit_lab.experiments import plots
from dit_lab.experiments.experiment import Experiment, command_of
from dit_lab.experiments.page import by_model, spelt, told
from dit_lab.experiments.papers import UDIT_LADDER
from dit_lab.models import Config, count, ladder
from dit_lab.models.presets import RUNGS

CHANGES = {
    "toy/isotropic": "DiT-S/4",
    "toy/unet": "a U-shape of the same blocks",
    **{f"toy/{name}": ", ".join(f"`{k}={v}`" for k, v in change.items()) for name, change in RUNGS.items()},
}


@dataclass(frozen=True)
class Ladder(Experiment):
    """U-DiT's argument, rung by rung, from an isotropic DiT to a re-parameterised U-DiT, smaller than the paper's."""

    name = "ladder"
    title = "From DiT to U-DiT, step by step"
    files = "udit_ladder"

    size: int = 16
    """The pictures' side."""
    dim: int = 16
    """Width of the U-shaped rungs' first level."""
    isotropic_dim: int = 56
    """Width of the isotropic one."""
    heads: int = 2
    """Attention heads of all."""

    def configs(self, images) -> dict[str, Config]:
        """A config a rung."""
        return {name: self.scaled(config, images) for name, config in ladder().items()}

    def scaled(self, config: Config, images) -> Config:
        """A rung's config at this scale. The isotropic one keeps the 8 x 8 tokens that the paper's has."""
        shape = dict(in_channels=images.shape[0], input_size=self.size, num_classes=len(images.names), heads=self.heads)
        if hasattr(config, "patch_size"):
            return replace(config, dim=self.isotropic_dim, patch_size=max(self.size // 8, 1), **shape)
        return replace(config, dim=self.dim, **shape)

    @staticmethod
    def figure(table: dict):
        """The rungs side by side."""
        return plots.ladder(by_model(table, ladder()))

    @staticmethod
    def markdown(table: dict) -> str:
        """The results as a table: mean over the seeds, and half of their range after a ±."""
        lines = [
            "| rung | what changes | GMACs at the paper's size | MMACs | parameters | mse, unseen | "
            "mse + vb, training | Fréchet | as asked | FID (paper) |",
            "| --- " * 10 + "|",
        ]
        for name, runs in by_model(table, ladder()).items():
            lines.append(
                f"| {name} | {CHANGES[name]} | {count(name).macs / 1e9:.2f} | {runs[0]['macs'] / 1e6:.1f} | "
                f"{runs[0]['parameters']:,} | {spelt(runs, 'test_mse', '.4f')} | {spelt(runs, 'train_loss', '.4f')} | "
                f"{spelt(runs, 'frechet', '.1f')} | {spelt(runs, 'agreement', '.0%')} | {UDIT_LADDER[name][1]:.2f} |"
            )
        return "\n".join([*lines, "", told(table)])


ladder_command = command_of(Ladder)
