"""What is compared: two to four settings that differ in one factor, and what each makes of the noise."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import torch

from dit_lab.checkpoints import load, zoo
from dit_lab.data import codec_of
from dit_lab.diffusion import process_of, samplers_for
from dit_lab.files import read_json
from dit_lab.models import BLOCKS, DTYPES, config_of, fast
from dit_lab.panels.asking import choice, real, whole
from dit_lab.panels.opened import Opened
from dit_lab.panels.words import SAMPLER_TITLES
from dit_lab.program import quoted

FEWEST, MOST = 2, 4  # settings
MOST_STEPS, MOST_GUIDANCE, MOST_SEED = 1000, 20.0, 2**32 - 1
OPEN = "the open one"  # of checkpoints
# The zoo's four blocks: one size, one data set, the same pictures in the same order.
FOUR = {name: f"mnist_{name}" for name in ("in_context", "cross_attention", "adaln", "adaln_zero")}
PROPOSED = "ddim", "dpmpp", "heun", "ddpm"  # samplers
DIGIT = 7  # drawn by the four where the run's own labels are none of theirs
KEPT_PARAMETERS = 10**8  # of models that stay in memory until they have their turn; larger ones are loaded twice
NAMES = {
    "block": "conditioning block", "checkpoint": "checkpoint", "guidance": "guidance", "sampler": "sampler",
    "steps": "steps", "seed": "seed", "precision": "precision",
}  # fmt: skip


@dataclass
class Setting:
    """One column: its name, the options of its sampling, and what gives its (model, codec, labels)."""

    name: str
    options: dict
    opens: Callable


def factors(opened: Opened) -> dict:
    """What may differ and between which values, with those that are proposed."""
    run, options = opened.trajectory, opened.trajectory.options
    checkpoints, alike = offered_checkpoints(opened)
    found = {
        "block": {"choices": [[name, BLOCKS[name].title] for name in FOUR], "first": list(FOUR)},
        "checkpoint": {"choices": checkpoints, "first": alike[:FEWEST]},
    }
    if opened.model is not None:
        steps, seed, half = len(run.t), options["seed"] or 0, max(1, len(run.t) // 2)
        samplers = samplers_for(process_of(opened.config))
        guided = opened.config.num_classes and opened.config.null_label
        proposed = [name for name in dict.fromkeys([options["sampler"], *PROPOSED]) if name in samplers][:3]
        found["guidance"] = {"bounds": [0, MOST_GUIDANCE, 0.1], "first": [1, 2, 4]} if guided else None
        found["sampler"] = {"choices": [[name, SAMPLER_TITLES.get(name, name)] for name in samplers],
                            "first": proposed}  # fmt: skip
        found["steps"] = {"bounds": [1, MOST_STEPS, 1], "first": sorted({max(1, half // 2), half, steps})}
        found["seed"] = {"bounds": [0, MOST_SEED, 1], "first": [seed, seed + 1, seed + 2]}
        found["precision"] = {"choices": [[name, name] for name in DTYPES], "first": ["fp32", "bf16"]}
    return {
        name: {"name": NAMES[name]} | how
        for name, how in found.items()
        if how and len(how.get("choices", "..")) >= FEWEST
    }


def offered_checkpoints(opened: Opened) -> tuple[list, list[str]]:
    """Checkpoints to choose from, with words for each; and those to propose, which start from the same noise."""
    mine = noise_shape(opened.config, opened.trajectory.options["size"])
    found = [[OPEN, f"the open one, {opened.source}" if opened.source else OPEN]] * (opened.model is not None)
    alike = [name for name, _ in found]
    for name in checkpoints_of(opened):
        if name == opened.source:
            continue
        shape = mine if name in opened.others else zoo_noise()[name]
        found.append([name, name if shape == mine else f"{name} (other noise, {shape})"])
        alike += [name] * (shape == mine)
    return found, alike if len(alike) >= FEWEST else [name for name, _ in found]


@cache
def zoo_noise() -> dict[str, str]:
    """The noise that each checkpoint of the zoo starts from."""
    return {name: noise_shape(config_of(read_json(path / "config.json")["model"])) for name, path in zoo().items()}


def noise_shape(config, size=None) -> str:
    """Channels x height x width of what a model of this config denoises, at another size than its own where given."""
    config = config if size is None else replace(config, input_size=size)
    return f"{config.in_channels} x {config.size[0]} x {config.size[1]}"


def checkpoints_of(opened: Opened) -> dict[str, Callable]:
    """The checkpoints to compare with, by name: the host's, and where it has none the zoo's."""
    return opened.others or {name: zoo_model(name) for name in sorted(zoo())}


def zoo_model(name: str) -> Callable:
    """What opens a checkpoint of the zoo."""

    def opens():
        loaded = load(name)
        return loaded.model, codec_of(loaded), loaded.labels

    return opens


def settings_of(opened: Opened, request: dict) -> list[Setting]:
    """The settings that a browser asked for. Raises ValueError with a sentence."""
    offered = factors(opened)
    factor = choice("What differs", request.get("factor"), offered)
    values = request.get("values")
    if not isinstance(values, list) or not FEWEST <= len(values) <= MOST:
        raise ValueError(f"Compare {FEWEST} to {MOST} settings, not {quoted(values, 40)}.")
    how = offered[factor]
    if "choices" in how:
        known = dict(how["choices"])
        values = [choice(NAMES[factor].capitalize(), value, known) for value in values]
    elif factor == "guidance":
        values = [real("Guidance", value, *how["bounds"][:2]) for value in values]
    else:
        values = [whole(NAMES[factor].capitalize(), value, *how["bounds"][:2]) for value in values]
    if len(set(values)) < len(values):
        raise ValueError(f"Two settings are the same {NAMES[factor]}: choose values that differ.")
    return [setting(opened, factor, value) for value in values]


def setting(opened: Opened, factor: str, value) -> Setting:
    """One of the settings: the run's own, but for the factor."""
    options = opened.trajectory.asked
    if options["seed"] is None:  # the noise was given and is not kept
        options["seed"] = 0
    mine = lambda: (opened.model, opened.codec, opened.labels)
    if factor == "block":
        return Setting(BLOCKS[value].title, for_another(options), zoo_model(FOUR[value]))
    if factor == "checkpoint":
        if value == OPEN:
            return Setting(opened.source or OPEN, options, mine)
        return Setting(value, for_another(options), checkpoints_of(opened)[value])
    if factor == "guidance":
        return Setting(f"guidance {value:g}", options | {"cfg_scale": value}, mine)
    if factor == "sampler":  # eta is one sampler's alone, and would be a second thing that differs
        return Setting(SAMPLER_TITLES.get(value, value), options | {"sampler": value, "eta": 0.0}, mine)
    if factor == "steps":
        return Setting(f"{value} step{'s' * (value > 1)}", options | {"steps": value}, mine)
    if factor == "seed":
        return Setting(f"seed {value}", options | {"seed": value}, mine)
    return Setting(value, options, lambda: (in_precision(opened.model, value), opened.codec, opened.labels))


