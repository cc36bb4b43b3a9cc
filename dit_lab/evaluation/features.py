"""Networks that look at pictures for a judge: a small classifier of our own, and Inception where its weights are.

The small ones saw real training pictures only. Those in `zoo/judges` ship with the package; for other pictures one is
trained when it is first needed. `python -m dit_lab.zoo.judge` makes one to ship.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from einops.layers.torch import Rearrange
from torch import nn
from tqdm.auto import tqdm

from dit_lab.checkpoints.reading import read_safetensors
from dit_lab.evaluation.reading import Reading, reading_in, reading_of
from dit_lab.files import checksum, make_folder, write_tensors

JUDGES = Path(str(files("dit_lab.zoo"))) / "judges"
KEPT = "classifier.safetensors"


class Recipe(NamedTuple):
    """How a small classifier is built and trained: a 3 x 3 convolution for each of `widths`, halving the side."""

    widths: tuple[int, ...]
    norm: bool
    mirror: bool
    epochs: int


# Digits need little; photographs more layers, batch norms between them, and flips.
GREY = Recipe((32, 64), norm=False, mirror=False, epochs=4)
COLOUR = Recipe((32, 64, 128, 256), norm=True, mirror=True, epochs=8)
LEAST_STEPS = 400  # however few the pictures are
HELD_BACK = 0.1  # of the pictures that one is trained on for a folder: what it says of them stands with it


SPATIAL = 7  # channels of a map that make spatial features, as in sFID


class Seen(NamedTuple):
    """What a network saw in pictures: `features: n d, logits: n classes`, and `spatial: n s`, where it has a map.

    These are the first channels of a late map at each place, which still say where something is: `s = (h w c)`.
    """

    features: torch.Tensor
    logits: torch.Tensor
    spatial: torch.Tensor | None = None


class Classifier(nn.Module):
    """A small convolutional classifier of small pictures: `x: b c h w in [-1, 1] -> logits: b classes`.

    `about` is what the file says that it was opened from, {} of one that was just made. Raises ValueError on a side of
    one pixel.
    """

    WIDTH, FLAT = 128, 3  # features, and the last layers, which make them of maps

    def __init__(self, channels: int, size: tuple[int, int], num_classes: int):
        super().__init__()
        self.channels, self.about = channels, {}
        recipe = recipe_for(channels)
        widths = [w for level, w in enumerate(recipe.widths, start=1) if min(size) >> level]
        if not widths:
            raise ValueError(
                f"pictures of {size[0]} x {size[1]} pixels are too small for a small judge: take 2 or more"
            )
        layers = []
        for before, width in zip([channels, *widths], widths, strict=False):
            norm = [nn.BatchNorm2d(width)] if recipe.norm else []
            layers += [nn.Conv2d(before, width, 3, padding=1), *norm, nn.ReLU(), nn.MaxPool2d(2)]
        left = (size[0] >> len(widths)) * (size[1] >> len(widths))
        flat = [Rearrange("b c h w -> b (c h w)"), nn.Linear(widths[-1] * left, self.WIDTH), nn.ReLU()]
        self.features = nn.Sequential(*layers, *flat)
        self.head = nn.Linear(self.WIDTH, num_classes)

    def look(self, x) -> Seen:
        """What it sees in `x: b c h w`; one of grey pictures, in the mean of the colours."""
        x = reduce(x, "b c h w -> b 1 h w", "mean") if self.channels == 1 else x
        maps = self.features[: -self.FLAT](x)
        features = self.features[-self.FLAT :](maps)
        return Seen(features, self.head(features), spatial_of(maps))

    def forward(self, x):
        return self.look(x).logits


def spatial_of(maps: torch.Tensor) -> torch.Tensor:
    """Spatial features of `maps: b c h w`, in the order of ADM's: `-> b (h w c)`."""
    return rearrange(maps[:, :SPATIAL], "b c h w -> b (h w c)")


def recipe_for(channels: int) -> Recipe:
    """The recipe for pictures of so many channels."""
    return GREY if channels == 1 else COLOUR


