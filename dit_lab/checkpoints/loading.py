"""`load`: any checkpoint as a model, built without memory of its own and filled with the file's tensors, strictly."""

from dataclasses import dataclass, field
from os import PathLike

import torch
from torch import nn

from dit_lab.checkpoints import meta_dit
from dit_lab.checkpoints.describing import WEIGHTS, described, form_of, history, named_by, qualities_of
from dit_lab.checkpoints.mapping import converted
from dit_lab.checkpoints.places import Place, find
from dit_lab.checkpoints.reading import CheckpointError, first_line, listed, read
from dit_lab.checkpoints.told import Told
from dit_lab.diffusion import Process, process_of
from dit_lab.models import Config, build
from dit_lab.models.unfilled import unfilled
from dit_lab.program import quoted

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Loaded:
    """A model in eval mode, its class names (`num_classes` of them), what its channels are, and where it came from.

    `codec_hint` is "pixels", a VAE's folder or hub id, or None where nothing says; `weights` "ema", "model" (as
    trained) or None likewise. `made` is what else is known: any of `describing.MADE`. `note` is for the reader: what
    was taken for granted because nothing says, and how to say otherwise; "" where there is nothing to tell. `qualities`
    are ways of sampling that are this checkpoint's own, as `diffusion.quality` takes them.
    """

    model: nn.Module
    config: Config
    labels: list[str]
    codec_hint: str | None
    source: str
    weights: str | None = None
    made: dict = field(default_factory=dict)
    note: str = ""
    qualities: dict = field(default_factory=dict)


def load(
    source, *, weights="ema", dtype=torch.float32, device="cpu", allow_nonfinite=False,
    trained_as=None, heads=None, num_classes=None, input_size=None,
) -> Loaded:  # fmt: skip
    """Load a zoo name, a folder or file of ours, an original `.pt`, a diffusers folder, or a hub id.

    `weights` picks "ema" or "model" where there are both; `dtype` None keeps the file's; the last four say what an
    original file may not (`Told`). Nothing in the file is ever run. Raises CheckpointError, in one sentence that names
    the source, when it is not there, not readable, not a DiT, incomplete, contradicts its config or what is told, or
    holds NaN or Inf (loaded all the same with `allow_nonfinite`).
    """
    told = Told(trained_as, heads, num_classes, input_size)
    if not isinstance(source, str | PathLike) or not str(source):
        raise CheckpointError(f"a checkpoint is a zoo name, a path or a hub id, not {quoted(source)}")
    source = str(source)
    if weights not in WEIGHTS:
        raise CheckpointError(f"weights must be one of {', '.join(WEIGHTS)}, not {quoted(weights)}")
    try:
        place = find(source, weights)
        tensors, about = gather(place, weights)
        form = form_of(tensors)
        held, made = history(place, about, weights)
        config, note = described(form, place, tensors, about, told, source)
        told.check(config)
        own = qualities_of(place, about, checked_process(config))
        if form is meta_dit:
            tensors = form.completed(tensors, config)
        model = filled(form, config, tensors, dtype, allow_nonfinite)
        labels, codec = named_by(form, place, about, config)  # last: only now is the number of classes to be believed
    except CheckpointError as error:
        raise CheckpointError(named(source, error)) from error
    except OSError as error:
        raise CheckpointError(named(source, f"could not be read: {error.strerror or error}")) from error
    except (TypeError, IndexError, ArithmeticError) as error:  # values and shapes that no config or DiT has
        raise CheckpointError(named(source, f"its config or tensors make no DiT: {first_line(error)}")) from error
    return Loaded(model.to(device).eval(), config, labels, codec, source, held, made, note, own)


def named(source: str, sentence) -> str:
    """The sentence, begun with the source where it does not name it; what cannot be printed in it is escaped."""
    text = str(sentence) if source in str(sentence) else f"{source}: {sentence}"
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def gather(place: Place, weights: str) -> tuple[dict[str, torch.Tensor], dict]:
    """The tensors of all files of a place, and what they say about themselves."""
    tensors, about = {}, {}
    for path in place.tensors:
        more, about = read(path, weights)
        tensors |= more
    return tensors, about


def filled(form, config: Config, tensors: dict, dtype, allow_nonfinite: bool) -> nn.Module:
    """A model whose tensors are the file's. Raises CheckpointError unless they are exactly the ones it should have."""
    if config.depth > len(tensors):
        raise CheckpointError(f"its config says {config.depth} blocks, its file has {len(tensors)} tensors in all")
    try:
        with unfilled():
            model = build(config)
    except (ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"its config makes no {config.architecture}: {first_line(error)}") from error
    check_same(tensors, form.to_theirs(model.state_dict(), config))
    if strange := [f"{name} ({tensor.dtype})" for name, tensor in tensors.items() if tensor.dtype not in FLOATS]:
        raise CheckpointError(f"weights should be floats of 16, 32 or 64 bits, not {listed(strange)}")
    ours = form.to_ours(tensors, config)
    tensors.clear()
    broken = []
    for name in ours:
        # One at a time: dropped after it was converted, a mapped tensor's part of the file leaves memory too. What was
        # converted is looked at while it is still in the processor's cache.
        ours[name] = converted(ours[name], dtype)
        if not allow_nonfinite and not is_finite(ours[name]):
            broken.append(name)
    check_finite(broken)
    model.load_state_dict(ours, assign=True)
    return model


def checked_process(config: Config) -> Process:
    """The process of a config. Raises CheckpointError where what it says of its training is nothing to sample by."""
    try:
        return process_of(config)
    except ValueError as error:
        raise CheckpointError(f"its config says of what it was trained for: {error}") from error


def check_same(tensors: dict, expected: dict) -> None:
    """Raise CheckpointError naming the tensors that are missing, that have no place, or whose shape does not fit."""
    shape = lambda tensor: "x".join(map(str, tensor.shape)) or "scalar"
    misshaped = [
        f"{name} ({shape(tensors[name])}, not {shape(expected[name])})"
        for name in expected
        if name in tensors and tensors[name].shape != expected[name].shape
    ]
    faults = {
        "missing": [name for name in expected if name not in tensors],
        "not part of this model": [name for name in tensors if name not in expected],
        "of another shape than its config says": misshaped,
    }
    if any(faults.values()):
        found = "; ".join(f"{what}: {listed(names)}" for what, names in faults.items() if names)
        raise CheckpointError(f"its tensors do not fit its config. {found}")


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds neither NaN nor Inf: its ends show both and, unlike isfinite, make no second tensor."""
    return all(map(torch.isfinite, torch.aminmax(tensor)))


def check_finite(broken: list[str]) -> None:
    """Raise CheckpointError naming the tensors that hold NaN or Inf, if there are any."""
    if broken:
        raise CheckpointError(
            f"NaN or Inf in {listed(broken)}; a training run that diverged? Load it with allow_nonfinite=True to look"
        )
