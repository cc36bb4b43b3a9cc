"""Everything a training run needs to continue bit for bit, in one safetensors file: weights, EMA, optimiser, step.

There is no generator state to keep: what is random at a step depends on the seed and the step's number alone.
"""

import json
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from dit_lab.files import write_tensors

MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass
class TrainState:
    """A model in training: the weights that are trained, their moving average, the optimiser and the steps done.

    `recent` holds the figures of the steps since the last line of the loss log, so that a resumed run's log is the
    uninterrupted one's.
    """

    model: nn.Module
    ema: nn.Module
    optimiser: torch.optim.Optimizer
    step: int = 0
    recent: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def fresh(cls, model: nn.Module, lr: float) -> "TrainState":
        """AdamW without decay, as in the paper (section 4), and an average that starts at the weights."""
        ema = deepcopy(model).requires_grad_(False).eval()
        return cls(model, ema, torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0, fused=True))

    @torch.no_grad()
    def average(self, decay: float) -> None:
        """Move the EMA towards the weights; the first steps faster, so that a short run's average forgets its birth."""
        decay = min(decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.model.parameters()), 1 - decay)

    def save(self, path: Path, run: dict) -> None:
        """Write the state atomically, with what it belongs to: `run` maps names to groups of JSON values."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"ema.{name}": tensor for name, tensor in self.ema.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            for moment, tensor in self.optimiser.state[parameter].items():
                tensors[f"optimiser.{moment}.{name}"] = tensor
        write_tensors(path, tensors, {"step": self.step, "recent": self.recent, "run": run})

    def restore(self, path: Path, run: dict) -> None:
        """Continue from a file that `save` wrote. Raises ValueError when it is not one or belongs to another `run`."""
        try:
            with safe_open(path, framework="pt") as file:
                about = json.loads((file.metadata() or {})["dit_lab"])
                check_same(path, about["run"], json.loads(json.dumps(run)))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            self.fill(tensors, about)
        except (SafetensorError, KeyError, TypeError, AttributeError, RuntimeError, json.JSONDecodeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{path} is not a training state that can be continued from: {reason}") from error

    def fill(self, tensors: dict, about: dict) -> None:
        """Take over the tensors and figures of a saved state."""
        take = lambda prefix: {n.removeprefix(prefix): tensors[n] for n in tensors if n.startswith(prefix)}
        self.model.load_state_dict(take("model."))
        self.ema.load_state_dict(take("ema."))
        moments = {moment: take(f"optimiser.{moment}.") for moment in MOMENTS}
        for name, parameter in self.model.named_parameters():
            self.optimiser.state[parameter] = {m: moments[m][name].to(parameter.device) for m in MOMENTS}
        self.step, self.recent = about["step"], about["recent"]


def check_same(path: Path, saved: dict, asked: dict) -> None:
    """Raise ValueError that lists what the run in `path` was started with and is now asked for otherwise."""
    changed = [
        f"{group} {name} {saved.get(group, {}).get(name)} (now {value})"
        for group, values in asked.items()
        for name, value in values.items()
        if saved.get(group, {}).get(name) != value
    ]
    if changed:
        raise ValueError(
            f"{path} was started with {', '.join(changed)}; only the number of steps, save_every and the device may "
            "change when a run is continued"
        )
