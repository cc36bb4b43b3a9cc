"""The figures of samples, each with its spread: what can be had of them, and why the rest cannot."""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from dit_lab.evaluation import spread
from dit_lab.evaluation.features import Network, Seen
from dit_lab.evaluation.judging import Reference
from dit_lab.evaluation.metrics import (
    NEIGHBOURS,
    PART,
    SUBSETS,
    agreement,
    covered,
    frechet_of_moments,
    inception_score,
    kernel_distance,
    moments,
    subset_size,
)
from dit_lab.evaluation.reading import mistrust, reading_in, reading_of

NO_PICTURES = "the reference holds statistics only, no pictures"
INSTEAD = "take --features inception"
NO_MAP = "the network has no map to take spatial features from"
NO_SPATIAL = "the reference holds no pictures, and no statistics of these spatial features (mu_s, sigma_s)"


class Measured(NamedTuple):
    """Figures by name, the standard deviation of those that have one (`spread`), and why others are left out.

    Of a figure that is there without its spread, `spread of` its name is left out; of all of them, `spreads`.
    """

    figures: dict[str, float]
    spread: dict[str, float]
    left_out: dict[str, str]


class Both(NamedTuple):
    """Samples and the reference as a network saw them, `real` None where the reference is statistics alone."""

    drawn: Seen
    real: Seen | None
    reference: Reference


def measure(network: Network, drawn: Seen, asked, reference: Reference, batch_size: int, seed: int) -> Measured:
    """All figures that can be had, how much each would move on other samples, and why others cannot be had.

    `asked` are the labels of the samples (n) and the model's class names, None for a model without classes. Distances
    have their published names (fid, sfid, kid) with Inception only, others with other networks, so that nobody compares
    them. A small network that does not read real pictures gives none.
    """
    real = None
    if reference.pixels is not None:
        real = network.see(batches(reference.pixels, batch_size), len(reference.pixels), "real pictures")
    both, known = Both(drawn, real, fitted(reference, drawn)), network.about["network"] == "inception"
    figures, classes, reading = {}, len(network.classes), reading_of(network.about)
    if not known and reference.images is not None and classes != 1:  # one class is always read right
        here = reading_in(real.logits.argmax(1), reference.images.labels_shown)
        figures["agreement_of_real"] = here.accuracy
        # What it reads was found out when it was trained, whatever it is compared with now; an older one kept nothing.
        reading = here if reading.accuracy is None else reading
    blind = None if known else mistrust(reading, classes)
    todo = ways(both, known, seed) | ({} if known or asked is None else {"agreement": partial(agreed, drawn, asked[0])})
    left_out = {name: f"{blind}, or {INSTEAD}" for name in todo} if blind else obstacles(both, known)
    if "agreement" in todo and not blind and not same_classes(asked[1], network.classes):
        left_out["agreement"] = "the model's classes have other names than the data's, or another order"
    spreads = {}
    for name in tqdm([name for name in todo if name not in left_out], desc="figures", delay=2):
        found, moved = todo[name]()
        figures |= found
        spreads |= moved
    return Measured(figures, spreads, left_out | unspread(figures, spreads, drawn, known))


def fitted(reference: Reference, drawn: Seen) -> Reference:
    """The reference without statistics of other spatial features than the samples have."""
    fits = None not in (reference.spatial, drawn.spatial) and len(reference.spatial[0]) == drawn.spatial.shape[1]
    return reference if fits else reference._replace(spatial=None)


def names_of(known: bool) -> tuple[str, str, str]:
    """What the Fréchet distance, that of spatial features and the kernel distance are called."""
    return ("fid", "sfid", "kid") if known else ("frechet", "spatial_frechet", "kernel_distance")


def ways(both: Both, known: bool, seed: int) -> dict[str, Callable[[], tuple[dict, dict]]]:
    """How each group of figures is computed, `-> (figures by name, spreads by name)`."""
    frechet, spatial, kernel = names_of(known)
    reference = both.reference
    todo = {
        frechet: lambda: distance(frechet, both.drawn.features, reference.moments or moments(both.real.features)),
        spatial: lambda: distance(spatial, both.drawn.spatial, reference.spatial or moments(both.real.spatial)),
        kernel: lambda: kernels(kernel, both, seed),
        "precision and recall": lambda: manifolds(both),
    }
    return todo | ({"inception_score": lambda: scored(both.drawn.logits)} if known else {})


def distance(name: str, features: torch.Tensor, goal: tuple[torch.Tensor, torch.Tensor]) -> tuple[dict, dict]:
    """A Fréchet distance; its spread where samples without a group are still enough for a covariance."""
    enough = spread.fewest_left(len(features)) > features.shape[1]
    moved = if_enough(name, features, lambda: spread.of_frechet(features, *goal)) if enough else {}
    return {name: frechet_of_moments(*moments(features), *goal)}, moved