def train_classifier(images, *, among=None, epochs: int | None = None, batch_size: int = 128, seed=0) -> Classifier:
    """Fit a `Classifier` to real images (an `Images`), with Adam, a falling learning rate and small random shifts.

    `among` are the indices of those to take (None: all). It takes as many `epochs` as asked, else those of the recipe,
    and more where these are fewer than `LEAST_STEPS`.
    """
    torch.manual_seed(seed)
    channels, *size = images.shape
    recipe = recipe_for(channels)
    model = Classifier(channels, tuple(size), len(images.names))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    among = torch.arange(len(images)) if among is None else torch.as_tensor(among)
    epochs = epochs or max(recipe.epochs, math.ceil(LEAST_STEPS / math.ceil(len(among) / batch_size)))
    batches = [among[b] for _ in range(epochs) for b in torch.randperm(len(among)).split(batch_size)]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=2e-3, total_steps=len(batches))
    for indices in tqdm(batches, desc="classifier", unit="batch", mininterval=1):
        x, y = images.batch(indices.numpy())
        rows, columns = (int(torch.randint(-(side // 14), side // 14 + 1, ())) for side in size)
        x = x.roll((rows, columns), dims=(-2, -1))
        if recipe.mirror:
            x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(-1), x)
        loss = F.cross_entropy(model(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def judge(model: Classifier, x: torch.Tensor, batch_size: int = 500):
    """What the classifier sees: `x: b c h w -> (predicted classes: b, features: b 128)`."""
    seen = [model.look(part) for part in x.split(batch_size)]
    return torch.cat([each.logits for each in seen]).argmax(-1), torch.cat([each.features for each in seen])


def everything(images) -> torch.Tensor:
    """All pictures of a data set (an `Images`): `-> n c h w` in [-1, 1]."""
    return images.batch(range(len(images)))[0]


def classifier_for(train, path: Path) -> Classifier:
    """The classifier kept at `path`, trained on real images (an `Images`) the first time, but for a part held back.

    Raises ValueError where what is kept there was made for other pictures.
    """
    if not path.exists():
        make_folder(path.parent)
        about = {"shape": list(train.shape), "classes": train.names, "fingerprint": train.fingerprint}
        seen, unseen = parted(len(train))
        model = train_classifier(train, among=seen)
        keep(path, model, about | read_by(model, train, unseen).known)
    elif not same_set(known := read_safetensors(path)[1].get("fingerprint", {}), train):
        raise ValueError(f"{path} was trained on other pictures ({known}); remove it or choose another folder")
    return opened(path, train)


def parted(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The indices of so many pictures in two, drawn at random: to train on, and a tenth, at least one, to hold back."""
    order = np.random.default_rng(seed).permutation(count)
    held_back = max(1, round(HELD_BACK * count))
    return np.sort(order[held_back:]), np.sort(order[:held_back])


def read_by(model: Classifier, images, among: np.ndarray) -> Reading:
    """What a classifier reads of some real pictures (of an `Images`)."""
    batches = (images.batch(indices) for indices in np.array_split(among, math.ceil(len(among) / 500)))
    seen, labels = zip(*((judge(model, x)[0], y) for x, y in batches), strict=True)
    return reading_in(torch.cat(seen), torch.cat(labels).numpy())


def reading(classifier: Classifier, seen: torch.Tensor, test) -> Reading:
    """What a classifier reads of real pictures held back from it.

    One of an earlier version kept none of that: then of the test pictures, in which it has `seen: n` classes.
    """
    kept = reading_of(classifier.about)
    return reading_in(seen, test.labels_shown) if kept.accuracy is None else kept


def judge_for(images, split: str, open_train: Callable, folder: Path) -> tuple[Classifier, str]:
    """The classifier for a data set, and its name: the zoo's, else one kept, or first trained, in `folder`.

    `images` is the data's `split`; `open_train()` gives its training pictures.
    """
    if path := shipped(images, split):
        return opened(path, images), path.stem
    return classifier_for(open_train(), folder / KEPT), "trained for this folder"


def keep(path: Path, model: Classifier, about: dict) -> None:
    """Write a classifier in fp16, with what it was made for."""
    tensors = {name: v.half() if v.is_floating_point() else v for name, v in model.state_dict().items()}
    write_tensors(path, tensors, about)


def opened(path: Path, images) -> Classifier:
    """The classifier in a file, which fits the shape and the classes of `images`. Raises ValueError."""
    channels, *size = images.shape
    model = Classifier(channels, tuple(size), len(images.names))
    tensors, model.about = read_safetensors(path)
    try:
        if model.about.get("classes", images.names) != images.names:
            raise ValueError("its classes are others")
        model.load_state_dict(tensors)
    except (ValueError, RuntimeError) as error:
        shape = " x ".join(map(str, images.shape))
        raise ValueError(
            f"{path} is no classifier of pictures of {shape} in these {len(images.names)} classes; "
            "remove it or choose another folder"
        ) from error
    return model.eval()


@dataclass(frozen=True)
class Network:
    """A feature network: `look(pixels: b 3 h w in uint8) -> Seen`, `width` features; `about` says which it is.

    `classes` are the names of what its logits tell apart, where they are of use.
    """

    look: Callable[[torch.Tensor], Seen]
    width: int
    about: dict
    classes: list[str] = field(default_factory=list)

    @torch.no_grad()
    def see(self, batches: Iterable[np.ndarray], total: int, what: str) -> Seen:
        """Look at pictures with a bar: `batches` of `b c h w` in uint8, c = 1 or 3, `total` pictures in all."""
        parts = []
        with tqdm(total=total, desc=f"looking at {what}", unit="", unit_scale=True, mininterval=1) as bar:
            for pixels in batches:
                colours = repeat(pixels, "b c h w -> b (c copy) h w", copy=3 // pixels.shape[1])
                parts.append([part.float().cpu() for part in self.look(torch.from_numpy(colours)) if part is not None])
                bar.update(len(pixels))
        return Seen(*map(torch.cat, zip(*parts, strict=True)))


def small_network(images, split: str, open_train: Callable, folder: Path, device) -> Network:
    """The small network for a data set (`judge_for`), which sees pixels."""
    model, name = judge_for(images, split, open_train, folder)
    model = model.to(device)
    about = {"network": "small", "name": name, "checksum": checksum(model.state_dict())}
    # One of an earlier version kept no accuracy.
    about |= reading_of(model.about).known
    return Network(lambda pixels: model.look(pixels.to(device) / 127.5 - 1), Classifier.WIDTH, about, images.names)


def same_set(kept: dict | None, images) -> bool:
    """Whether a fingerprint that was kept is that of `images`, in all that it says."""
    return kept is not None and all(images.fingerprint[name] == value for name, value in kept.items())


def shipped(images, split: str) -> Path | None:
    """The zoo's small network made for a data set at this size, if any, known by what it kept of its fingerprint.

    Those that ship kept the number of pictures and their labels: another version of a decoder or a resizer may change
    pixels a little.
    """
    for path in sorted(JUDGES.glob("*.safetensors")):
        about = read_safetensors(path)[1]
        if about["shape"] == list(images.shape) and same_set(about["splits"].get(split), images):
            return path
    return None
