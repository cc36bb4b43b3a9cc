"""Steps at which the network is not asked: what it would give is drawn on from the steps at which it was asked.

Either its output is, one tensor, or the output of each attention and each MLP, as caches of features do it (TaylorSeer,
arXiv 2503.06923): then all else is computed at each step. A sampler cannot tell: it asks `Reusing` as it asks a model.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

Seen = list[tuple[int, list[torch.Tensor]]]  # the last steps that were computed: which, and what was kept of each


@dataclass
class Reusing:
    """A model whose output is computed at every `every`-th step only, and forecast between by a polynomial of `order`.

    With `branches` that of its attentions and MLPs is, each by itself. With `every` 1 it is the model itself, counted:
    `asked` are the pictures that went through the whole network.
    """

    model: nn.Module
    every: int = 1
    order: int = 0
    branches: bool = False
    asked: int = 0

    @property
    def config(self):
        """The model's."""
        return self.model.config

    def parameters(self):
        """The model's."""
        return self.model.parameters()

    def ahead(self, t: torch.Tensor, y: torch.Tensor) -> Callable:
        """`ask(x: b c h w, t: b, y: b)` of one run over the timesteps `t`, which a sampler calls once a step."""
        network = self.model.ahead(t, y) if hasattr(self.model, "ahead") else self.model
        step, seen, branches = iter(range(2 * len(t))), [], branches_of(self.model) if self.branches else []

        def ask(x, times, labels):
            number = next(step)
            seen[:] = [pair for pair in seen if pair[1][0].shape[0] == x.shape[0]]  # guidance may begin or end
            if len(seen) > self.order and not computed(number, len(t), self.every, self.order):
                if not branches:
                    return forecast(seen, number)[0]
                with answering(branches, [lambda *_, made=made: made for made in forecast(seen, number)]):
                    return network(x, times, labels)
            self.asked += len(x)
            kept = []
            with answering(branches, [partial(noted, branch.forward, kept) for branch in branches]):
                output = network(x, times, labels)
            seen[:] = [(number, kept if branches else [output]), *seen][: self.order + 1]
            return output

        return ask


def branches_of(model: nn.Module) -> list[nn.Module]:
    """Each block's attention and MLP, which add to the stream, in the module that runs when the model is asked."""
    ahead = getattr(model, "ahead", None)
    running = model if ahead is None else ahead.plain if ahead.looking is None else ahead.looking
    return [branch for block in running.blocks for branch in (block.attn, block.mlp)]


@contextmanager
def answering(modules: list[nn.Module], answers: list[Callable]) -> Iterator[None]:
    """While this lasts, modules are not run but answered for."""
    for module, answer in zip(modules, answers, strict=True):
        module.forward = answer
    try:
        yield
    finally:
        for module in modules:
            vars(module).pop("forward", None)


def noted(forward: Callable, kept: list[torch.Tensor], *given) -> torch.Tensor:
    """What a module gives, which is kept."""
    kept.append(forward(*given))
    return kept[-1]


def computed(number: int, count: int, every: int, order: int) -> bool:
    """Whether a step is computed: the first few, the last, and every `every`-th between."""
    return number <= order or number == count - 1 or (number - order) % every == 0


def forecast(seen: Seen, number: int) -> list[torch.Tensor]:
    """What the polynomials through what was seen give at step `number`.

    At even distances these are the backward differences, order by order.
    """
    weights = []
    for place, _ in seen:
        weight = 1.0
        for other, _ in seen:
            if other != place:
                weight *= (number - other) / (place - other)
        weights.append(weight)
    drawn_on = lambda *kept: sum(weight * tensor.float() for weight, tensor in zip(weights, kept, strict=True))
    return [drawn_on(*kept).to(kept[0].dtype) for kept in zip(*(kept for _, kept in seen), strict=True)]
