"""What a checkpoint is: which format, of which model, under which names, and what of it nobody said."""

from dataclasses import replace
from pathlib import Path

from dit_lab.checkpoints import diffusers_dit, meta_dit, origin, own, udit
from dit_lab.checkpoints.lookalikes import look_of
from dit_lab.checkpoints.places import Place
from dit_lab.checkpoints.reading import CheckpointError, listed
from dit_lab.checkpoints.told import Told
from dit_lab.diffusion import Process, check_own, objective
from dit_lab.models import Config
from dit_lab.program import quoted

FORMATS = (own, meta_dit, udit, diffusers_dit)
BARE = (meta_dit, udit)  # their shapes alone say what model it is, or the JSON that `convert` writes beside them
WEIGHTS = ("ema", "model")
LONGEST = 1000  # letters of a class's name
# Of a checkpoint's training: how long, the decay of the weights' average, which VAE encoder its latents are from.
MADE = {"trained_steps": int, "ema_decay": float, "encoder_checksum": str}
QUALITIES = "qualities"  # ways of sampling that are its own, by name (`diffusion.quality`)
NO_SCHEDULER = (
    "no scheduler says what it was trained for, so it is taken for a DiT's (noise, linear betas); "
    "if it is not, open the folder of its pipeline"
)


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


def form_of(tensors: dict):
    """The format whose names these are. Raises CheckpointError, saying what they look like, where it is none."""
    form = next((form for form in FORMATS if form.matches(tensors)), None)
    if form in (None, meta_dit) and (look := look_of(tensors)):
        raise CheckpointError(f"its tensors are those of {look[0]} ({listed(look[1:])}), which dit_lab does not have")
    if form is None:
        raise CheckpointError(f"its tensors are no DiT's: {listed(sorted(tensors)) or 'it has none'}")
    return form


def described(form, place: Place, tensors: dict, about: dict, told: Told, source: str) -> tuple[Config, str]:
    """(the config in the JSON beside the tensors, in their file's own words, or in their shapes; what was guessed)."""
    if form is diffusers_dit:
        return form.config_of(tensors, place.config, place.scheduler), "" if place.scheduler else NO_SCHEDULER
    if is_bare(form, place):
        return original(form, tensors, told, arguments(about), names_of(place, source))
    run = about.get("run", about)  # a training state keeps its model's config with the run
    said = run.get("model") if isinstance(run, dict) else None
    ours = {**about, **place.config}
    ours["model"] = ours.get("model", said)
    made = own.config_of(ours)
    if said is not None and own.config_of({**ours, "model": said}) != made:
        raise CheckpointError("its config.json and what the tensors' file says of itself are of different models")
    return made, ""


def original(form, tensors: dict, told: Told, args: dict, names: list[str]) -> tuple[Config, str]:
    """(an original's config, what of it had to be guessed)."""
    config = form.config_of(tensors, told, args)
    guesses = [origin.guess_of_classes(config, told, args)]
    if form is udit and origin.size_of(config.in_channels, told, args) is None:
        guesses.append(origin.UNSIZED)
    if form is meta_dit:
        kind = origin.trained_as(told, args, names)
        config = replace(config, **objective("sit")) if kind == "sit" else config
        guesses.append("" if kind else origin.UNKNOWN)
    return config, "; ".join(filter(None, guesses))


def names_of(place: Place, source: str) -> list[str]:
    """What the file and the folders that it is in are called, the nearest first, and then the words of `source`."""
    return [*place.tensors[0].absolute().parts[:-4:-1], *Path(source).parts[:-4:-1]]


def named_by(form, place: Place, about: dict, config: Config) -> tuple[list[str], str | None]:
    """(class names, codec) from the same places."""
    if form is diffusers_dit:
        codec = str(place.vae) if place.vae else meta_dit.codec_of(config, {})
        return texts(form.labels_of(place.index, config), config), codec
    if is_bare(form, place):
        return texts(form.labels_of(config), config), form.codec_of(config, arguments(about))
    ours = {**about, **place.config}
    if not isinstance(codec := ours.get("codec"), str | None):
        raise CheckpointError(f"its config's codec should be a name, not {quoted(codec)}")
    return texts(ours.get("labels"), config), codec


def qualities_of(place: Place, about: dict, process: Process) -> dict:
    """The checkpoint's own ways of sampling, none in most. Raises CheckpointError on what is no such way."""
    own = {**about, **place.config}.get(QUALITIES, {})
    try:
        check_own(own, process)
    except ValueError as error:
        raise CheckpointError(f"its config's {QUALITIES} cannot be sampled by: {error}") from error
    return own


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
    for label in labels:
        if not isinstance(label, str | int | float) or len(str(label)) > LONGEST:
            raise CheckpointError(f"its class names should be texts, not {quoted(label)}")
    return [str(label) for label in labels]
