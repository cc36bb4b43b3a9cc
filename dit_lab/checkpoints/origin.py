"""What the original scripts leave beside the tensors: their arguments, and names of files and folders that they chose.

SiT's files (willisma/SiT) have a DiT's tensors; only these say that they are not a DiT's.
"""

import re

from dit_lab.checkpoints.reading import CheckpointError
from dit_lab.checkpoints.told import Told, whole
from dit_lab.models import Config
from dit_lab.program import quoted

LATENTS, PICTURES = (4,), (1, 3)  # channels
LATENT_SIDE = 8  # pixels that a latent of the original's VAE stands for
KIND = re.compile(r"(?<![A-Za-z])(?:(SiT|DiT)(?![A-Za-z])|((?i:sit|dit))[-_]?(?i:xl|[lbs])[-_]?[248](?![a-z0-9]))")
# The one transport of SiT's that dit_lab samples; its script puts both into its folders' names.
TRANSPORT = {"path_type": "Linear", "prediction": "velocity"}
TRANSPORTED = re.compile(r"-(Linear|GVP|VP)-(velocity|score|noise)(?![a-z])")
NOISE = ("eps", "epsilon")
UNSIZED = (
    "nothing says the input's side, so it is taken for 32, latents of 256 pixels; if it is another, say input_size=... "
    "(--input-size)"
)
UNKNOWN = (
    "nothing says what it was trained for, so it is taken for a DiT's, which predicts noise; "
    'if it is a SiT\'s, say trained_as="sit" (--trained-as sit)'
)


def trained_as(told: Told, args: dict, names: list[str]) -> str | None:
    """ "dit", "sit", or None where nothing says: what is told, else the arguments, else the nearest of the names.

    Raises CheckpointError, naming it, for a transport of SiT's that dit_lab does not have.
    """
    named = next(filter(None, map(kind_of, [args.get("model"), *names])), None)
    said = {name: args[name] for name in TRANSPORT if args.get(name) is not None}
    if "path_type" not in said and said.get("prediction") in NOISE:
        said, named = {}, "dit"
    kind = told.trained_as or ("sit" if said else named)
    if kind == "sit":
        check_transport(said or transport_in(names))
    return kind


def kind_of(name) -> str | None:
    """What a name says, `000-SiT-XL-2-Linear-velocity-None -> sit`; None where it says nothing, or both."""
    found = {(exact or loose).lower() for exact, loose in KIND.findall(name)} if isinstance(name, str) else set()
    return found.pop() if len(found) == 1 else None


def transport_in(names: list[str]) -> dict:
    """The transport that SiT's script put into the nearest name that has one."""
    found = next(filter(None, map(TRANSPORTED.search, names)), None)
    return dict(zip(TRANSPORT, found.groups(), strict=True)) if found else {}


def check_transport(said: dict) -> None:
    """Raise CheckpointError unless this is how SiT's own checkpoints are trained."""
    other = [f"{name} {quoted(value)}" for name, value in said.items() if not same(value, TRANSPORT[name])]
    if other:
        only = " with ".join(f"{name} {value!r}" for name, value in TRANSPORT.items())
        raise CheckpointError(f"it was trained with {' and '.join(other)}; of SiT's transports only {only} is known")


def same(value, text: str) -> bool:
    """Whether a value of a file is this text."""
    return isinstance(value, str) and value == text


def classes_of(rows: int, channels: int, told: Told, args: dict) -> dict:
    """The fields of a config that a label table of so many rows means.

    What the arguments say counts where it fits; U-DiT's script takes a number of classes and does without. A table of
    1,000 rows for latents is ImageNet's classes, without a null label. Raises CheckpointError on what is told and does
    not fit.
    """
    said = told.num_classes
    if said is not None and rows - said not in (0, 1):
        fitting = f"{rows - 1} (and the null label) or {rows} (without)"
        raise CheckpointError(f"its label table has {rows} rows, so num_classes is {fitting}, not {quoted(said)}")
    if said is None and number_of_classes(args) in (rows, rows - 1):
        said = number_of_classes(args)
    if said is None:
        said = rows if rows == 1000 and channels in LATENTS else rows - 1
    return {"num_classes": said, "null_label": rows != said}


def number_of_classes(args: dict) -> int | None:
    """What the arguments say."""
    return args["num_classes"] if whole(args.get("num_classes"), 0) else None


def size_of(channels: int, told: Told, args: dict) -> int | tuple[int, int] | None:
    """The side of the input that is told, or that the arguments say; None where neither does.

    Raises CheckpointError on an argument that is no picture's side.
    """
    side, factor = args.get("image_size"), LATENT_SIDE if channels in LATENTS else 1
    if told.input_size is not None or side is None or channels not in (*LATENTS, *PICTURES):
        return told.input_size
    if not whole(side, 1) or side % factor:
        raise CheckpointError(
            f"its training arguments say image_size {quoted(side)}, which is no side of a picture; "
            "say input_size=... (--input-size)"
        )
    return side // factor


def vae_of(args: dict, default: str) -> str:
    """The VAE of the arguments: sd-vae-ft-mse or -ema by the scripts' short names, else what is named.

    Raises CheckpointError when it is no name.
    """
    vae = args.get("vae", default)
    if not isinstance(vae, str) or not vae:
        raise CheckpointError(f"its training arguments' vae should be a name, not {quoted(vae)}")
    return f"stabilityai/sd-vae-ft-{vae}" if vae in ("mse", "ema") else vae


def guess_of_classes(config: Config, told: Told, args: dict) -> str:
    """What to tell where the number of classes was read from the label table alone; "" elsewhere."""
    imagenet = config.num_classes == 1000 and config.in_channels in LATENTS
    said = told.num_classes is not None or number_of_classes(args) == config.num_classes
    if imagenet or said or not config.null_label or not config.num_classes:
        return ""
    rows = config.labels
    return (
        f"its label table of {rows} rows is taken for {rows - 1} classes and the null label; "
        f"if it was trained without label dropout, say num_classes={rows} (--num-classes {rows})"
    )