def kernels(name: str, both: Both, seed: int) -> tuple[dict, dict]:
    """The kernel distance as published, over random subsets, whose choice has a part in the spread."""
    real, drawn = both.real.features, both.drawn.features
    mean, deviation = kernel_distance(real, drawn, seed)
    found = {name: mean, f"{name}_deviation": deviation, f"{name}_subset": subset_size(len(real), len(drawn))}
    moved = if_enough(name, drawn, lambda: float(np.hypot(spread.of_kernel(real, drawn), deviation / SUBSETS**0.5)))
    return found, moved


def manifolds(both: Both) -> tuple[dict, dict]:
    """Precision and recall."""
    real, drawn = both.real.features, both.drawn.features
    inside = covered(drawn, real)
    found = {"precision": inside.double().mean().item(), "recall": covered(real, drawn).double().mean().item()}
    moved = if_enough("precision", drawn, lambda: spread.of_share(inside))
    return found, moved | if_enough("recall", drawn, lambda: spread.of_recall(real, drawn))


def scored(logits: torch.Tensor) -> tuple[dict, dict]:
    """The Inception score, and how many samples its parts have."""
    found = {"inception_score": inception_score(logits), "inception_score_part": min(PART, len(logits))}
    return found, if_enough("inception_score", logits, lambda: spread.of_inception_score(logits))


def agreed(drawn: Seen, labels: np.ndarray) -> tuple[dict, dict]:
    """The share of samples that look like the class asked for."""
    seen, asked = drawn.logits.argmax(1), torch.from_numpy(labels)
    return {"agreement": agreement(seen, asked)}, if_enough("agreement", seen, lambda: spread.of_share(seen == asked))


def if_enough(name: str, drawn: torch.Tensor, of: Callable[[], float]) -> dict[str, float]:
    """A spread by its figure's name, nothing where samples are too few for one."""
    return {name: of()} if len(drawn) >= spread.LEAST else {}


def unspread(figures: dict, spreads: dict, drawn: Seen, known: bool) -> dict[str, str]:
    """Why figures that are there have no spread, by `spread of` their names; by `spreads` where none has one."""
    count = len(drawn.features)
    if count < spread.LEAST:
        why = f"{count} samples are too few, it takes {spread.LEAST}: figures are taken again without each twentieth"
        return {"spreads": why} if figures.keys() - {"agreement_of_real"} else {}
    frechet, spatial, _ = names_of(known)
    found = {}
    for name, features in (frechet, drawn.features), (spatial, drawn.spatial):
        if name in figures and name not in spreads:
            width = features.shape[1]
            least = next(number for number in itertools.count(count) if spread.fewest_left(number) > width)
            why = f"without a twentieth the covariance of {width} features is singular"
            found[f"spread of {name}"] = f"{count} samples are too few, it takes {least}: {why}"
    return found


def same_classes(names: list[str], others: list[str]) -> bool:
    """Whether class numbers mean the same by these names; mere numbers for names do not say."""
    numbers = [str(number) for number in range(len(names))]
    return names == others or numbers in (names, others)


def obstacles(both: Both, known: bool) -> dict[str, str]:
    """Why some figures cannot be had, by name."""
    frechet, spatial, kernel = names_of(known)
    drawn, real, reference = both
    found = {frechet: too_few(drawn.features, None if reference.moments else real.features)}
    if drawn.spatial is None:
        found[spatial] = NO_MAP
    elif reference.spatial is None and real is None:
        found[spatial] = NO_SPATIAL
    else:
        found[spatial] = too_few(drawn.spatial, None if reference.spatial else real.spatial)
    for name in kernel, "precision and recall":
        found[name] = NO_PICTURES if real is None else neighbourless(min(len(drawn.features), len(real.features)))
    return {name: reason for name, reason in found.items() if reason}


def too_few(*sets: torch.Tensor | None) -> str | None:
    """Why sets of features `n d` are too few for a Fréchet distance: it then tells their number."""
    return singular(min(len(each) for each in sets if each is not None), sets[0].shape[1])


def singular(count: int, width: int) -> str | None:
    """Why so many pictures have no covariance of `width` features."""
    why = f"below that the covariance of {width} features is singular"
    return f"{not_enough(count)}, it takes {width + 1}: {why}" if count <= width else None


def neighbourless(fewest: int) -> str | None:
    """Why so few pictures have no manifold."""
    least = NEIGHBOURS + 1
    return f"{not_enough(fewest)}, it takes {least}: each needs its neighbours" if fewest < least else None


def not_enough(count: int) -> str:
    """That so many pictures are not enough."""
    return f"{count} pictures are too few" if count != 1 else "1 picture is too few"


def batches(pixels, size: int) -> Iterator[np.ndarray]:
    """Pictures `n c h w` in parts of at most `size`."""
    for start in range(0, len(pixels), size):
        yield pixels[np.arange(start, min(start + size, len(pixels)))]
