"""The command line: `python -m dit_lab COMMAND`, or `dit_lab COMMAND` once installed.

A command is a typed function in a module of its own, which is imported only when the command runs.
"""

import sys
from difflib import get_close_matches
from importlib import import_module
from typing import NamedTuple

from dit_lab.program import quoted, refusing, run, stop


class Command(NamedTuple):
    """The module of a command, its function there, and what it does."""

    module: str
    function: str
    what: str


class Group(NamedTuple):
    """Commands under one name, and what they are."""

    commands: dict[str, Command]
    what: str


# By name and not imported: this list must be quick. It is also how a command reaches the experiments, a floor above.
EXPERIMENTS = {
    "four-blocks": Command("experiments.four_blocks", "four_blocks_command", "four ways to condition, compared"),
    "ladder": Command("experiments.ladder", "ladder_command", "from DiT to U-DiT, step by step"),
    "scaling": Command("experiments.scaling", "scaling_command", "what more compute buys, by size and by patch"),
    "causal": Command("experiments.causal", "causal_command", "what parts made, and what goes without them"),
    "fewer-steps": Command("experiments.fewer_steps", "fewer_steps_command", "good pictures after how many forwards"),
    "how-many": Command("experiments.how_many", "how_many_command", "how many pictures make a difference visible"),
    "gallery": Command("experiments.gallery", "gallery_command", "every look inside as a picture, with its control"),
    "spectrum": Command("experiments.spectrum", "spectrum_command", "how coarse the features of a model are"),
}
COMMANDS = {
    "train": Command("commands.train", "train_command", "train a DiT on pictures, or resume a run"),
    "sample": Command("commands.sample", "sample_command", "draw pictures with a checkpoint"),
    "evaluate": Command("commands.evaluate", "evaluate_command", "measure how far its pictures are from real ones"),
    "train-vae": Command("commands.train_vae", "train_vae_command", "train a small VAE on pictures, for encode"),
    "encode": Command("commands.encode", "encode_command", "encode pictures by a VAE, for training on latents"),
    "search-steps": Command("commands.search_steps", "search_steps_command", "search timesteps for few steps"),
    "convert": Command("commands.convert", "convert_command", "convert a checkpoint between formats"),
    "count": Command("commands.count", "count_command", "count parameters and multiply-accumulates, part by part"),
    "bench": Command("commands.bench", "bench_command", "time models against diffusers', in one process"),
    "course": Command("commands.course", "course_command", "list the course's notebooks, and what is done of them"),
    "experiment": Group(EXPERIMENTS, f"an experiment, run for real: {', '.join(EXPERIMENTS)}"),
}


def main() -> None:
    """Run one command; a mistake in its input is one sentence on standard error and exit code 2."""
    with refusing("dit_lab"):
        call("dit_lab", COMMANDS, "command", sys.argv[1:])


def call(program: str, commands: dict, kind: str, arguments: list[str]) -> None:
    """Run the command, or go into the group, that the first argument names."""
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help"):
        print(usage(program, commands, kind))
    elif name not in commands:
        near = get_close_matches(name[:80], commands, n=1)
        hint = f"; did you mean {near[0]}?" if near else "."
        stop(f"there is no {kind} {quoted(name)}{hint} The {kind}s are {', '.join(commands)}.", 2)
    elif isinstance(found := commands[name], Group):
        call(f"{program} {name}", found.commands, name, rest)
    else:
        run(getattr(import_module(f"dit_lab.{found.module}"), found.function), f"{program} {name}", rest)


def usage(program: str, commands: dict, kind: str) -> str:
    """The list of commands."""
    lines = [f"  {name:<12} {command.what}" for name, command in commands.items()]
    head = f"usage: {program} {kind.upper()} [OPTIONS]\n\nLearn, train and look inside diffusion transformers."
    return "\n".join([head, "", f"{kind}s:", *lines, "", f"{program} {kind.upper()} --help shows its options."])
