"""What a file may leave unsaid of its model, said by whoever opens it."""

from dataclasses import asdict, dataclass
from typing import Literal, get_args

from dit_lab.checkpoints.reading import CheckpointError
from dit_lab.models import Config
from dit_lab.program import quoted

KIND = Literal["dit", "sit"]
TRAINED_AS = {("linear", "eps"): "dit", ("sit", "sit_velocity"): "sit"}  # by schedule and prediction


@dataclass(frozen=True)
class Told:
    """What is known of a checkpoint besides its file. Raises CheckpointError on what no model has."""

    trained_as: KIND | None = None
    """What an original file was trained as where nothing in it says: dit (noise), or sit (SiT's flow, the velocity)."""
    heads: int | None = None
    """Attention heads of an original file whose width is not one of the paper's."""
    num_classes: int | None = None
    """Classes of an original file: the rows of its label table, or, with a null label, one less."""
    input_size: int | tuple[int, int] | None = None
    """Side, or rows and columns, of an original file's input, in latents or pixels, where nothing in it says."""

    def __post_init__(self):
        if self.trained_as not in (None, *get_args(KIND)):
            known = " or ".join(get_args(KIND))
            raise CheckpointError(f"trained_as must be {known}, not {quoted(self.trained_as)}")
        for name, least in dict(heads=1, num_classes=0).items():
            if not whole(value := getattr(self, name), least) and value is not None:
                raise CheckpointError(f"{name} must be a whole number of at least {least}, not {quoted(value)}")
        size = self.input_size
        pair = size if isinstance(size, tuple) and len(size) == 2 else (size, size)
        if size is not None and not all(whole(side, 1) for side in pair):
            raise CheckpointError(f"input_size must be one or two whole numbers of at least 1, not {quoted(size)}")

    @property
    def known(self) -> dict:
        """What is said, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def check(self, config: Config) -> None:
        """Raise CheckpointError where a checkpoint says of itself what contradicts this."""
        (h, w), trained_for = config.size, (config.schedule, config.prediction)
        there = {
            "trained_as": TRAINED_AS.get(trained_for, " and ".join(trained_for)),
            "heads": config.heads,
            "num_classes": config.num_classes,
            "input_size": (h, w),
        }
        for name, value in self.known.items():
            value = (value, value) if name == "input_size" and isinstance(value, int) else value
            if value != there[name]:
                raise CheckpointError(f"it says of itself {name} {there[name]}, not {quoted(value)}; leave {name} out")


def whole(value, least: int) -> bool:
    """Whether this is a whole number of at least so much."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
