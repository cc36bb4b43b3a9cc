"""What the config of every diffusion transformer here says: its input, its classes, and what its output stands for."""

from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from typing import ClassVar

import torch

from dit_lab.program import quoted

# What a config may ask for at most, far more than any model has: with all of it, building one on the meta device takes
# no memory and about two seconds. Beyond, a file or a slip of the finger would fill the memory, or never end.
MOST = dict(
    side=2**14, in_channels=2**12, dim=2**16, heads=2**10, num_classes=2**20, mlp_ratio=2**10, depth=2**9,
    patch_size=2**10, tokens=2**18, table=2**25, letters=100,
)  # fmt: skip


@dataclass(frozen=True)
class StageShape:
    """A run of blocks on one grid: its name, those of its blocks, input pixels along a token's side, and its width."""

    name: str
    blocks: tuple[str, ...]
    patch: int
    dim: int


@dataclass(frozen=True)
class Config:
    """The fields that DiT and U-DiT share. Raises ValueError on impossible ones, and beyond `MOST`.

    `input_size` is a side or (rows, columns), in latent or image pixels; `num_classes=0` is an unconditional model.
    Without a `null_label` the label table has one row a class, as that of a model trained without label dropout.
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
    null_label: bool = True

    def __post_init__(self):
        size = self.input_size
        size = tuple(size) if isinstance(size, list) else size
        # A square has one name, so that equal configs compare equal.
        square = isinstance(size, tuple) and len(size) == 2 and size[0] == size[1]
        object.__setattr__(self, "input_size", size[0] if square else size)
        self.check_whole(in_channels=1, dim=4, heads=1, num_classes=0)
        self.check_texts("block", "prediction", "schedule")
        sides = self.size if isinstance(self.size, tuple) else ()
        if len(sides) != 2 or not all(is_whole(side) and 0 < side <= MOST["side"] for side in sides):
            told = f"must be one or two positive whole numbers, of at most {MOST['side']}"
            raise ValueError(f"input_size {quoted(size)} {told}")
        if not isinstance(self.learned_variance, bool):
            raise ValueError(f"learned_variance must be true or false, not {quoted(self.learned_variance)}")
        if not isinstance(self.null_label, bool) or not (self.null_label or self.num_classes):
            told = "null_label must be true or false, and true in a model without classes"
            raise ValueError(f"{told}, not {quoted(self.null_label)}")
        number = isinstance(self.mlp_ratio, int | float) and not isinstance(self.mlp_ratio, bool)
        if not number or not (self.mlp_ratio <= MOST["mlp_ratio"] and self.dim * self.mlp_ratio >= 1):
            told = f"mlp_ratio must be a number that leaves the MLP some width, of at most {MOST['mlp_ratio']}"
            raise ValueError(f"{told}, not {quoted(self.mlp_ratio)}")

    def check_whole(self, **least: int) -> None:
        """Raise ValueError on a field that is not a whole number from what is given to the most there may be."""
        for field, low in least.items():
            value = getattr(self, field)
            if not is_whole(value) or not low <= value <= MOST[field]:
                bound = f"at most {MOST[field]}" if is_whole(value) and value > low else f"at least {low}"
                raise ValueError(f"{field} must be a whole number of {bound}, not {quoted(value)}")

    def check_texts(self, *fields: str) -> None:
        """Raise ValueError on a field that is no name."""
        for field in fields:
            value = getattr(self, field)
            if not isinstance(value, str) or len(value) > MOST["letters"]:
                raise ValueError(f"{field} must be a name, not {quoted(value)}")

    def check_tokens(self) -> None:
        """Raise ValueError on an input of absurdly many tokens, before anything is computed for each."""
        rows, columns = self.grid
        if rows * columns > MOST["tokens"]:
            told = f"input_size {self.size[0]} x {self.size[1]} makes {rows} x {columns} tokens"
            raise ValueError(f"{told}, the most are {MOST['tokens']}")

    def check_labels(self, y) -> None:
        """Raise ValueError on labels `y: b` that are no row of the label table; only those in main memory are read.

        On an accelerator that would make every step wait for the device, and in torch.compile it would cut the graph in
        two; there what `sample` and `train` give has been checked as plain numbers before.
        """
        if y is None or y.device.type != "cpu" or torch.compiler.is_compiling():
            return
        if wrong := y[(y < 0) | (y >= self.labels)].tolist():
            null = "the null label" if self.null_label else "this model has no null label"
            raise ValueError(f"labels must be from 0 to {self.labels - 1} ({null}), not {wrong[0]}")

    def as_json(self) -> dict:
        """The fields and the architecture's name, as a checkpoint keeps them; `presets.config_of` is the way back."""
        fields = asdict(self)
        if self.null_label:
            del fields["null_label"]  # as in files that are older than the field
        return {"architecture": self.architecture, **fields}

    @property
    def labels(self) -> int:
        """How many labels there are, rows of the label table: the classes and, where there is one, the null label."""
        return self.num_classes + self.null_label

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the input."""
        return (self.input_size, self.input_size) if isinstance(self.input_size, int) else self.input_size

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the first block's tokens, the finest grid."""
        raise NotImplementedError

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


def is_whole(value) -> bool:
    """Whether a value is a whole number: Python's, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool)
