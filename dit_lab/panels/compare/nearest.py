"""Is a sample memorised? Its nearest training pictures, with the distances that real unseen ones have, bit by bit."""

from collections.abc import Generator

import torch

from dit_lab.data import Pixels
from dit_lab.inside import nearest
from dit_lab.panels.opened import Opened
from dit_lab.panels.packing import atlas
from dit_lab.panels.panel import Progress

K, TEST, CHUNK = 5, 500, 4096  # neighbours shown, test pictures compared with, training pictures at a time
MISSING = (
    "No training pictures are open here. Start the app with --data and the folder of the pictures that this model was "
    "trained on, and their nearest ones are shown."
)


def pictures_of(opened: Opened, split: str):
    """The real pictures of a split, as the host gives them. Raises ValueError where it gives none."""
    give = getattr(opened, "training_pictures", None)
    if give is None:
        raise ValueError(MISSING)
    return give(split)


def nearest_pictures(opened: Opened, sample: int) -> Generator[Progress, None, dict]:
    """The training pictures nearest to a sample, and how far test pictures are from theirs: `inside.memorised`.

    The training pictures come in chunks, with progress between. Raises ValueError where they are of another shape.
    """
    training, test = pictures_of(opened, "train"), pictures_of(opened, "test")
    final = opened.trajectory.sample[[sample]]
    mine = final if isinstance(opened.codec, Pixels) else opened.codec.decode(final)
    spread = torch.linspace(0, len(test) - 1, min(TEST, len(test))).round().long()
    unseen, _ = test.batch(spread.numpy())
    if mine.shape[1:] != unseen.shape[1:]:
        told = " x ".join(map(str, mine.shape[1:])), " x ".join(map(str, unseen.shape[1:]))
        raise ValueError(
            "This sample is {} (channels x h x w) and the training pictures are {}: not comparable.".format(*told)
        )
    asked, best, total = torch.cat([mine, unseen]), None, len(training)
    yield Progress(0, total, "reading training pictures")
    for places in torch.arange(total).split(CHUNK):
        x, labels = training.batch(places.numpy())
        found = nearest(asked, [(x, labels)], k=min(K, len(x)))
        mine_found = found.distances[0], found.pictures[0], found.labels[0]
        if best is None:
            best, far = mine_found, found.distances[1:, 0]
        else:
            joined = [torch.cat(pair) for pair in zip(best, mine_found, strict=True)]
            order = joined[0].argsort(stable=True)[:K]
            best, far = tuple(each[order] for each in joined), torch.minimum(far, found.distances[1:, 0])
        yield Progress(places[-1].item() + 1, total, "comparing with training pictures")
    distances, pictures, labels = best
    share = (far < distances[0]).float().mean().item()
    named = [training.names[label] if training.names else "" for label in labels.tolist()]
    return {
        "sample": sample, "distances": distances.tolist(), "labels": named, "searched": total, "test": far.tolist(),
        "share": share, "pictures": atlas(Pixels().decode(torch.cat([mine, pictures]))),
    }  # fmt: skip
