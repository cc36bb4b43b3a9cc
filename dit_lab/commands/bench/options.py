"""Which options each kind of bench takes: one that it would do nothing with is refused, before any work."""

from pathlib import Path

import torch

from dit_lab.commands.bench.contestants import importable
from dit_lab.commands.bench.timing import WARM_UP
from dit_lab.models import check_compiler, pick_device

RACED = ("models", "batch", "rounds", "original", "compile")
TAKES = {
    **dict.fromkeys(("forward", "sample", "train"), RACED),
    "all": (*RACED, "clients", "seconds"),
    "gpu": ("models", "rounds", "original", "compile"),
    **dict.fromkeys(("load", "look", "run"), ("models", "rounds")),
    "app": ("models", "clients", "seconds"),
    "growth": ("rounds",),
}


def check_options(what: str, **given) -> None:
    """Raise ValueError on an option that was given to a kind of bench which has no use for it, or no sense."""
    given = {name: value for name, value in given.items() if not (value is None or value is False or value == ())}
    if idle := [f"--{name}" for name in given if name not in TAKES[what]]:
        taken = ", ".join(f"--{name}" for name in TAKES[what])
        raise ValueError(f"bench {what} takes no {' and no '.join(idle)}; it takes {taken}, --device and --out")
    if what == "gpu" and len(given.get("models", ())) > 1:
        raise ValueError(f"bench gpu has time for one model, not for {len(given['models'])}")
    if (batch := given.get("batch", 1)) < 1:
        raise ValueError(f"a bench needs a batch of at least 1, not {batch}")
    if (rounds := given.get("rounds", WARM_UP + 1)) <= WARM_UP:
        raise ValueError(f"a bench needs at least {WARM_UP + 1} rounds, of which {WARM_UP} warm up, not {rounds}")
    clients, seconds = given.get("clients", 1), given.get("seconds", 1.0)
    if clients < 1 or not 0 < seconds < float("inf"):
        raise ValueError(f"an app is used by at least 1 client for some seconds, not {clients} for {seconds:g}")


def place_for(what: str, device: str | None) -> torch.device:
    """Where a bench runs: on the CPU where nobody says, but rows for a GPU on the one that is there.

    Raises ValueError where there is none, unless the CPU was asked for by name.
    """
    if what != "gpu":
        return pick_device(device or "cpu")
    place = pick_device(device or "auto")
    if place.type == "cpu" and device in (None, "auto"):
        raise ValueError(
            "bench gpu is for a GPU, and there is none here; with --device cpu it runs all the same, for hours"
        )
    return place


def check_contestants(original: Path | None, compile: bool, place: torch.device) -> None:
    """Raise ValueError where the original is no checkout, or nothing can be compiled, and ImportError without timm."""
    for module in ("models", "diffusion") if original else ():
        with importable(original, module):
            pass
    if compile:
        check_compiler(place)
