"""Everything a training run needs to continue bit for bit, in one safetensors file: weights, averages, optimiser, step.

There is no generator state to keep: what is random at a step depends on the seed and the step's number alone. The file
holds whole tensors, so a run of any number of processes, replicated or sharded, continues in any other.
"""

import json
import re
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from dit_lab.checkpoints.reading import listed
from dit_lab.diffusion.whole import whole
from dit_lab.files import check_fields, json_object, write_tensors
from dit_lab.program import quoted
from dit_lab.training.options import PRECISIONS
from dit_lab.training.parallel import bare, gathered, laid_out, local, processes, share_out

PLAIN = re.compile(r"[\w./-]{1,40}")
MOMENTS = ("exp_avg", "exp_avg_sq", "step")
MOST_RECENT = 10_000  # steps since the last line of a log, far more than there are


@dataclass
class TrainState:
    """A model in training: the weights that are trained, their moving averages, the optimiser and the steps done.

    `model` is as the processes run it; `averages` maps a decay to tensors by the parameters' names, laid out as they
    are. `recent` holds the figures of the steps since the last line of the loss log, so that a resumed run's log is the
    uninterrupted one's. `precision` is what the run computes in, empty until that is known.
    """

    model: nn.Module
    averages: dict[float, dict[str, torch.Tensor]]
    optimiser: torch.optim.Optimizer
    step: int = 0
    recent: list[dict[str, float]] = field(default_factory=list)
    ema_warmup: bool = True
    precision: str = ""

    @classmethod
    def fresh(
        cls, model: nn.Module, lr: float, decays=(0.9999,), shard: bool = False, ema_warmup: bool = True, into=None,
        **adamw,
    ) -> "TrainState":  # fmt: skip
        """AdamW, by default without decay as in the paper (section 4), and averages that start at the weights.

        The first average's tensors are those of the model `into`, where one is given.
        """
        model = share_out(model, shard)
        named = {name: parameter.detach() for name, parameter in bare(model).named_parameters()}
        averages = {decay: {name: tensor.clone() for name, tensor in named.items()} for decay in decays}
        if into is not None:
            into.requires_grad_(False).eval().load_state_dict(bare(model).state_dict())
            averages[next(iter(averages))] = {name: tensor.detach() for name, tensor in into.named_parameters()}
        optimiser = torch.optim.AdamW(model.parameters(), lr=lr, fused=True, **(dict(weight_decay=0) | adamw))
        return cls(model, averages, optimiser, ema_warmup=ema_warmup)

    @torch.no_grad()
    def average(self) -> None:
        """Move the averages towards the weights; with `ema_warmup` faster at first: a short run's forgets its birth."""
        weights = [local(parameter.detach()) for parameter in bare(self.model).parameters()]
        for decay, tensors in self.averages.items():
            decay = min(decay, (1 + self.step) / (10 + self.step)) if self.ema_warmup else decay
            torch._foreach_lerp_([local(tensor) for tensor in tensors.values()], weights, 1 - decay)

    def weights(self, decay: float | None = None) -> dict[str, torch.Tensor]:
        """The model's tensors as trained, or with a `decay` that average's: on the main process, if every one asks."""
        return gathered(bare(self.model).state_dict() | (self.averages[decay] if decay is not None else {}))

    def averaged(self) -> nn.Module:
        """A copy of the model with the first average for its weights, in eval mode; not of a sharded one."""
        model = deepcopy(bare(self.model)).requires_grad_(False).eval()
        model.load_state_dict(next(iter(self.averages.values())), strict=False)
        return model

    @contextmanager
    def showing(self, decay: float):
        """Inside, the model's own weights are an average; it may be sharded."""
        model, trained = bare(self.model), {}
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                trained[name] = parameter.detach().clone()
                parameter.copy_(self.averages[decay][name])
        try:
            yield model.eval()
        finally:
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.copy_(trained[name])

    def title(self, decay: float) -> str:
        """What an average is called in files: `ema`, and a further one `ema-0.999`."""
        return "ema" if decay == next(iter(self.averages)) else f"ema-{float(decay)}"

    def save(self, path: Path, run: dict) -> None:
        """Write the state atomically, with what it belongs to: `run` maps names to groups of JSON values."""
        model = bare(self.model).state_dict()
        tensors = {f"model.{name}": tensor for name, tensor in model.items()}
        for decay, average in self.averages.items():
            # Whole models, which `load` can open; safetensors keeps no tensor under two names.
            whole = {name: average[name] if name in average else tensor.clone() for name, tensor in model.items()}
            tensors |= {f"{self.title(decay)}.{name}": tensor for name, tensor in whole.items()}
        for name, parameter in bare(self.model).named_parameters():
            for moment, tensor in self.optimiser.state[parameter].items():
                tensors[f"optimiser.{moment}.{name}"] = tensor
        tensors = gathered(tensors)
        if processes().is_main_process:
            write_tensors(path, tensors, {"step": self.step, "recent": self.recent, "run": run})

    def restore(self, path: Path, run: dict, defaults: dict | None = None) -> None:
        """Continue from a file that `save` wrote. Raises ValueError when it is not one or belongs to another `run`.

        `defaults` is what a run meant that was started before one of the names in `run` came to be.
        """
        try:
            with safe_open(path, framework="pt") as file:
                about = described(file)
                changed = differences(about["run"], json.loads(json.dumps(run)), defaults or {})
                if not changed:
                    self.fill(file)
        except (SafetensorError, ValueError, RuntimeError) as error:
            reason = quoted(" ".join(str(error).split()), 120)[1:-1]
            raise ValueError(f"{path} is not a training state that can be continued from: {reason}") from error
        if changed:
            raise ValueError(
                f"{path} was started with {listed(changed, 3)}; only how long and how often (steps at a constant lr, "
                "save_every) and on what machines may change in a run"
            )
        self.step, self.recent = about["step"], about["recent"]
        self.precision = about["run"].get("found", {}).get("precision", "")

    @torch.no_grad()
    def fill(self, file) -> None:
        """Take over the tensors of a saved state, one at a time: a large model's do not fit into memory twice.

        Raises ValueError on one of another shape or kind.
        """
        model = bare(self.model)
        for name, tensor in model.state_dict().items():
            tensor.copy_(laid_out(taken(file, f"model.{name}", tensor), tensor))
        for decay, average in self.averages.items():
            for name, tensor in average.items():
                tensor.copy_(laid_out(taken(file, f"{self.title(decay)}.{name}", tensor), tensor))
        for name, parameter in model.named_parameters():
            kept = self.optimiser.state[parameter] = {}
            for moment in MOMENTS:
                one = moment == "step"
                tensor = taken(file, f"optimiser.{moment}.{name}", torch.zeros(()) if one else parameter)
                kept[moment] = tensor.to(parameter.device) if one else laid_out(tensor, parameter)


