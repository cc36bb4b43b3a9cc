"""Steps at which the network is not asked: its output is drawn on from those at which it was.

Caches of features do this module by module (TaylorSeer, arXiv 2503.06923); here one tensor is kept, the output. A
sampler cannot tell: it asks `Reusing` as it asks a model.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass
class Reusing:
    """A model whose output is computed at every `every`-th step only, and forecast between by a polynomial of `order`.

    With `every` 1 it is the model itself, counted: `asked` are the pictures that went through the network.
    """

    model: torch.nn.Module
    every: int = 1
    order: int = 0
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
        step, seen = iter(range(2 * len(t))), []

        def ask(x, times, labels):
            number = next(step)
            fits = len(seen) > self.order and seen[0][1].shape[0] == x.shape[0]  # guidance may begin or end
            if fits and not computed(number, len(t), self.every, self.order):
                return forecast(seen, number)
            self.asked += len(x)
            output = network(x, times, labels)
            kept = [pair for pair in seen if pair[1].shape[0] == x.shape[0]]
            seen[:] = [(number, output), *kept][: self.order + 1]
            return output

        return ask


def computed(number: int, count: int, every: int, order: int) -> bool:
    """Whether a step is computed: the first few, the last, and every `every`-th between."""
    return number <= order or number == count - 1 or (number - order) % every == 0


def forecast(seen: list[tuple[int, torch.Tensor]], number: int) -> torch.Tensor:
    """What the polynomial through the outputs that were seen gives at step `number`: `b c h w`.

    At even distances these are the backward differences, order by order.
    """
    total = 0
    for place, output in seen:
        others = [other for other, _ in seen if other != place]
        weight = 1.0
        for other in others:
            weight *= (number - other) / (place - other)
        total = total + weight * output
    return total
