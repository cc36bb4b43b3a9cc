"""`python -m dit_lab experiment how-many`: how many pictures make a difference visible, by the figures of `evaluate`.

Real pictures stand for samples: sets of n of the training pictures, as they are and with a little noise, are compared
with test pictures by the zoo's small judges. What sets of n say differs from what 10,000 say in two ways, the same for
all (bias) and by chance (spread); the spread that `evaluate` says of one set stands beside the one found over many.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from dit_lab.data import open_data
from dit_lab.evaluation.features import Seen, shipped, small_network
from dit_lab.evaluation.judging import Reference
from dit_lab.evaluation.measuring import Both, agreed, batches, obstacles, ways
from dit_lab.evaluation.metrics import frechet_to, kernel_distance_of_all, moments
from dit_lab.evaluation.spread import LEAST, of_frechet, of_kernel
from dit_lab.experiments.how_many_page import tell
from dit_lab.experiments.kept import NAME, NUMBER, STEP, check_settings, is_object, is_objects
from dit_lab.files import check_fields, make_folder, read_json, writable, write_json
from dit_lab.models import pick_device

SETS = ("mnist", "cifar10")
NOISE = 0.1  # standard deviation of what is laid on pictures in [-1, 1]
MANY = 10_000  # what `evaluate` draws if not told otherwise
POOLS = {"real": 0.0, "noisy": NOISE}
DIMENSIONS = (8, 32, 128)
KERNEL = "kernel_distance"


class Pool(NamedTuple):
    """Pictures to draw sets from, as the judge saw them, and their labels; and the reference."""

    seen: Seen
    labels: np.ndarray
    real: Seen
    reference: Reference


def how_many_command(
    *, data: Path = Path("data"), sets: tuple[str, ...] = SETS,
    counts: tuple[int, ...] = (50, 100, 200, 500, 1000, 2000, 5000), draws: int = 12, pool: int = 20_000,
    reference: int = 2_000, gaussian_draws: int = 100, device: str = "auto",
    results: Path = Path("docs/results/how_many.json"),
) -> None:  # fmt: skip
    """Bias and spread of the figures of n pictures, as JSON and a page; kept as it goes.

    Args:
        data: Folder with the data sets, mnist and cifar10.
        sets: Of these two.
        counts: Pictures of a set.
        draws: Sets of each number.
        pool: Training pictures that sets are drawn from.
        reference: Test pictures to compare with.
        gaussian_draws: Sets of each number from Gaussians at a known distance.
        device: cpu, cuda, mps, or auto.
        results: The JSON to write; the page goes beside it.
    """
    if unknown := [name for name in sets if name not in SETS]:
        raise ValueError(f"sets must be of {', '.join(SETS)}, not {unknown[0]}")
    writable(results, results.with_suffix(".md"))
    table = opened(results, dict(noise=NOISE, pool=pool, reference=reference, many=MANY))
    make_folder(results.parent)
    for name in sets:
        for kind, there in pools(name, data, pool, reference, pick_device(device)):
            measured(name, kind, there, table, results, counts, draws)
    known = {(row["width"], row["count"]) for row in table["gaussian"]}
    for width in DIMENSIONS:
        for count in counts if gaussian_draws else ():
            if count > width + width // 10 and (width, count) not in known:
                table["gaussian"].append(gaussian(width, count, gaussian_draws))
                write_json(results, table)
    tell(table, results)
    print(f"{results.with_suffix('.md')}: what came out")


def opened(results: Path, settings: dict) -> dict:
    """The table so far. Raises ValueError on a file that is none, and on one made with other settings."""
    if not results.is_file():
        return {"settings": settings, "rows": [], "gaussian": []}
    try:
        table = read_json(results)
        lists = dict.fromkeys(("rows", "gaussian"), (is_objects, "a list of objects"))
        check_fields(table, settings=(is_object, "an object"), **lists)
        for row in table["rows"]:
            objects = dict.fromkeys(("figures", "spread"), (is_object, "an object"))
            check_fields(row, set=NAME, pool=NAME, count=STEP, draw=STEP, **objects)
        for row in table["gaussian"]:
            check_fields(row, width=STEP, count=STEP, **dict.fromkeys(("distance", "mean", "found", "said"), NUMBER))
    except ValueError as error:
        raise ValueError(f"{results} holds no results of this; give --results another name ({error})") from error
    check_settings(results, table["settings"], settings)
    return table


def pools(name: str, data: Path, count: int, reference: int, device) -> Iterator[tuple[str, Pool]]:
    """The training pictures of a set, as they are and with noise, as its judge sees them."""
    train, test = (open_data(str(data / name), split=split) for split in ("train", "test"))
    if not shipped(test, "test"):
        raise ValueError(
            f"{data / name} is not the set that the zoo's judge of {name} knows; give its folder with --data"
        )
    network = small_network(test, "test", lambda: train, Path(), device)
    some = lambda images, number: np.sort(np.random.default_rng(0).permutation(len(images))[:number])
    real = network.see(batches(test.pixels[some(test, reference)], 500), reference, f"{name}, test")
    goal = Reference(None, moments(real.features), None, {}, moments(real.spatial))
    pixels, labels = train.pixels[some(train, count)], train.labels[some(train, count)]
    for kind, noise in POOLS.items():
        yield kind, Pool(network.see(noised(pixels, noise), len(pixels), f"{name}, {kind}"), labels, real, goal)


def noised(pictures: np.ndarray, deviation: float) -> Iterator[np.ndarray]:
    """Pictures in uint8 with noise on them, the same every time: `b c h w`."""
    random = np.random.default_rng(0)
    for pixels in batches(pictures, 500):
        noise = random.normal(scale=127.5 * deviation, size=pixels.shape) if deviation else 0
        yield np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)


def measured(name: str, kind: str, pool: Pool, table: dict, results: Path, counts, draws: int) -> None:
    """The figures of sets that the table lacks, and once those of many pictures; kept as they come."""
    there = {(row["set"], row["pool"], row["count"], row["draw"]) for row in table["rows"]}
    for count, number in [*((count, draw) for count in counts for draw in range(draws)), (MANY, 0)]:
        if (name, kind, count, number) in there:
            continue
        figures, moved = figures_of(pool, count, np.random.default_rng([count, number]))
        row = dict(set=name, pool=kind, count=count, draw=number, figures=figures, spread=moved)
        table["rows"].append(row)
        write_json(results, table)
        if number == draws - 1 or count == MANY:
            print(f"{name}, {kind}, {count} pictures: {draws if count < MANY else 1} sets judged", flush=True)


def figures_of(pool: Pool, count: int, random: np.random.Generator) -> tuple[dict, dict]:
    """The figures of a random set, as `evaluate` has them, and their spreads; the kernel distance over all pairs."""
    chosen = random.permutation(len(pool.labels))[:count]
    drawn = Seen(*(part[chosen] for part in pool.seen))
    both = Both(drawn, pool.real, pool.reference)
    found, moved = agreed(drawn, pool.labels[chosen])
    left_out = obstacles(both, known=False)
    for name, way in ways(both, known=False, seed=0).items():
        if name not in left_out:
            figures, spreads = over_all_pairs(both) if name == KERNEL else way()
            found, moved = found | figures, moved | spreads
    return found, moved


def over_all_pairs(both: Both) -> tuple[dict, dict]:
    """The kernel distance without the chance of random subsets, and a hundredth of their cost."""
    real, drawn = both.real.features, both.drawn.features
    moved = {KERNEL: of_kernel(real, drawn)} if len(drawn) >= LEAST else {}
    return {KERNEL: kernel_distance_of_all(real, drawn)}, moved


def gaussian(width: int, count: int, draws: int) -> dict:
    """Fréchet distances of sets of `count` Gaussian features to another Gaussian at a known distance, and their spread.

    Coordinates are independent, with deviations of 1/2 to 2 against 1 and means 0.3 apart. `covered` is the share of
    sets whose figure is within two spreads of the mean of all sets.
    """
    random = torch.Generator().manual_seed(0)
    deviations = torch.linspace(0.5, 2, width, dtype=torch.float64)
    goal = torch.full((width,), 0.3, dtype=torch.float64), torch.eye(width, dtype=torch.float64)
    exact = goal[0].square().sum() + (deviations - 1).square().sum()
    to_goal, found, said = frechet_to(*goal), [], []
    for _ in range(draws):
        x = torch.randn(count, width, generator=random).double() * deviations
        found.append(to_goal(*moments(x)))
        said.append(of_frechet(x, *goal))
    found, said = torch.tensor(found), torch.tensor(said)
    return {
        "width": width, "count": count, "draws": draws, "distance": exact.item(), "mean": found.mean().item(),
        "found": found.std().item(), "said": said.square().mean().sqrt().item(),
        "covered": ((found - found.mean()).abs() <= 2 * said).double().mean().item(),
    }  # fmt: skip
