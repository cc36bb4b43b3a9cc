"""A training as a command shows it: its steps under a bar, its end by a signal, and how it is gone on with."""

import signal
import sys
from collections.abc import Iterable
from contextlib import closing
from dataclasses import fields
from pathlib import Path

from tqdm.auto import tqdm

from dit_lab.program import stop_flag
from dit_lab.training.parallel import anywhere, processes


def flag(name: str) -> str:
    """An option as the command line spells it."""
    return "--" + name.replace("_", "-")


def asked(words: Iterable[str], kind: type) -> set[str]:
    """The options of a kind, a dataclass, that a command line names, be it to give them the value they have anyway."""
    named = {word.partition("=")[0].replace("_", "-") for word in words}
    return {each.name for each in fields(kind) if named & {flag(each.name), flag(f"no_{each.name}")}}


def follow(steps, total: int, lr_decay: str = "constant") -> int | None:
    """Drive a training generator under a bar, on which each step says what it `told`.

    Returns the signal that stopped it, None where it came to its end. A learning rate that falls (`lr_decay`) does so
    over the steps in all, so that a run of those can be given no more.
    """
    # A log file gets a line twice a minute, a terminal twice a second.
    interval, quiet = 0.5 if sys.stderr.isatty() else 30, not processes().is_main_process
    bar = tqdm(total=total, unit="step", mininterval=interval, disable=quiet)
    with closing(steps), stop_flag() as stopped, bar:
        for step in steps:
            bar.set_postfix_str(step.told, refresh=False)
            if bar.n == 0:
                bar.initial = bar.n = step.step - 1
            bar.update()
            if anywhere(bool(stopped)) and step.step < total:
                return stopped[0] if stopped else signal.SIGTERM
        if bar.n == 0 and not quiet:
            bar.write(f"dit_lab: this run has all its steps already{no_more(lr_decay)}", file=sys.stderr)


def no_more(lr_decay: str) -> str:
    """How to train on what is at its end, in words."""
    if lr_decay == "constant":
        return "; ask for more with --steps"
    fell = f"over which its learning rate fell ({lr_decay}), so it takes no more"
    return f", {fell}; train on from its weights with --init, into another --out"


def leave_if(stopped: int | None, out: Path) -> None:
    """End the program as its signal would have, where one stopped the training; the main process says what is left."""
    if stopped:
        if processes().is_main_process:
            print(f"dit_lab: stopped and saved in {out}; the same command with --resume continues", file=sys.stderr)
        sys.exit(128 + stopped)
