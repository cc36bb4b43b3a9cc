"""Is a sample memorised? The training pictures nearest to it, and how near real unseen pictures come to theirs.

A distance alone says little: all pictures of a 1 are near each other. The scale is what real test pictures have, which
no model can have learnt by heart.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange, reduce, repeat
from tqdm.auto import tqdm

from dit_lab.data import Images, Latents
from dit_lab.diffusion.whole import whole
from dit_lab.inside.run import LIMIT, amount, check_bytes, numbers
from dit_lab.inside.trace import TraceError
from dit_lab.program import quoted

BATCH = 256


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The k pictures nearest to each of b samples, the nearest first.

    `numbers: b k` are their places in the order in which the pictures came, `distances: b k` root mean squares over
    pixels (or features), `pictures: b k c h w`, `labels: b k`, -1 where they came without. Those of a sample are the
    nearest of `searched: b` pictures.
    """

    numbers: torch.Tensor
    distances: torch.Tensor
    pictures: torch.Tensor
    labels: torch.Tensor
    searched: torch.Tensor


@dataclass(frozen=True, eq=False)
class Memorised:
    """How near samples are to training pictures, on the scale of how near real test pictures are to theirs.

    `share: b` is the share of the test pictures that are nearer to their nearest training picture than a sample is to
    its own. Near 0 a sample is nearer than unseen pictures come: memorised; were it one more unseen picture, every
    share would be as likely. It rests on `compared: b` test pictures and is no finer than 1 / compared.
    `test_distances: m` are theirs, and `test_labels: m` their classes, -1 without.
    """

    neighbours: Neighbours
    share: torch.Tensor
    compared: torch.Tensor
    test_distances: torch.Tensor
    test_labels: torch.Tensor


def nearest(samples, pictures, *, k=3, features=None, labels=None, batch=BATCH, limit=LIMIT) -> Neighbours:
    """The k of `pictures` nearest to each of `samples: b c h w`, in [-1, 1] (or latents) as the pictures are.

    `pictures` is a data set (`open_data`), all of them as `n c h w`, or anything that gives batches, `b c h w` or pairs
    of those and labels `b`; no more than `batch` are held at a time. Distances are between pixels, or between
    `features`, a function `b c h w -> b f`, such as the project's judge:

        from dit_lab.evaluation import judge, judge_for
        network, _ = judge_for(train, "train", lambda: train, folder)
        nearest(samples, train, features=lambda x: judge(network, x)[1])

    With `labels: b` of the samples only pictures of the same class count. Raises TraceError where shapes do not fit,
    there are fewer than k pictures, or it would take more than `limit` bytes.
    """
    closest = asked(samples, features, labels, k, batch, limit)
    search([closest], pictures, features, batch)
    return closest.neighbours()


def memorised(samples, training, test, *, k=3, features=None, labels=None, batch=BATCH, limit=LIMIT) -> Memorised:
    """The `nearest` training pictures of samples, and how many test pictures are nearer to theirs.

    Arguments are those of `nearest`; `training` and `test` are both given as its `pictures` and read once. Of the test
    pictures their pixels (or features) are held. With `labels` all of this is within a sample's class. Raises
    TraceError as `nearest` does, and where no test picture is there to compare with.
    """
    closest = asked(samples, features, labels, k, batch, limit)
    vectors, test_labels = held(test, features, batch, limit, closest)
    unseen = Closest(vectors, test_labels if labels is not None else None, 1)
    same = torch.ones(len(samples), len(vectors), dtype=torch.bool)
    if labels is not None:
        same = rearrange(closest.classes, "b -> b 1") == test_labels
    if not (compared := same.sum(1)).all():
        alone = int(compared.argmin())
        of_class = "" if labels is None else f" of class {closest.classes[alone].item()}"
        raise TraceError(f"there is no test picture{of_class} to compare sample {alone} with")
    search([closest, unseen], training, features, batch)
    nearer = unseen.distances[:, 0] < closest.distances[:, :1]
    share = (nearer & same).sum(1) / compared
    return Memorised(closest.neighbours(), share, compared, unseen.distances[:, 0], test_labels)


