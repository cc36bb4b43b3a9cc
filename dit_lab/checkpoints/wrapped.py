"""Which of the dicts in a checkpoint holds a model's weights: they come in containers, and under prefixed names."""

import argparse
from collections.abc import Iterator
from itertools import takewhile
from typing import NamedTuple

import torch

AVERAGED = ("ema", "ema_model", "model_ema", "ema_state_dict", "state_dict_ema", "ema_model_state_dict")
TRAINED = ("model", "state_dict", "model_state_dict", "net", "network", "module", "online_model")
KEPT = ("model", "online_model", "model_state_dict")  # beside what may be an average
# What wrappers put into names, also in the middle: torch.compile, activation checkpointing, FSDP.
INSIDE = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")
WORDS = (*AVERAGED, *TRAINED)
ARGUMENTS = ("args", "hyper_parameters")
# The first layer of every kind of model that opens here.
MARKS = ("x_embedder.proj.weight", "pos_embed.proj.weight", "patch_embedding.weight", "stem.weight")


class Held(NamedTuple):
    """A set of weights, by the model's own names, and the containers and prefixes that it was found under."""

    path: tuple[str, ...]
    tensors: dict[str, torch.Tensor]

    @property
    def averaged(self) -> bool:
        """Whether the words on the way to it say that it is an average of the weights."""
        return any(word in AVERAGED for word in self.path) and "online_model" not in self.path

    @property
    def kind(self) -> str | None:
        """ "ema" or "model" where the words say which; as Lightning names what it trains, `model.` says nothing."""
        return "ema" if self.averaged else "model" if self.path and self.path[0] in KEPT else None

    @property
    def is_model(self) -> bool:
        """Whether it has the first layer of a model that opens here."""
        return any(mark in self.tensors for mark in MARKS)


def candidates(content: dict, weights: str) -> list[Held]:
    """The sets of weights that `weights` ("ema", "model") means; the others where it means none.

    Where nothing looks like a model, the largest set alone, which is good for saying what it is.
    """
    found = [Held(path, tensors) for path, tensors in sets(content, (), set())]
    models = [held for held in found if held.is_model]
    if not models:
        return sorted(found, key=lambda held: -len(held.tensors))[:1]
    return [held for held in models if held.averaged == (weights == "ema")] or models


def sets(content: dict, path: tuple[str, ...], seen: set[int]) -> Iterator[tuple[tuple[str, ...], dict]]:
    """(the way to it, tensors) of each set of weights in nested containers; a dict is looked into once."""
    seen.add(id(content))
    groups = {}
    for name, value in content.items():
        if isinstance(value, torch.Tensor) and isinstance(name, str):
            words, bare = unwrapped(name)
            group = groups.setdefault((*path, *words), {})
            group[name if bare in group else bare] = value  # two of one name: the second will be no part of the model
        elif isinstance(value, dict) and isinstance(name, str) and name in WORDS and id(value) not in seen:
            yield from sets(value, (*path, name), seen)
    yield from groups.items()


def unwrapped(name: str) -> tuple[list[str], str]:
    """A tensor's name: the words that containers and wrappers put before it, and what it is called in the model."""
    for word in INSIDE:
        name = name.replace(word, "")
    parts = name.split(".")
    words = list(takewhile(WORDS.__contains__, parts[:-1]))
    return words, ".".join(parts[len(words) :])


def arguments(content: dict) -> dict:
    """What the training was called with, where the file has it as a dict or an argparse.Namespace."""
    args = next((content[name] for name in ARGUMENTS if name in content), {})
    args = vars(args) if isinstance(args, argparse.Namespace) else args
    return args if isinstance(args, dict) else {}
