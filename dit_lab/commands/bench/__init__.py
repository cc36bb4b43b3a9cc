"""`python -m dit_lab bench`: what people wait for, timed against diffusers and the original, side by side.

Contestants take turns in one process, and of each the median, its spread, the ratio to the first, the share of the
matrix-product peak measured in the same run, and the numerical error are given.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal

from dit_lab.commands.bench.gpu import bench_gpu
from dit_lab.commands.bench.growing import bench_growth
from dit_lab.commands.bench.loading import bench_load
from dit_lab.commands.bench.looking import bench_look
from dit_lab.commands.bench.options import check_contestants, check_options, place_for
from dit_lab.commands.bench.report import Line, keep, kept, machine
from dit_lab.commands.bench.running import ALL, bench_run, opened
from dit_lab.commands.bench.sampling import Field, bench_forward, bench_step, bench_udit, latents
from dit_lab.commands.bench.serving import bench_app
from dit_lab.commands.bench.training import bench_training
from dit_lab.files import writable
from dit_lab.models import DiTConfig, preset

WHAT = Literal["forward", "sample", "run", "train", "load", "look", "app", "growth", "gpu", "all"]


def bench_command(
    what: WHAT = "forward",
    /,
    *,
    models: tuple[str, ...] = (),
    batch: int | None = None,
    rounds: int | None = None,
    clients: int | None = None,
    seconds: float | None = None,
    device: str | None = None,
    original: Path | None = None,
    compile: bool = False,
    out: Path | None = None,
) -> None:
    """Time what people wait for, here against diffusers and the original, in turns in one process.

    Args:
        what: What to time: run is whole runs of trained models with the errors of their samples, few steps and caches
            among them, gpu all rows for a GPU, look each look inside a run, app the app with many who use it at once,
            growth how cost grows with tokens, width, depth, batch and steps, all everything else.
        models: Presets to time, with random weights (default: DiT-S/2 and DiT-B/2; load and gpu: DiT-XL/2; look:
            DiT-S/2 and the zoo's mnist, there checkpoints may be named too; run: the zoo's mnist, or checkpoints; app:
            checkpoints to serve, else the zoo).
        batch: Latents a call, of forward, sample, train and all (default: 8 for DiT-S/2 and 4 for others, at a guided
            step 4 pictures).
        rounds: Turns that each side takes, of all but app; the first two warm up and are not counted (default: 7).
        clients: Tabs that use the app at once; each samples, clicks and scrubs (default: 10).
        seconds: How long they do (default: 300).
        device: cpu or cuda (default: cpu; gpu: the GPU that is there).
        original: A checkout of facebookresearch/DiT to time too in forward, sample, train, gpu and all; it needs timm.
        compile: Also time compiled code, in the same; each first call takes a minute or so.
        out: Folder for bench-WHAT.json and bench-WHAT.md.
    """
    check_options(
        what, models=models, batch=batch, rounds=rounds, clients=clients, seconds=seconds, original=original,
        compile=compile,
    )  # fmt: skip
    place, rounds = place_for(what, device), rounds or 7
    check_contestants(original, compile, place)
    if out is not None:
        writable(out / f"bench-{what}.json", out / f"bench-{what}.md")
    if what == "app":
        return bench_app(models, clients or 10, seconds or 300.0, str(place), {"machine": machine(place)}, out)
    about = {"machine": machine(place), "rounds": rounds}
    if what == "growth":
        return bench_growth(rounds, place, about, out)
    if what == "look":
        return bench_look(models or ("DiT-S/2", "mnist"), rounds, place, about, out)
    told = ", ".join(f"{name}: {value}" for name, value in about.items())
    if what == "run":
        runs = {name: opened(name, place) for name in models or ("mnist",)}
        about |= {"error": f"of a sample, against {ALL:,} steps of DDIM in fp32"}
        works = (bench_run(name, loaded, rounds, place) for name, loaded in runs.items())
    else:
        if others := [name for name in models if not isinstance(preset(name), DiTConfig)]:
            raise ValueError(
                f"diffusers has no {', '.join(others)}; name DiTs, U-DiT-S is timed against DiT-S/2 anyway"
            )
        measured = partial(Field.measured, place, rounds, original, compile, about)
        works = chain(loads(what, models, rounds, place, about), races(what, models, batch, measured))
    print(told)
    lines = []
    for found in works:
        lines += found
        if out is not None:  # after each, so that a run that is killed leaves what it measured
            keep(out, what, about, lines)
    kept(out, what, about, lines)


def loads(what: str, models: tuple[str, ...], rounds: int, place, about: dict) -> Iterator[list[Line]]:
    """What there is to load, a preset at a time."""
    for name in models or ("DiT-XL/2",) if what in ("load", "all") else ():
        yield bench_load(name, rounds, place, about)


def races(what: str, models: tuple[str, ...], batch: int | None, measured: Callable) -> Iterator[list[Line]]:
    """What contestants race at, a work at a time; `measured() -> Field` comes before."""
    presets = models or ("DiT-S/2", "DiT-B/2")
    if what == "gpu":
        yield from bench_gpu(measured, *models)
    elif what != "load":
        field = measured()
        for name in presets if what in ("forward", "all") else ():
            yield bench_forward(name, batch or latents(name), field)
        for name in presets if what in ("sample", "all") else ():
            yield bench_step(name, batch or 4, field)
        for name in presets if what in ("train", "all") else ():
            yield bench_training((name,), batch or 0, field)
        if what in ("forward", "all"):
            yield bench_udit(batch or 8, field)
