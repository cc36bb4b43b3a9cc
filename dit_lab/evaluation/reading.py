"""How well a small network reads real pictures, and when that is too little for its figures to say anything."""

from typing import NamedTuple

import numpy as np
import torch

ONE_CLASS = "a network learns nothing of real pictures that are all of one class: sort them into a folder a class"
GOOD = 0.5  # of the way from chance to all: a network that reads real pictures less well has no figures to give


class Reading(NamedTuple):
    """What a network reads of real pictures that it was not trained on: the share of them, and how many they are.

    `chance` is the share of their largest class: so many reads who always names that one. None is what nobody kept.
    """

    accuracy: float | None = None
    held_back: int | None = None
    chance: float | None = None

    @property
    def known(self) -> dict[str, float | int]:
        """What is known of it, by name."""
        return {name: value for name, value in self._asdict().items() if value is not None}


def reading_in(seen: torch.Tensor, labels: np.ndarray) -> Reading:
    """What a network reads that sees the classes `seen: n` in pictures of these labels (`n`)."""
    right = (seen.cpu() == torch.from_numpy(labels)).double().mean().item()
    return Reading(right, len(labels), np.bincount(labels).max().item() / len(labels))


def reading_of(about: dict) -> Reading:
    """What a network's file says of it; of those that ship, the test pictures of their set were held back."""
    reading = Reading(*(about.get(name) for name in Reading._fields))
    if reading.accuracy is None or reading.held_back is not None or "splits" not in about:
        return reading
    return reading._replace(held_back=about["splits"]["test"]["pictures"])


def mistrust(reading: Reading, classes: int) -> str | None:
    """Why the figures of a small network of so many classes say nothing, and what to do; None where they do.

    Nor is one mistrusted of which nobody knows what it reads.
    """
    if classes == 1:
        return ONE_CLASS
    return None if reading.accuracy is None or classes < 1 else blindness(reading, classes)


def blindness(reading: Reading, classes: int) -> str | None:
    """Why the figures of a network that reads real pictures so well are not worth telling; None where they are.

    Where nobody kept what chance is, it is that of classes of one size.
    """
    accuracy, count, chance = reading
    if chance == 1:
        return (
            f"the real pictures that the network has not seen ({count}) are all of one class, so what it reads of the "
            "others is not known: train it on more pictures"
        )
    chance = 1 / classes if chance is None else chance
    if accuracy >= (least := GOOD + (1 - GOOD) * chance):
        return None
    of = "" if count is None else f" ({round(accuracy * count)} of {count})"
    return (
        f"the network reads only {accuracy:.0%} of real pictures that it has not seen{of}, chance {chance:.0%}, "
        f"and below {least:.0%} its figures say nothing: train it on more pictures"
    )
