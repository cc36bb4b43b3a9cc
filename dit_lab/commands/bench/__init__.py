"""`python -m dit_lab bench`: what people wait for, timed against diffusers and the original, side by side.

Contestants take turns in one process, and of each the median, its spread, the ratio to the first, the share of the
matrix-product peak measured in the same run, and the numerical error are given.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

from dit_lab.checkpoints import load, zoo
from dit_lab.commands.bench.gpu import bench_gpu, finished
from dit_lab.commands.bench.growing import bench_growth
from dit_lab.commands.bench.loading import bench_load
from dit_lab.commands.bench.looking import bench_look
from dit_lab.commands.bench.options import check_contestants, check_options, place_for
from dit_lab.commands.bench.report import Line, keep, kept, machine
from dit_lab.commands.bench.running import ALL, bench_run, opened
from dit_lab.commands.bench.sampling import Field, bench_forward, bench_step, bench_trained, bench_udit, latents
from dit_lab.commands.bench.serving import bench_app
from dit_lab.commands.bench.training import bench_training
from dit_lab.files import writable
from dit_lab.models import DiTConfig, preset

WHAT = Literal["forward", "sample", "run", "train", "load", "look", "app", "growth", "gpu", "all"]
PAGED = "look", "growth", "app"  # with lines, and so a page, of their own


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
            growth how cost grows with tokens, width, depth, batch and steps, all everything but gpu, what takes least
            first and without what fails, which says why: an hour or so on two cores, longer with --compile.
        models: Presets to time, with random weights (default: DiT-S/2 and DiT-B/2; forward takes the zoo's models too,
            by batches of 2 and ours alone, load and gpu: DiT-XL/2; look:
            DiT-S/2 and the zoo's mnist, there checkpoints may be named too; run: the zoo's mnist, or checkpoints; app:
            checkpoints to serve, else the zoo). Of all they are raced and loaded, and the others have their own.
        batch: Latents a call, of forward, sample, train and all (default: 8 for DiT-S/2 and 4 for others, at a guided
            step 4 pictures).
        rounds: Turns that each side takes, of all but app; the first two warm up and are not counted (default: 7).
        clients: Tabs that use the app at once; each samples, clicks and scrubs (default: 10).
        seconds: How long they do (default: 300).
        device: cpu or cuda (default: cpu; gpu: the GPU that is there).
        original: A checkout of facebookresearch/DiT to time too in forward, sample, train, gpu and all; it needs timm.
        compile: Also time compiled code, in the same; each first call takes a minute or so.
        out: Folder for bench-WHAT.json and bench-WHAT.md; of all also for those of look, growth and app.
    """
    check_options(
        what, models=models, batch=batch, rounds=rounds, clients=clients, seconds=seconds, original=original,
        compile=compile,
    )  # fmt: skip
    place, rounds = place_for(what, device), rounds or 7
    check_contestants(original, compile, place)
    check_outputs(what, out)
    known = {"machine": machine(place), "rounds": rounds}
    named = () if what == "all" else models
    paged = {
        "look": lambda: bench_look(named or ("DiT-S/2", "mnist"), rounds, place, known, out),
        "growth": lambda: bench_growth(rounds, place, known, out),
        "app": lambda: bench_app(named, clients or 10, seconds or 300.0, f"{place}", {"machine": machine(place)}, out),
    }
    if what in paged:
        return paged[what]()
    check_models(what, models)
    about = dict(known)
    runs = whole_runs(what, named or ("mnist",), rounds, place, about)
    print(", ".join(f"{name}: {value}" for name, value in known.items()))
    measured = partial(Field.measured, place, rounds, original, compile, about)
    if what == "gpu":
        works = bench_gpu(measured, *models)
    else:
        races = {} if what in ("load", "run") else raced(what, models, batch, measured())
        files = models or ("DiT-XL/2",) if what in ("load", "all") else ()
        loads = {f"loading {name}": partial(bench_load, name, rounds, place, about) for name in files}
        if what == "all":  # what takes least first
            parts = races | runs | {name: paged[name] for name in ("look", "growth")} | loads | {"app": paged["app"]}
            works = (finished(name, bench) or [] for name, bench in parts.items())
        else:
            works = (bench() for bench in (races | runs | loads).values())
    lines = []
    for found in works:
        lines += found
        if out is not None:  # after each, so that a run that is killed leaves what it measured
            keep(out, what, about, lines)
    kept(out, what, about, lines)


def check_outputs(what: str, out: Path | None) -> None:
    """Raise OSError or ValueError, before any work, where a page cannot be written."""
    if out is not None:
        names = (what, *PAGED) if what == "all" else (what,)
        writable(*(out / f"bench-{name}.{kind}" for name in names for kind in ("json", "md")))


def whole_runs(what: str, names: tuple[str, ...], rounds: int, place, about: dict) -> dict[str, Callable]:
    """Whole runs of models that are opened here, by name, where they are measured; `about` then says their error."""
    if what not in ("run", "all"):
        return {}
    models = {name: opened(name, place) for name in names}
    about[f"error{' of whole runs' * (what == 'all')}"] = f"of a sample, against {ALL:,} steps of DDIM in fp32"
    return {f"runs of {name}": partial(bench_run, name, loaded, rounds, place) for name, loaded in models.items()}


def check_models(what: str, models: tuple[str, ...]) -> None:
    """Raise ValueError on a preset that is not there, and on one to be raced that diffusers does not have."""
    known = zoo() if what == "forward" else models if what == "run" else ()
    others = [name for name in models if name not in known and not isinstance(preset(name), DiTConfig)]
    if others and what != "load":
        raise ValueError(f"diffusers has no {', '.join(others)}; name DiTs, U-DiT-S is timed against DiT-S/2 anyway")


def raced(what: str, models: tuple[str, ...], batch: int | None, field: Field) -> dict[str, Callable[[], list[Line]]]:
    """What contestants race at, by name."""
    found, every, trained = {}, what == "all", [name for name in models if name in zoo()]
    presets = [name for name in models if name not in trained] if models else ["DiT-S/2", "DiT-B/2"]
    for name in trained:
        loaded = load(name, device=field.device)
        found[f"forwards of {name}"] = partial(bench_trained, name, loaded.model, batch or 2, field)
    if presets and (every or what == "forward"):
        found |= {
            f"forwards of {name}": partial(bench_forward, name, batch or latents(name), field) for name in presets
        }
        found["forwards of U-DiT-S"] = partial(bench_udit, batch or 8, field)
    if every or what == "sample":
        found |= {f"guided steps of {name}": partial(bench_step, name, batch or 4, field) for name in presets}
    if every or what == "train":
        found |= {f"training steps of {name}": partial(bench_training, (name,), batch or 0, field) for name in presets}
    return found
