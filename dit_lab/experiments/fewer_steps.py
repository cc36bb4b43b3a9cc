"""`python -m dit_lab experiment fewer-steps`: how good pictures are after how many forwards, way by way, on the zoo.

A way is a sampler, its steps, whether guidance keeps to an interval, and whether steps are forecast or searched for.
Each is judged by the project's classifier on the same noises; its time is taken apart, on one core.
"""

from itertools import product
from pathlib import Path

import numpy as np
import torch

from dit_lab.checkpoints import load
from dit_lab.data import Images, open_data, picture_codec
from dit_lab.diffusion import Flow, process_of, searched
from dit_lab.evaluation import Classifier, agreement, draw, everything, frechet_distance, judge, judge_for
from dit_lab.experiments.elsewhere import errors
from dit_lab.experiments.fewer_steps_page import tell, timed
from dit_lab.experiments.judge import check_enough
from dit_lab.experiments.kept import NAME, NUMBER, STEP, check_settings, is_object, is_objects
from dit_lab.experiments.reuse import Reusing
from dit_lab.experiments.ways import BUDGETS, HELD_OUT, Way, options_of, ways
from dit_lab.files import atomic, check_fields, make_folder, read_json, writable, write_json
from dit_lab.models import PRECISION, fast, pick_device
from dit_lab.program import quoted

MODELS = {
    "mnist": ("mnist", None), "cifar10": ("cifar10", None), "mnist_udit": ("mnist", 16),
    "cifar10_pixels": ("cifar10", None),
}  # fmt: skip


def fewer_steps_command(
    *, models: tuple[str, ...] = tuple(MODELS), data: Path = Path("data"), seeds: tuple[int, ...] = (1, 2, 3),
    samples: int = 2_000, batch_size: int = 500, cfg_scale: float = 2.0, budgets: tuple[int, ...] = BUDGETS,
    forecasts: bool = True, only: tuple[str, ...] = (), turns: int = 5,
    device: str = "auto", precision: PRECISION = "fp32",
    out: Path = Path("runs/fewer_steps"), results: Path = Path("docs/results/fewer_steps.json"),
) -> None:  # fmt: skip
    """Quality and time of every way to sample, as JSON, a page and a figure; kept as it goes.

    Args:
        models: Of the zoo.
        data: Folder with the data sets, mnist and cifar10, whose test pictures samples are compared with.
        seeds: Of the noise; each draws all pictures anew.
        samples: Pictures of each way and seed; a distance takes 129.
        batch_size: Pictures at a time.
        cfg_scale: Guidance.
        budgets: Forwards of a picture's conditional half.
        forecasts: Whether steps that are not computed but forecast are among the ways.
        only: Names of ways as the page has them, such as "dpmpp 20" or "ddim 20, every 3, order 1, branches": no others
            are compared.
        turns: Turns of the timing, on one core (0: leave it to another run).
        device: cpu, cuda, mps, or auto.
        precision: What the blocks compute in.
        out: Folder for the test pictures, which are read from `data` once.
        results: The JSON to write; the page and the figure go beside it.
    """
    if unknown := [name for name in models if name not in MODELS]:
        raise ValueError(f"models must be of {', '.join(MODELS)}, not {unknown[0]}")
    for option, number, least in ("samples", samples, 1), ("batch-size", batch_size, 1), ("turns", turns, 0):
        if number < least:
            raise ValueError(f"--{option} must be at least {least}, not {number}")
    check_enough(samples, "ask for more --samples")
    writable(results, results.with_suffix(".md"), results.with_suffix(".png"))
    asked = {name: ways_of(name, budgets, forecasts) for name in models}
    if only:
        asked = {name: [way for way in there if str(way) in only] for name, there in asked.items()}
        check_only(only, asked, budgets)
    settings = dict(samples=samples, batch_size=batch_size, cfg_scale=cfg_scale, precision=precision)
    table, where = opened(results, settings), pick_device(device)
    make_folder(results.parent)
    for name in models:
        measured(name, table, results, real(name, data, out), asked[name], seeds, where)
        if load(name).qualities and not only:  # timesteps of its own, which were searched with one guidance
            table["errors"] = [*table.get("errors", []), *errors(name, table, where)]
            write_json(results, table)
    for name in models if turns else ():
        timed(name, table, asked[name], turns)
        write_json(results, table)
    tell(table, results)
    print(f"{results.with_suffix('.md')}: what came out")


def check_only(only: tuple[str, ...], asked: dict[str, list[Way]], budgets: tuple[int, ...]) -> None:
    """Raise ValueError on the name of a way that no model is asked for, and on a model that is asked for none."""
    known = {str(way) for ways in asked.values() for way in ways}
    if unknown := [way for way in only if way not in known]:
        places = f"{', '.join(asked)} with --budgets {' '.join(map(str, budgets))}"
        raise ValueError(f"--only: {quoted(unknown[0])} is none of the ways of {places}; a way is named as in the page")
    if idle := [name for name, ways in asked.items() if not ways]:
        raise ValueError(f"--only names no way of {idle[0]}: leave it out of --models")