class Closest:
    """The k pictures nearest to vectors so far: `vectors: b f`, `classes: b` where only those of the same count.

    Their pixels are kept where `shape`, (c, h, w), is given.
    """

    def __init__(self, vectors: torch.Tensor, classes: torch.Tensor | None, k: int, shape=None):
        self.vectors, self.classes, self.k, self.shape = vectors, classes, k, shape
        count = len(vectors)
        self.distances = torch.full((count, k), torch.inf)
        self.numbers, self.labels = (torch.full((count, k), -1) for _ in range(2))
        self.pictures = torch.zeros(count, k, *shape) if shape else None
        self.searched = torch.zeros(count, dtype=torch.long)

    def meet(self, rows: slice, x, vectors, labels, first: int) -> None:
        """Compare r `rows` of them with a batch, `x: m c h w, vectors: m f, labels: m`, numbered from `first`."""
        mine = self.vectors[rows]
        far = squared_distances(mine, vectors)
        self.searched[rows] += len(vectors)
        if self.classes is not None:
            others = rearrange(self.classes[rows], "r -> r 1") != labels
            far.masked_fill_(others, torch.inf)
            self.searched[rows] -= others.sum(1)
        found = far.topk(min(self.k, len(vectors)), largest=False).indices.sort().values
        # Once more without the cancellation, so that a copy is at distance 0.
        exact = reduce((vectors[found] - rearrange(mine, "r f -> r 1 f")) ** 2, "r k f -> r k", "mean").sqrt()
        exact.masked_fill_(far.gather(1, found).isinf(), torch.inf)
        order = torch.cat([self.distances[rows], exact], 1).argsort(stable=True)[:, : self.k]
        each = rearrange(torch.arange(len(mine)), "r -> r 1")
        news = [(self.distances, exact), (self.numbers, first + found), (self.labels, labels[found])]
        for kept, new in [*news, (self.pictures, x[found])] if self.shape else news:
            kept[rows] = torch.cat([kept[rows], new], 1)[each, order]

    def check(self) -> None:
        """Raise TraceError where fewer than k were there."""
        if (self.searched >= self.k).all():
            return
        lacking = int(self.searched.argmin())
        of_class = "" if self.classes is None else f" of class {self.classes[lacking].item()}"
        there = self.searched[lacking].item()
        raise TraceError(f"there are {there} pictures{of_class}, fewer than the {self.k} asked for")

    def neighbours(self) -> Neighbours:
        return Neighbours(self.numbers, self.distances, self.pictures, self.labels, self.searched)


def asked(samples, features, labels, k, batch, limit) -> Closest:
    """What is looked for, checked. Raises TraceError on samples, labels or numbers that cannot be."""
    for what, number in ("k", k), ("batch", batch):
        if not whole(number) or number < 1:
            raise TraceError(f"{what} must be a whole number of at least 1, not {quoted(number)}")
    samples = as_pictures("samples", samples)
    if not len(samples):
        raise TraceError("there are no samples to find neighbours of")
    if (classes := numbers("labels", labels)) is not None and len(classes) != len(samples):
        raise TraceError(f"labels must be one a sample, {len(samples)}, not {len(classes)}")
    vectors = torch.cat([vectors_of(part, features) for part in samples.split(batch)])
    shape, width = samples.shape[1:], vectors.shape[1]
    held_on = 4 * len(samples) * (width + k * shape.numel())  # vectors, and the pictures found
    # Of a batch the vectors in fp64, twice, all distances, and the candidates with what is between.
    size = held_on + batch * (16 * width + 16 * batch + k * (8 * width + 4 * shape.numel()))
    instead = "ask for fewer samples, a smaller batch, features with fewer numbers, or with a higher limit"
    check_bytes("this search takes", size, limit, instead)
    return Closest(vectors, None if classes is None else torch.tensor(classes), k, shape)


