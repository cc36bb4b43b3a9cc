"""What samples are judged with: a feature network, and real pictures to compare with."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from einops import rearrange

from dit_lab.data import CROPS, DataError, Images, Latents, judged_splits, open_data
from dit_lab.data.pixels import shown
from dit_lab.evaluation import adm
from dit_lab.evaluation.features import Network, small_network
from dit_lab.evaluation.inception import inception
from dit_lab.evaluation.reading import Reading


@dataclass(frozen=True)
class Judging:
    """Which network looks, and which real pictures the samples are compared with."""

    data: str | None = None
    """Real pictures, and what the small network knows: `digits`, a hub id such as ylecun/mnist, or a local folder."""
    split: str | None = None
    """Part of the data to compare with (default: test, or, where there is none, tenth, which a training on rest has not
    seen; with Inception train, as is the field's habit)."""
    size: int | None = None
    """Make real pictures squares of this side, as in training (default: as they are)."""
    crop: Literal[tuple(CROPS)] = "middle"
    """How, as in training: the middle square, resized, or as ADM prepares ImageNet (adm)."""
    features: Literal["small", "inception"] = "small"
    """The project's own small network, or Inception for figures that compare with published ones."""
    inception: Path | None = None
    """Inception's weights, where they are not in torch's cache of downloads."""
    reference: Path | None = None
    """An ADM reference batch (.npz) to compare with, instead of the data's split."""


class Reference(NamedTuple):
    """Real `pixels: n c h w` in uint8, None where only features' `moments` are known; `images` where they have labels.

    `images` is the labelled set (an `Images`) whose pixels they are; `spatial` the moments of spatial features.
    """

    pixels: object
    moments: tuple[torch.Tensor, torch.Tensor] | None
    images: Images | None
    about: dict
    spatial: tuple[torch.Tensor, torch.Tensor] | None = None


def open_judge(judging: Judging, shape: tuple[int, int, int], classes: int, folder: Path, device):
    """The network and the reference for pictures of `shape` (c h w): `-> (Network, Reference)`. Raises ValueError.

    A small network that does not ship is kept in `folder`. `classes` are the model's, 0 without.
    """
    if judging.data is None and (judging.features == "small" or judging.reference is None):
        raise ValueError("say with --data which real pictures the samples are to be compared with")
    network = inception(judging.inception, device) if judging.features == "inception" else None
    reference = None if judging.reference is None else reference_batch(judging.reference, shape)
    if network is None or reference is None:
        usual = None if judging.features == "small" else "train"
        learnt, split = judged_splits(judging.data, judging.split or usual)
        images = opened(judging, split)
        check_fits(images, shape, classes)
        if network is None:
            network = uncertified(small_network(images, split, lambda: opened(judging, learnt), folder, device))
        if reference is None:
            about = {"data": judging.data, "split": split, "size": judging.size, "pictures": len(images)}
            about |= {} if judging.crop == "middle" else {"crop": judging.crop}
            return network, Reference(images.pixels, None, images, about)
    return network, fitting(reference, network, judging.reference)


def opened(judging: Judging, split: str) -> Images | Latents:
    """A part of the data. Raises ValueError where its labels are missing, unless Inception looks, which needs none."""
    given = dict(split=split, size=judging.size, crop=judging.crop)
    try:
        return open_data(judging.data, **given)
    except DataError as error:
        unlabelled = open_data(judging.data, labelled=False, **given)  # where it was not for the labels, this fails too
        if judging.features == "inception":
            return unlabelled
        raise ValueError(
            f"the small network learns from classes, and {shown(judging.data)} does not say them ({error.reason}): "
            "take --features inception, or sort the pictures into a folder a class"
        ) from error


def uncertified(network: Network) -> Network:
    """The network, of a single class without its accuracy: that class is always read right, and says nothing."""
    if len(network.classes) != 1:
        return network
    told = {name: value for name, value in network.about.items() if name not in Reading._fields}
    return replace(network, about=told)


def check_fits(images, shape: tuple[int, int, int], classes: int) -> None:
    """Raise ValueError unless the data's pictures, and its classes where it says them, are like the model's."""
    sides = lambda side: " x ".join(map(str, side[1:]))
    if images.shape[1:] != shape[1:]:
        raise ValueError(
            f"the model makes pictures of {sides(shape)}, the data's are {sides(images.shape)}; "
            "say with --size what they were resized to in training, or give other data"
        )
    if classes and images.names and classes != len(images.names):
        raise ValueError(f"the model has {classes} classes, the data {len(images.names)}; give the data it learnt from")


def reference_batch(path: Path, shape: tuple[int, int, int]) -> Reference:
    """A reference from an ADM file. Raises ValueError on one that does not open or holds pictures of other sides."""
    arrays = adm.read(path)
    pixels = rearrange(arrays["arr_0"], "n h w c -> n c h w") if "arr_0" in arrays else None
    if pixels is not None and pixels.shape[2:] != shape[1:]:
        (h, w), (height, width) = shape[1:], pixels.shape[2:]
        raise ValueError(f"the model makes pictures of {h} x {w}, those in {path} are {height} x {width}")
    known = [
        tuple(torch.from_numpy(arrays[name]).double() for name in names) if set(names) <= arrays.keys() else None
        for names in adm.STATISTICS
    ]
    about = {"file": path.name, "pictures": None if pixels is None else len(pixels)}
    return Reference(pixels, known[0], None, about, known[1])


def fitting(reference: Reference, network: Network, path: Path) -> Reference:
    """The reference without statistics of another network's features. Raises ValueError when nothing is left of it."""
    if reference.moments is None or len(reference.moments[0]) == network.width:
        return reference
    if reference.pixels is None:
        raise ValueError(
            f"{path} holds statistics of {len(reference.moments[0])} features and no pictures; "
            f"{network.about['network']} has {network.width}"
        )
    return reference._replace(moments=None, spatial=None)