def opened(results: Path, settings: dict) -> dict:
    """The table so far. Raises ValueError on a file that is none, and on one made with other settings."""
    if not results.is_file():
        return {"settings": settings, "floors": {}, "searched": [], "rows": [], "times": []}
    try:
        table = read_json(results)
        check_fields(
            table, settings=(is_object, "an object"), floors=(is_object, "an object"),
            **dict.fromkeys(("rows", "searched", "times"), (is_objects, "a list of objects")),
        )  # fmt: skip
        for row in table["rows"]:
            check_fields(row, model=NAME, way=NAME, seed=STEP, frechet=NUMBER, agreement=NUMBER, passes=NUMBER)
    except ValueError as error:
        raise ValueError(f"{results} holds no results of this; give --results another name ({error})") from error
    check_settings(results, table["settings"], settings)
    return table


def ways_of(name: str, budgets: tuple[int, ...], forecasts: bool) -> list[Way]:
    """The ways that are compared for a model of the zoo."""
    return ways(budgets, isinstance(process_of(load(name).config), Flow), forecasts)


def real(name: str, data: Path, out: Path) -> Images:
    """The test pictures of a model's data, at its side; read once, then kept in `out` without their files' formats."""
    source, size = MODELS[name]
    path = out / f"{name}.npz"
    if not path.is_file():
        images = open_data(str(data / source), split="test", size=size)
        make_folder(out)
        with atomic(path) as partial, open(partial, "wb") as file:
            np.savez(file, pixels=images.pixels[:], labels=images.labels, names=np.array(images.names))
    try:
        with np.load(path, allow_pickle=False) as kept:
            return Images(kept["pixels"], kept["labels"], kept["names"].tolist())
    except (KeyError, OSError, ValueError) as error:
        raise ValueError(f"{path} holds no test pictures; remove it, and they are read again ({error})") from error


def measured(name: str, table: dict, results: Path, images: Images, asked: list[Way], seeds, device) -> None:
    """Judge the ways of one model that the table lacks, and keep each as it comes."""
    settings = table["settings"]
    loaded = load(name, device=device)
    model, codec = fast(loaded.model, precision=settings["precision"]), picture_codec(loaded, device=device)
    classifier, goal, floor = judging(images, settings["samples"], device)
    table["floors"][name] = floor
    there = {(row["model"], row["way"], row["seed"]) for row in table["rows"]}
    for way, seed in product(asked, seeds):
        if (name, str(way), seed) in there:
            continue
        steps = timesteps(name, model, way, table)
        drawn, labels, passes = pictures(model, way, steps, settings, seed, codec.decode)
        seen, features = looked(classifier, drawn, device)
        row = dict(frechet=frechet_distance(features, goal), agreement=agreement(seen, labels), passes=passes)
        table["rows"].append(dict(model=name, way=str(way), seed=seed) | row)
        write_json(results, table)
        print(f"{name}, {way}, seed {seed}: {row['frechet']:.2f}, {row['agreement']:.1%}", flush=True)


def judging(images: Images, samples: int, device) -> tuple[Classifier, torch.Tensor, float]:
    """The classifier, its features of the test pictures to compare with, and the distance of as many others to them."""
    no_training = lambda: images  # never asked: a judge for each of these sets ships
    classifier = judge_for(images, "test", no_training, Path())[0].to(device)
    features = looked(classifier, everything(images), device)[1]
    floor = frechet_distance(features[: min(samples, HELD_OUT)], features[HELD_OUT:])
    return classifier, features[HELD_OUT:], floor


def looked(classifier: Classifier, pictures: torch.Tensor, device) -> tuple[torch.Tensor, torch.Tensor]:
    """What the classifier sees in `pictures: n c h w`: classes `n` and features `n d`, on the CPU."""
    with torch.no_grad():
        seen, features = judge(classifier, pictures.to(device))
    return seen.cpu(), features.cpu()


def timesteps(name: str, model, way: Way, table: dict) -> int | list[int]:
    """The steps of a way; searched ones from the table, where they are put when they are first wanted."""
    if not way.searched:
        return way.steps
    key = dict(model=name, sampler=way.sampler, steps=way.steps)
    for row in table["searched"]:
        if key.items() <= row.items():
            return row["timesteps"]
    found, error, even = searched(model, way.sampler, way.steps, cfg_scale=table["settings"]["cfg_scale"])
    table["searched"].append(key | dict(timesteps=found, error=error, even=even))
    return found


def pictures(model, way: Way, steps, settings: dict, seed: int, decode) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Samples of a way, `n c h w` in [-1, 1], their labels, `n`, and how often a picture went through the network."""
    counting, options = (
        Reusing(model, way.every, way.order, way.branches),
        options_of(way, steps, settings["cfg_scale"]),
    )
    plain = lambda final: decode(final).float().cpu()
    about = dict(batch_size=settings["batch_size"], seed=1000 * seed)
    drawn, labels = draw(counting, settings["samples"], decode=plain, **about, **options)
    return drawn, labels, counting.asked / len(labels)
