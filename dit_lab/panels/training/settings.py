"""What may be chosen of a training run that is watched: the form's fields, their bounds, and what is refused."""

from dataclasses import asdict, dataclass

from dit_lab.models import BLOCKS
from dit_lab.panels.asking import choice, real, whole
from dit_lab.program import quoted

DEPTH, LR, STEPS, SEED = (1, 8), (1e-5, 0.1), (20, 3000), (0, 2**31 - 1)
PATCHES = 1, 2, 4  # pixels along a side; the digits have 8


@dataclass(frozen=True)
class Settings:
    """A run; the defaults are those whose samples are digits after half of the steps."""

    block: str = "adaln_zero"
    depth: int = 4
    patch_size: int = 2
    lr: float = 4e-3
    steps: int = 600
    seed: int = 0

    @property
    def words(self) -> dict[str, str]:
        """The settings by the names that a reader knows."""
        return {
            "conditioning": BLOCKS[self.block].title, "blocks": str(self.depth),
            "patch": f"{self.patch_size} × {self.patch_size}", "learning rate": f"{self.lr:g}",
            "steps": str(self.steps), "seed": str(self.seed),
        }  # fmt: skip

    @property
    def name(self) -> str:
        """What is trained, in a line."""
        blocks = f"{self.depth} block{'s' * (self.depth > 1)}"
        return f"{BLOCKS[self.block].title}, {blocks}, patch {self.patch_size}, learning rate {self.lr:g}"


def checked(settings) -> Settings:
    """The settings that a browser sent; what it leaves out is the default. Raises ValueError with a sentence."""
    if not isinstance(settings, dict):
        raise ValueError(f"The settings of a training run must be values by name, not {quoted(settings, 40)}.")
    given = asdict(Settings()) | settings
    if others := sorted(map(str, given.keys() - asdict(Settings()).keys())):
        raise ValueError(
            f"A training run has no setting {quoted(others[0], 40)}; it has {', '.join(asdict(Settings()))}."
        )
    return Settings(
        choice("Conditioning", given["block"], BLOCKS), whole("Blocks", given["depth"], *DEPTH),
        choice("Patch", given["patch_size"], PATCHES), real("Learning rate", given["lr"], *LR),
        whole("Steps", given["steps"], *STEPS), whole("Seed", given["seed"], *SEED),
    )  # fmt: skip


def form() -> dict:
    """What the panel's form offers."""
    return {
        "blocks": [{"name": name, "title": block.title} for name, block in BLOCKS.items()], "patches": list(PATCHES),
        "bounds": {"depth": DEPTH, "lr": LR, "steps": STEPS, "seed": SEED}, "defaults": asdict(Settings()),
    }  # fmt: skip