def taken(file, name: str, like: torch.Tensor) -> torch.Tensor:
    """A tensor of a saved state, in the dtype of `like`. Raises ValueError where it has another shape or kind."""
    tensor = file.get_tensor(name)
    if tensor.shape != like.shape or tensor.is_floating_point() != like.is_floating_point():
        told = [f"{each.dtype} of {tuple(each.shape)}" for each in (like, tensor)]
        raise ValueError(f"its {name} should be {told[0]}, not {told[1]}")
    return tensor.to(like.dtype)


def described(file) -> dict:
    """What an open file (`safe_open`) says of its state: step, recent, run. Raises ValueError on other things."""
    about = json_object((file.metadata() or {}).get("dit_lab", "null"))
    check_fields(
        about,
        step=(is_step, "a whole number from 0"),
        recent=(is_recent, "the figures of steps by name"),
        run=(is_run, "groups of values by name, found fp32 or bf16"),
    )
    return about


def is_number(value) -> bool:
    """Whether a value of JSON is a number that computes: no bool, and no whole one beyond 64 bits."""
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63)


def is_step(value) -> bool:
    """Whether a value of JSON can be a number of steps."""
    return whole(value) and 0 <= value < 2**63


def is_recent(value) -> bool:
    """Whether a value of JSON can be the figures of steps, by name."""
    fits = lambda row: isinstance(row, dict) and all(map(is_number, row.values()))
    return isinstance(value, list) and len(value) <= MOST_RECENT and all(map(fits, value))


def is_grouped(value) -> bool:
    """Whether a value of JSON is groups of values by name."""
    return isinstance(value, dict) and all(isinstance(values, dict) for values in value.values())


def is_run(value) -> bool:
    """Whether a value of JSON can be what a run was started with, and which precision it found to be faster."""
    return is_grouped(value) and value.get("found", {}).get("precision", "fp32") in PRECISIONS


def groups(content: dict) -> dict[str, dict]:
    """What a run was started with. Raises ValueError where it is not groups of values by name."""
    if not is_grouped(content):
        raise ValueError("it should be groups of values")
    return content


def differences(saved: dict, asked: dict, defaults: dict) -> list[str]:
    """What a run was started with and is now asked for otherwise, in words."""
    meant = {group: defaults.get(group, {}) | values for group, values in saved.items()}
    return [
        f"{group} {name} {shown(meant.get(group, {}).get(name))} (now {shown(value)})"
        for group, values in asked.items()
        for name, value in values.items()
        if meant.get(group, {}).get(name) != value
    ]


def shown(value) -> str:
    """A value of a file in a sentence: a plain word as it is, anything else as `quoted` spells it, shortly."""
    return value if isinstance(value, str) and PLAIN.fullmatch(value) else quoted(value, 20)