def for_another(options: dict) -> dict:
    """Options for another model, which has channels and bounds of its own."""
    return options | {"clip_x0": None, "cfg_channels": None, "size": None}


def in_precision(model, precision: str):
    """A model computing in fp32, bf16 or fp16. Raises ValueError where it cannot, or is no longer in fp32 itself."""
    speed, weight = getattr(model, "speed", None), next(model.parameters())
    if weight.dtype != torch.float32 or (speed is not None and speed.precision != "fp32"):
        raise ValueError("The open model computes in half precision already: open it in fp32 to compare precisions.")
    return fast(model, precision=precision)


class Models:
    """The models of some settings, looked at before any sampling and then given one after the other."""

    def __init__(self, settings: list[Setting]):
        self.settings, self.kept, self.configs = settings, {}, []
        for number, each in enumerate(settings):
            model, codec, labels = each.opens()
            self.configs.append(model.config)
            if sum(parameter.numel() for parameter in model.parameters()) <= KEPT_PARAMETERS:
                self.kept[number] = model, codec, labels

    def check_noise(self) -> None:
        """Raise ValueError where the settings' noise is of different shapes, so that it cannot be the same."""
        shapes = {
            each.name: noise_shape(config, each.options["size"])
            for each, config in zip(self.settings, self.configs, strict=True)
        }
        if len(set(shapes.values())) > 1:
            told = ", ".join(f"{name} starts from {shape}" for name, shape in shapes.items())
            raise ValueError(f"These cannot start from the same noise, whose shapes differ (channels x h x w): {told}.")

    def labels_for(self, labels: list[int], block: bool) -> list[int]:
        """The labels that all are asked for. Raises ValueError where a model lacks one; the four have a digit then."""
        fits = lambda config: all(label < config.labels for label in labels) or not config.num_classes
        wrong = [each.name for each, config in zip(self.settings, self.configs, strict=True) if not fits(config)]
        if not wrong:
            return labels
        if block:
            return [DIGIT] * len(labels)
        raise ValueError(f"{wrong[0]} has no class {max(labels)}, which this run was asked for: sample another class.")

    def take(self, number: int):
        """(model, codec, labels) of a setting, which is not held on to."""
        return self.kept.pop(number, None) or self.settings[number].opens()
