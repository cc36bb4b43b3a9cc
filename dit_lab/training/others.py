"""Runs of the original's script (facebookresearch/DiT, fast-DiT) gone on with here, and ours given back to it.

And ours gone on with as they were started, be it from one of the original's, whose file is then needed no more.
"""

from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from dit_lab.checkpoints import CheckpointError, MetaRun, load
from dit_lab.checkpoints.places import STATE
from dit_lab.diffusion.whole import whole
from dit_lab.models import Config, config_of
from dit_lab.training.options import TrainOptions
from dit_lab.training.state import MOMENTS, TrainState, described

# What the original's script does and its checkpoints do not say.
SCRIPT = dict(ema_decay=0.9999, ema_warmup=False, clip=None, precision="fp32", label_dropout=0.1)
SEED_AND_BATCH = {"global_seed": "seed", "global_batch_size": "batch_size"}  # of its arguments


class Tensors(NamedTuple):
    """Tensors by the names that a training state has for them, asked for as of an open file."""

    held: dict[str, torch.Tensor]

    def get_tensor(self, name: str) -> torch.Tensor:
        """One of them."""
        return self.held[name]


def recipe(run: MetaRun, options: TrainOptions, given: Collection[str] = ()) -> TrainOptions:
    """The options with which a run goes on as it was: its own and its script's, where `options` are at our defaults.

    Those that are `given`, by name, count also where they are at our defaults. Raises ValueError on what no run has,
    and where the run has done all the steps that are asked for.
    """
    usual, own = TrainOptions(), as_it_was(run)
    left = {name for name in own if name not in given and getattr(options, name) == getattr(usual, name)}
    try:
        options = replace(options, **{name: own[name] for name in left})
    except ValueError as error:
        raise CheckpointError(f"{run.loaded.source} says of its training what no run has: {error}") from error
    if run.step >= options.steps:
        raise ValueError(
            f"{run.loaded.source} has done {run.step} steps already, and {options.steps} are asked for in all; "
            "ask for more with --steps"
        )
    return options


def as_it_was(run: MetaRun) -> dict:
    """What a run was trained with, by our options' names."""
    args = {ours: run.args[theirs] for theirs, ours in SEED_AND_BATCH.items() if whole(run.args.get(theirs))}
    betas = run.adamw["betas"]
    return SCRIPT | args | run.adamw | {"betas": tuple(betas) if isinstance(betas, list | tuple) else (betas,)}


def told(run: MetaRun, options: TrainOptions) -> str:
    """With what a run is gone on with, and what of it is other than it was, in a sentence."""
    was = as_it_was(run)
    same = [f"{name} {value}" for name, value in was.items() if getattr(options, name) == value]
    other = [f"{name} {getattr(options, name)} (was {value})" for name, value in was.items()
             if getattr(options, name) != value]  # fmt: skip
    sentence = f"{run.loaded.source} goes on after step {run.step} as it was, with {', '.join(same)}"
    sentence += f"; otherwise than it was, with {', '.join(other)}" if other else ""
    flipped = run.args.get("data_path") and not options.mirror  # fast-DiT trains on features, as they are
    return sentence + ("; its script also flips half of the pictures (--mirror)" if flipped else "")


def take_over(state: TrainState, run: MetaRun) -> None:
    """Fill a fresh state with another's weights, average, moments and step; further averages begin at the weights."""
    trained = run.loaded.model.state_dict()
    tensors = {f"model.{name}": tensor for name, tensor in trained.items()}
    for decay in state.averages:
        title = state.title(decay)
        average = run.average if title == "ema" else trained
        tensors |= {f"{title}.{name}": tensor for name, tensor in average.items()}
    for name in run.average:
        tensors |= {f"optimiser.{moment}.{name}": values[name] for moment, values in run.moments.items()}
        tensors[f"optimiser.step.{name}"] = torch.tensor(float(run.step))
    state.fill(Tensors(tensors))
    state.step = run.step


def as_started(folder: Path, options: TrainOptions, given: Collection[str]) -> TrainOptions:
    """The options with which our run in a folder was started, by its state, but for those that are `given` by name.

    As they are, where that is none of ours: what is wrong with it, whoever continues the run will say.
    """
    try:
        said = said_of(folder).get("option", {})
        own = {name: tuple(value) if isinstance(value, list) else value for name, value in said.items()}
        decay, over, steps = str(own.get("lr_decay", "")).partition("-over-")
        if over:
            own |= {"lr_decay": decay, "steps": int(steps.removesuffix("-steps"))}
        return replace(options, **{name: own[name] for name in asdict(options).keys() & own.keys() - {*given}})
    except (SafetensorError, OSError, ValueError, TypeError):
        return options


def model_of(folder: Path) -> Config | None:
    """The config of the model of our run in a folder, as its state has it, None where that is none of ours."""
    try:
        return config_of(said_of(folder)["model"])
    except (SafetensorError, OSError, ValueError, KeyError):
        return None


def said_of(folder: Path) -> dict:
    """What the state in a run's folder says that makes it this one: its model, option and data, by name.

    Raises SafetensorError, OSError or ValueError where it is none of ours.
    """
    with safe_open(folder / STATE, framework="pt") as file:
        return described(file)["run"]


def changes(options: TrainOptions, since: TrainOptions) -> str:
    """What of a run's options is otherwise than was asked for, in words."""
    before, now = asdict(since), asdict(options)
    return ", ".join(f"{name} {value}" for name, value in now.items() if value != before[name])


def saved_run(folder: Path) -> MetaRun:
    """A run of ours, from its folder, as one of the original's. Raises CheckpointError where there is none."""
    if not (folder / STATE).is_file():
        raise CheckpointError(f"{folder} holds no run of ours: it has no {STATE}")
    loaded, averaged = (load(folder / STATE, weights=weights) for weights in ("model", "ema"))
    average = {name: tensor.detach() for name, tensor in averaged.model.named_parameters()}
    try:
        with safe_open(folder / STATE, framework="pt") as file:
            about = described(file)
            moments = {moment: {name: file.get_tensor(f"optimiser.{moment}.{name}") for name in average}
                       for moment in MOMENTS[:2]}  # fmt: skip
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{folder / STATE} is not a whole training state") from error
    option = about["run"].get("option", {})
    adamw = {name: option.get(name, usual) for name, usual in ADAMW.items()}
    args = {theirs: option[ours] for theirs, ours in SEED_AND_BATCH.items() if ours in option}
    return MetaRun(loaded, average, moments, about["step"], adamw | {"betas": tuple(adamw["betas"])}, args)


ADAMW = {name: getattr(TrainOptions(), name) for name in ("lr", "betas", "weight_decay")}
