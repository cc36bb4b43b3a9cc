"""What samples are judged with: a feature network, real pictures to compare with, and the figures that come out."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from einops import rearrange
from tqdm.auto import tqdm

from dit_lab.data import Images, open_data
from dit_lab.evaluation import adm
from dit_lab.evaluation.features import Network, Seen, small_network
from dit_lab.evaluation.inception import inception
from dit_lab.evaluation.metrics import (
    NEIGHBOURS,
    SPLITS,
    agreement,
    frechet_of_moments,
    inception_score,
    kernel_distance,
    moments,
    precision_recall,
)

NO_PICTURES = "the reference holds statistics only, no pictures"


@dataclass(frozen=True)
class Judging:
    """Which network looks, and which real pictures the samples are compared with."""

    data: str | None = None
    """Real pictures, and what the small network knows: `digits`, a hub id such as ylecun/mnist, or a local folder."""
    split: str | None = None
    """Part of the data to compare with (default: test; with Inception train, as is the field's habit)."""
    size: int | None = None
    """Crop real pictures to their middle square and resize it to this side, as in training (default: as they are)."""
    features: Literal["small", "inception"] = "small"
    """The project's own small network, or Inception for figures that compare with published ones."""
    inception: Path | None = None
    """Inception's weights, where they are not in torch's cache of downloads."""
    reference: Path | None = None
    """An ADM reference batch (.npz) to compare with, instead of the data's split."""


class Reference(NamedTuple):
    """Real `pixels: n c h w` in uint8, None where only features' `moments` are known; `images` where they have labels.

    `images` is the labelled set (an `Images`) whose pixels they are.
    """

    pixels: object
    moments: tuple[torch.Tensor, torch.Tensor] | None
    images: Images | None
    about: dict


def open_judge(judging: Judging, shape: tuple[int, int, int], classes: int, folder: Path, device):
    """The network and the reference for pictures of `shape` (c h w): `-> (Network, Reference)`. Raises ValueError.

    A small network that does not ship is kept in `folder`. `classes` are the model's, 0 without.
    """
    if judging.data is None and (judging.features == "small" or judging.reference is None):
        raise ValueError("say with --data which real pictures the samples are to be compared with")
    network = inception(judging.inception, device) if judging.features == "inception" else None
    reference = None if judging.reference is None else reference_batch(judging.reference, shape)
    if network is None or reference is None:
        split = judging.split or ("test" if judging.features == "small" else "train")
        images = open_data(judging.data, split=split, size=judging.size)
        check_fits(images, shape, classes)
        if network is None:
            training = lambda: open_data(judging.data, split="train", size=judging.size)
            network = small_network(images, split, training, folder, device)
        if reference is None:
            about = {"data": judging.data, "split": split, "size": judging.size, "pictures": len(images)}
            return network, Reference(images.pixels, None, images, about)
    return network, fitting(reference, network, judging.reference)


def check_fits(images, shape: tuple[int, int, int], classes: int) -> None:
    """Raise ValueError unless the data's pictures and classes are like the model's."""
    sides = lambda side: " x ".join(map(str, side[1:]))
    if images.shape[1:] != shape[1:]:
        raise ValueError(
            f"the model makes pictures of {sides(shape)}, the data's are {sides(images.shape)}; "
            "say with --size what they were resized to in training, or give other data"
        )
    if classes and classes != len(images.names):
        raise ValueError(f"the model has {classes} classes, the data {len(images.names)}; give the data it learnt from")


def reference_batch(path: Path, shape: tuple[int, int, int]) -> Reference:
    """A reference from an ADM file. Raises ValueError on one that does not open or holds pictures of other sides."""
    arrays = adm.read(path)
    pixels = rearrange(arrays["arr_0"], "n h w c -> n c h w") if "arr_0" in arrays else None
    if pixels is not None and pixels.shape[2:] != shape[1:]:
        (h, w), (height, width) = shape[1:], pixels.shape[2:]
        raise ValueError(f"the model makes pictures of {h} x {w}, those in {path} are {height} x {width}")
    known = tuple(torch.from_numpy(arrays[name]).double() for name in ("mu", "sigma") if name in arrays)
    about = {"file": path.name, "pictures": None if pixels is None else len(pixels)}
    return Reference(pixels, known if len(known) == 2 else None, None, about)


def fitting(reference: Reference, network: Network, path: Path) -> Reference:
    """The reference without statistics of another network's features. Raises ValueError when nothing is left of it."""
    if reference.moments is None or len(reference.moments[0]) == network.width:
        return reference
    if reference.pixels is None:
        raise ValueError(
            f"{path} holds statistics of {len(reference.moments[0])} features and no pictures; "
            f"{network.about['network']} has {network.width}"
        )
    return reference._replace(moments=None)


def measure(network: Network, drawn: Seen, asked, reference: Reference, batch_size: int, seed: int):
    """All figures that can be had, and why others cannot: `-> (figures by name, reasons by name)`.

    `asked` are the labels of the samples (n) and the model's class names, None for a model without classes. Distances
    have their published names (fid, kid) with Inception only, others with other networks, so that nobody compares them.
    """
    real = None
    if reference.pixels is not None:
        real = network.see(batches(reference.pixels, batch_size), len(reference.pixels), "real pictures")
    known = network.about["network"] == "inception"
    frechet, kernel = ("fid", "kid") if known else ("frechet", "kernel_distance")
    spread = lambda name, pair: {name: pair[0], f"{name}_deviation": pair[1]}
    todo = {
        frechet: lambda: {frechet: distance(drawn, real, reference)},
        kernel: lambda: spread(kernel, kernel_distance(real.features, drawn.features, seed)),
        "precision and recall": lambda: dict(
            zip(("precision", "recall"), precision_recall(real.features, drawn.features), strict=True)
        ),
    }
    if known:
        todo["inception_score"] = lambda: spread("inception_score", inception_score(drawn.logits, seed))
    left_out = {name: reason for name in todo if (reason := obstacle(name, network, drawn, real, reference))}
    figures = {}
    for name in tqdm([name for name in todo if name not in left_out], desc="figures", delay=2):
        figures |= todo[name]()
    if not known and asked is not None:
        labels, names = asked
        if same_classes(names, network.classes):
            figures["agreement"] = agreement(drawn.logits.argmax(1), torch.from_numpy(labels))
        else:
            left_out["agreement"] = "the model's classes have other names than the data's, or another order"
    if not known and reference.images is not None:
        labels = torch.from_numpy(reference.images.labels_shown)
        figures["agreement_of_real"] = agreement(real.logits.argmax(1), labels)
    return figures, left_out


def same_classes(names: list[str], others: list[str]) -> bool:
    """Whether class numbers mean the same by these names; mere numbers for names do not say."""
    numbers = [str(number) for number in range(len(names))]
    return names == others or numbers in (names, others)


def distance(drawn: Seen, real: Seen | None, reference: Reference) -> float:
    """The Fréchet distance of samples to the reference: to its own statistics where it has them."""
    return frechet_of_moments(*moments(drawn.features), *(reference.moments or moments(real.features)))


def obstacle(name: str, network: Network, drawn: Seen, real: Seen | None, reference: Reference) -> str | None:
    """Why a figure cannot be had, None where it can."""
    fitted = [drawn.features] if reference.moments else [drawn.features, *([real.features] if real else [])]
    fewest = min(map(len, fitted)) if name in ("fid", "frechet") else len(drawn.features)
    if name in ("fid", "frechet"):
        # Fewer points than that span less than the whole space: the distance then tells their number.
        least, why = network.width + 1, f"below that the covariance of {network.width} features is singular"
    elif name == "inception_score":
        least, why = 2 * SPLITS, f"it is the mean over {SPLITS} parts"
    else:
        if real is None:
            return NO_PICTURES
        fewest, least, why = min(fewest, len(real.features)), NEIGHBOURS + 1, "each needs its neighbours"
    return f"{fewest} pictures are too few, it takes {least}: {why}" if fewest < least else None


def batches(pixels, size: int) -> Iterator[np.ndarray]:
    """Pictures `n c h w` in parts of at most `size`."""
    for start in range(0, len(pixels), size):
        yield pixels[np.arange(start, min(start + size, len(pixels)))]
