"""What the config of every diffusion transformer here says: its input, its classes, and what its output stands for."""

from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from typing import ClassVar


@dataclass(frozen=True)
class StageShape:
    """A run of blocks on one grid: its name, those of its blocks, input pixels along a token's side, and its width."""

    name: str
    blocks: tuple[str, ...]
    patch: int
    dim: int


@dataclass(frozen=True)
class Config:
    """The fields that DiT and U-DiT share. Raises ValueError on impossible ones.

    `input_size` is a side or (rows, columns), in latent or image pixels; `num_classes=0` is an unconditional model.
    """

    architecture: ClassVar[str]

    input_size: int | tuple[int, int] = 32
    in_channels: int = 4
    dim: int = 384
    heads: int = 6
    mlp_ratio: float = 4.0
    num_classes: int = 1000
    learned_variance: bool = True
    block: str = "adaln_zero"
    # The network never reads these two; samplers do, so that a checkpoint carries what its output stands for.
    prediction: str = "eps"
    schedule: str = "linear"

    def __post_init__(self):
        size = self.input_size
        size = tuple(size) if isinstance(size, list) else size
        # A square has one name, so that equal configs compare equal.
        square = isinstance(size, tuple) and len(size) == 2 and size[0] == size[1]
        object.__setattr__(self, "input_size", size[0] if square else size)
        self.check_whole(in_channels=1, dim=4, heads=1, num_classes=0)
        sides = self.size if isinstance(self.size, tuple) else ()
        if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
            raise ValueError(f"input_size {size} must be one or two positive whole numbers")
        if not isinstance(self.learned_variance, bool):
            raise ValueError(f"learned_variance must be true or false, not {self.learned_variance!r}")
        if not isinstance(self.mlp_ratio, int | float) or not 1 <= self.dim * self.mlp_ratio < float("inf"):
            raise ValueError(f"mlp_ratio must be a number that leaves the MLP some width, not {self.mlp_ratio!r}")

    def check_whole(self, **least: int) -> None:
        """Raise ValueError on a field that is not a whole number of at least what is given."""
        for field, low in least.items():
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise ValueError(f"{field} must be a whole number of at least {low}, not {value!r}")

    def as_json(self) -> dict:
        """The fields and the architecture's name, as a checkpoint keeps them; `presets.config_of` is the way back."""
        return {"architecture": self.architecture, **asdict(self)}

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the input."""
        return (self.input_size, self.input_size) if isinstance(self.input_size, int) else self.input_size

    @property
    def stages(self) -> tuple[StageShape, ...]:
        """The model's stages in the order in which they run; their blocks together are numbered 0 to `depth` - 1."""
        raise NotImplementedError

    @property
    def stage_blocks(self) -> dict[str, range]:
        """The numbers of each stage's blocks, by its name."""
        ends = list(accumulate((len(stage.blocks) for stage in self.stages), initial=0))
        return {stage.name: range(*pair) for stage, pair in zip(self.stages, pairwise(ends), strict=True)}

    def stage_of(self, block: int) -> StageShape:
        """The stage that a block is in, blocks counted through."""
        return [stage for stage in self.stages for _ in stage.blocks][block]

    def grid_of(self, block: int, size: tuple[int, int] | None = None) -> tuple[int, int]:
        """(rows, columns) of a block's tokens, for an input of `size` (h, w), by default the trained one."""
        h, w = size or self.size
        patch = self.stage_of(block).patch
        return h // patch, w // patch

    @property
    def block_names(self) -> list[str]:
        """What to call the blocks, one after the other."""
        return [f"{stage.name} {name}".strip() for stage in self.stages for name in stage.blocks]

    @property
    def out_channels(self) -> int:
        """Channels of the output: twice the input's with a learned variance."""
        return self.in_channels * (2 if self.learned_variance else 1)