def held(test, features, batch, limit, closest: Closest) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors and labels of the test pictures, of the samples' classes where those count: `-> m f, m`."""
    vectors, labels, size = [closest.vectors[:0]], [torch.zeros(0, dtype=torch.long)], 0
    for x, y in batches(test, batch, closest):
        kept = torch.ones(len(x), dtype=torch.bool) if closest.classes is None else torch.isin(y, closest.classes)
        vectors.append(vectors_of(x, features)[kept])
        labels.append(y[kept])
        size += 4 * vectors[-1].numel()
        if size > limit:
            raise TraceError(
                f"the test pictures take more than the limit of {amount(limit)}; "
                "give fewer of them, features with fewer numbers, or a higher limit"
            )
    return torch.cat(vectors), torch.cat(labels)


def search(all_closest: list[Closest], pictures, features, batch: int) -> None:
    """Let each of `all_closest` meet all pictures, which are read once. Raises TraceError where they are too few."""
    first = 0
    for x, labels in batches(pictures, batch, all_closest[0]):
        vectors = vectors_of(x, features)
        for closest in all_closest:
            for row in range(0, len(closest.vectors), batch):
                closest.meet(slice(row, row + batch), x, vectors, labels, first)
        first += len(x)
    for closest in all_closest:
        closest.check()


def batches(pictures, batch: int, closest: Closest) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Pictures with their labels, no more than `batch` at a time: `-> pairs of b c h w and b`, -1 without labels.

    Raises TraceError on pictures of another shape than the samples, or without labels where classes count.
    """
    if isinstance(pictures, Images | Latents):
        parts = (pictures.batch(places.numpy()) for places in torch.arange(len(pictures)).split(batch))
        total = -(-len(pictures) // batch)
    else:
        parts = pictures.split(batch) if isinstance(pictures, torch.Tensor) else pictures
        total = len(parts) if isinstance(parts, Sequence) else None
    for part in tqdm(parts, total=total, leave=False, disable=None):
        x, labels = part if isinstance(part, tuple | list) else (part, None)
        x = as_pictures("pictures", x)
        if x.shape[1:] != closest.shape:
            sizes = (" x ".join(map(str, shape)) for shape in (closest.shape, x.shape[1:]))
            raise TraceError("the samples are of {}, these pictures of {}".format(*sizes))
        if labels is None and closest.classes is not None:
            raise TraceError("the samples have labels and these pictures have none: give pairs of pictures and labels")
        labels = repeat(torch.tensor(-1), "-> b", b=len(x)) if labels is None else torch.as_tensor(labels).cpu()
        yield from zip(x.split(batch), labels.split(batch), strict=True)


def as_pictures(what: str, x) -> torch.Tensor:
    """`b c h w` in fp32 on the CPU. Raises TraceError on another shape, on bytes, or on values that are not finite."""
    if not isinstance(x, torch.Tensor) or x.ndim != 4 or not x.is_floating_point():
        there = f"{x.dtype} of {tuple(x.shape)}" if isinstance(x, torch.Tensor) else quoted(x)
        raise TraceError(f"{what} must be tensors b c h w with values in [-1, 1], not {there}")
    if not x.isfinite().all():
        raise TraceError(f"{what} hold values that are not finite, which are near nothing")
    return x.detach().to("cpu", torch.float32)


@torch.no_grad()
def vectors_of(x: torch.Tensor, features) -> torch.Tensor:
    """What distances are between: the pixels, or features in fp32 on the CPU: `b c h w -> b f`. Raises TraceError."""
    if features is None:
        return rearrange(x, "b c h w -> b (c h w)")
    vectors = features(x)
    if not isinstance(vectors, torch.Tensor) or vectors.ndim != 2 or len(vectors) != len(x):
        raise TraceError(f"features must make b f of b c h w, not {quoted(getattr(vectors, 'shape', vectors))}")
    if not vectors.isfinite().all():
        raise TraceError("features hold values that are not finite, which are near nothing")
    return vectors.to("cpu", torch.float32)


def squared_distances(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Sums of squared differences as one product of matrices, in fp64: `x: r f, y: m f -> r m`."""
    x, y = x.double(), y.double()
    squares = [reduce(each**2, "b f -> b", "sum") for each in (x, y)]
    return rearrange(squares[0], "r -> r 1") + squares[1] - 2 * x @ y.T
