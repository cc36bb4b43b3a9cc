"""The command line: `python -m dit_lab COMMAND`, or `dit_lab COMMAND` once installed.

A command is a typed function in a module of its own, which is imported only when the command runs.
"""

import sys
from difflib import get_close_matches
from importlib import import_module

from dit_lab.program import run, stop

COMMANDS = {
    "train": ("dit_lab.commands.train", "train_command", "train a DiT on pictures, or resume a run"),
    "sample": ("dit_lab.commands.sample", "sample_command", "draw pictures with a checkpoint"),
    "evaluate": (
        "dit_lab.commands.evaluate",
        "evaluate_command",
        "measure how far a checkpoint's pictures are from real ones",
    ),
    "encode": ("dit_lab.commands.encode", "encode_command", "encode pictures by a VAE, for training on latents"),
    "convert": ("dit_lab.commands.convert", "convert_command", "convert a checkpoint between formats"),
    "count": ("dit_lab.models.count", "count_command", "count parameters and multiply-accumulates, part by part"),
}


def main() -> None:
    """Run one command; a mistake in its input is one sentence on standard error and exit code 2."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
    elif name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {near[0]}?" if near else "."
        stop(f"there is no command {name!r}{hint} The commands are {', '.join(COMMANDS)}.", 2)
    else:
        module, function, _ = COMMANDS[name]
        run(getattr(import_module(module), function), f"dit_lab {name}", rest)


def usage() -> str:
    """The list of commands."""
    lines = [f"  {name:<9} {what}" for name, (_, _, what) in COMMANDS.items()]
    head = "usage: dit_lab COMMAND [OPTIONS]\n\nLearn, train and look inside diffusion transformers."
    return "\n".join([head, "", "commands:", *lines, "", "dit_lab COMMAND --help shows a command's options."])
