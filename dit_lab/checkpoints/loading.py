"""`load`: any checkpoint as a model, built without memory of its own and filled with the file's tensors, strictly."""

import math
from dataclasses import dataclass, field
from os import PathLike

import torch
from torch import nn

from dit_lab.checkpoints import diffusers_dit, meta_dit, own, udit
from dit_lab.checkpoints.places import Place, find
from dit_lab.checkpoints.reading import CheckpointError, first_line, listed, read
from dit_lab.models import Config, build
from dit_lab.models.unfilled import unfilled

FORMATS = (own, meta_dit, udit, diffusers_dit)
BARE = (meta_dit, udit)  # their shapes alone say what model it is, or the JSON that `convert` writes beside them
WEIGHTS = ("ema", "model")
# Of a checkpoint's training: how long, the decay of the weights' average, which VAE encoder its latents are from.
MADE = {"trained_steps": int, "ema_decay": float, "encoder_checksum": str}
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

MOST_TOKENS = 2**18  # an absurd size would fill the memory, with its position table or when it is used


@dataclass(frozen=True)
class Loaded:
    """A model in eval mode, its class names (`num_classes` of them), what its channels are, and where it came from.

    `codec_hint` is "pixels", a VAE's folder or hub id, or None where nothing says; `weights` "ema", "model" (as
    trained) or None likewise. `made` is what else is known: any of `MADE`.
    """

    model: nn.Module
    config: Config
    labels: list[str]
    codec_hint: str | None
    source: str
    weights: str | None = None
    made: dict = field(default_factory=dict)


def load(source, *, weights="ema", dtype=torch.float32, device="cpu", heads=None, allow_nonfinite=False) -> Loaded:
    """Load a zoo name, a folder or file of ours, an original `.pt`, a diffusers folder, or a hub id.

    `weights` picks "ema" or "model" where there are both; `dtype` None keeps the file's; `heads` says what an
    original file of an unknown width cannot. Nothing in the file is ever run. Raises CheckpointError, in one sentence
    that names the source, when it is not there, not readable, not a DiT, incomplete, contradicts its config, or holds
    NaN or Inf (loaded all the same with `allow_nonfinite`).
    """
    if not isinstance(source, str | PathLike) or not str(source):
        raise CheckpointError(f"a checkpoint is a zoo name, a path or a hub id, not {source!r}")
    source = str(source)
    if weights not in WEIGHTS:
        raise CheckpointError(f"weights must be one of {', '.join(WEIGHTS)}, not {weights!r}")
    try:
        place = find(source, weights)
        tensors, about = gather(place, weights)
        form = next((form for form in FORMATS if form.matches(tensors)), None)
        if form is None:
            raise CheckpointError(f"its tensors are no DiT's: {listed(sorted(tensors)) or 'it has none'}")
        held, made = history(place, about, weights)
        config = described(form, place, tensors, about, heads)
        model = filled(form, config, tensors, dtype, allow_nonfinite)
        labels, codec = named_by(form, place, about, config)  # last: only now is the number of classes to be believed
    except CheckpointError as error:
        raise CheckpointError(named(source, error)) from error
    except OSError as error:
        raise CheckpointError(named(source, f"could not be read: {error.strerror or error}")) from error
    except (TypeError, IndexError, ArithmeticError) as error:  # values and shapes that no config or DiT has
        raise CheckpointError(named(source, f"its config or tensors make no DiT: {first_line(error)}")) from error
    return Loaded(model.to(device).eval(), config, labels, codec, source, held, made)


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


def history(place: Place, about: dict, weights: str) -> tuple[str | None, dict]:
    """(which weights these are where something says, what is known of their training). Raises CheckpointError."""
    said = {**about, **place.config}
    made = {name: said[name] for name, kind in MADE.items() if isinstance(said.get(name), kind)}
    held = weights if "run" in about else about.get("weights", "ema" if "ema_decay" in made else None)
    held = held if held in WEIGHTS else None  # a file's word
    if weights == "model" and held == "ema":
        raise CheckpointError("it holds averaged weights (ema) only, no trained ones (model)")
    if held == "model":
        made.pop("ema_decay", None)
    return held, made


def described(form, place: Place, tensors: dict, about: dict, heads) -> Config:
    """The config in the JSON beside the tensors, in their file's own words, or in their shapes."""
    if form is diffusers_dit:
        return form.config_of(tensors, place.config, place.scheduler)
    if is_bare(form, place):
        return form.config_of(tensors, heads)
    said = about.get("run", about).get("model")  # a training state keeps its model's config with the run
    ours = {**about, **place.config}
    ours["model"] = ours.get("model", said)
    made = own.config_of(ours)
    if said is not None and own.config_of({**ours, "model": said}) != made:
        raise CheckpointError("its config.json and what the tensors' file says of itself are of different models")
    return made


def named_by(form, place: Place, about: dict, config: Config) -> tuple[list[str], str | None]:
    """(class names, codec) from the same places."""
    if form is diffusers_dit:
        codec = str(place.vae) if place.vae else meta_dit.codec_of(config, {})
        return texts(form.labels_of(place.index, config), config), codec
    if is_bare(form, place):
        return texts(form.labels_of(config), config), form.codec_of(config, arguments(about))
    ours = {**about, **place.config}
    if not isinstance(codec := ours.get("codec"), str | None):
        raise CheckpointError(f"its config's codec should be a name, not {codec!r}")
    return texts(ours.get("labels"), config), codec


def is_bare(form, place: Place) -> bool:
    """Whether these are an original's tensors without the JSON that `convert` writes beside them."""
    return form in BARE and place.config.get("format") != own.NAME


def arguments(about: dict) -> dict:
    """The original's training arguments, where its file has them."""
    return about["args"] if isinstance(about.get("args"), dict) else {}


def texts(labels, config: Config) -> list[str]:
    """Class names, numbers where there are none. Raises CheckpointError when there are too few or too many."""
    if labels is None:
        return [str(number) for number in range(config.num_classes)]
    if not isinstance(labels, list) or len(labels) != config.num_classes:
        count = len(labels) if isinstance(labels, list) else "no list of"
        raise CheckpointError(f"its config has {count} class names for {config.num_classes} classes")
    return [str(label) for label in labels]


def filled(form, config: Config, tensors: dict, dtype, allow_nonfinite: bool) -> nn.Module:
    """A model whose tensors are the file's. Raises CheckpointError unless they are exactly the ones it should have."""
    if config.depth > len(tensors):
        raise CheckpointError(f"its config says {config.depth} blocks, its file has {len(tensors)} tensors in all")
    if math.prod(config.grid) > MOST_TOKENS:
        raise CheckpointError(f"its config says {config.grid[0]} x {config.grid[1]} tokens, the most are {MOST_TOKENS}")
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
    for name in ours:
        # One at a time: dropped after it was converted, a mapped tensor's part of the file leaves memory too.
        ours[name] = ours[name] if dtype is None else ours[name].to(dtype)
    if not allow_nonfinite:
        check_finite(ours)
    model.load_state_dict(ours, assign=True)
    return model


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


def check_finite(tensors: dict) -> None:
    """Raise CheckpointError naming the tensors that hold NaN or Inf."""
    # The largest magnitude shows both and, unlike isfinite, makes no second tensor.
    broken = [name for name, tensor in tensors.items() if not all(map(torch.isfinite, torch.aminmax(tensor)))]
    if broken:
        raise CheckpointError(
            f"NaN or Inf in {listed(broken)}; a training run that diverged? Load it with allow_nonfinite=True to look"
        )
