"""The settings of a run: what a page begins with, the check of what comes back, and what a run will cost."""

import math
import re

from dit_lab.diffusion import QUALITIES, how_many, process_of, quality, samplers_for
from dit_lab.diffusion.solvers import picked
from dit_lab.diffusion.stochastic import FRESH
from dit_lab.models import Config
from dit_lab.panels.asking import choice, real, whole
from dit_lab.panels.opened import Opened
from dit_lab.panels.words import SAMPLER_TITLES
from dit_lab.program import quoted

SEED_LIMIT = 2**63
MOST_STEPS, MOST_SCALE, MOST_PICTURES = 1000, 20.0, 16
MOST_BYTES = 2**28  # of a run, see `kept_bytes`
LARGER = 4  # times the trained side is the most that the page draws
TWICE = {"heun"}  # samplers that ask the network twice a step
ETA = ["ddim"]
FIRST_LABEL, FIRST_SCALE = 7, 2.0


def guidable(config: Config) -> bool:
    """Whether a model knows what guidance compares with: pictures of no class, besides those of classes."""
    return config.num_classes > 0 and config.null_label


def is_square(config: Config) -> bool:
    """Whether one side says the size of the input."""
    return isinstance(config.input_size, int)


def defaults(config: Config, checkpoint: str, own: dict | None = None) -> dict:
    """What a page begins with: the quality "good", the knee of quality against time, moderately guided.

    A checkpoint may have an `own` one (`Loaded.qualities`).
    """
    return {
        "checkpoint": checkpoint, "labels": [min(FIRST_LABEL, max(config.num_classes - 1, 0))], "seed": 0,
        **quality("good", process_of(config), own), "cfg_scale": FIRST_SCALE if guidable(config) else 1.0,
        "cfg_channels": None, "cfg_interval": None, "eta": 0.0,
        "size": config.input_size if is_square(config) else None, "precision": "fp32",
    }  # fmt: skip


def samplers(config: Config) -> list[dict]:
    """The samplers that can walk a model's process, as the page offers them."""
    titled = {name: SAMPLER_TITLES.get(name, name) for name in samplers_for(process_of(config))}
    return [
        {"name": name, "title": title, "passes": 2 if name in TWICE else 1, "fresh": name in FRESH}
        for name, title in titled.items()
    ]


def qualities(config: Config, own: dict | None = None) -> list[dict]:
    """The ways to sample that have a name, as the page offers them; `own` is as in `defaults`."""
    found = []
    for name in QUALITIES:
        way = quality(name, process_of(config), own)
        count, title = how_many(way["steps"]), SAMPLER_TITLES.get(way["sampler"], way["sampler"])
        found.append({"name": name, "title": f"{name}: {count} step{'s' * (count != 1)} of {title}"} | way)
    return found


def read(config: Config, precisions: list[str], settings) -> tuple[list[int], dict, str]:
    """What the page sent, as labels and options of `sample`, and the precision. Raises ValueError with a sentence."""
    if not isinstance(settings, dict):
        raise ValueError(f"Settings must be an object, not {quoted(settings)}.")
    get, blank = settings.get, (None, "")
    labels = get("labels")
    if not isinstance(labels, list) or not 1 <= len(labels) <= MOST_PICTURES:
        raise ValueError(f"Pictures must be from 1 to {MOST_PICTURES}, a label each.")
    labels = [whole("Class", label, 0, config.labels - 1) for label in labels]
    sampler = choice("Sampler", get("sampler"), samplers_for(process_of(config)))
    options = {"seed": seed(get("seed")), "steps": steps(get("steps"), config), "sampler": sampler}
    if guidable(config):
        options["cfg_scale"] = real("Guidance", get("cfg_scale"), 0, MOST_SCALE)
        if get("cfg_channels") not in blank:
            options["cfg_channels"] = whole("Guided channels", get("cfg_channels"), 1, config.in_channels)
        if get("cfg_interval") not in blank:
            options["cfg_interval"] = interval(get("cfg_interval"))
    if sampler in ETA and get("eta") not in blank:
        options["eta"] = real("Eta", get("eta"), 0, 1)
    if is_square(config) and get("size") not in (*blank, config.input_size):
        options["size"] = whole("Size", get("size"), 1, LARGER * config.input_size)
    if (size := kept_bytes(config, options, len(labels))) > MOST_BYTES:
        most = f"the app keeps {MOST_BYTES // 2**20}: take fewer pictures, fewer steps or a smaller size."
        raise ValueError(f"All steps of this run take {size / 2**20:.0f} MiB, {most}")
    return labels, options, choice("Precision", get("precision", "fp32"), precisions)


def seed(value) -> int:
    """A seed from what was typed. Raises ValueError."""
    text = str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if not re.fullmatch(r"[0-9]{1,19}", text) or int(text) >= SEED_LIMIT:
        raise ValueError("Seed must be a whole number from 0 to 2^63 - 1, such as 42.")
    return int(text)


def steps(value, config: Config) -> int | list[float]:
    """A number of steps, or the timesteps themselves, noisiest first. Raises ValueError."""
    if not isinstance(value, list):
        return whole("Steps", value, 1, MOST_STEPS)
    if not 1 <= len(value) <= MOST_STEPS:
        raise ValueError(f"Steps must be from 1 to {MOST_STEPS}, or as many timesteps.")
    try:
        picked(process_of(config), value)
    except ValueError as error:
        raise ValueError(as_sentence(str(error))) from None
    return value


def interval(value) -> list[float]:
    """Two timesteps in rising order. Raises ValueError."""
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError("Guided from, to must be two timesteps.")
    low, high = (real(f"Guided {end}", each, 0, 1e6) for end, each in zip(("from", "to"), value, strict=True))
    if low > high:
        raise ValueError(f"Guided from, to must rise: {low:g} is above {high:g}.")
    return [low, high]


def passes(options: dict, pictures: int) -> int:
    """Forwards of single pictures that a run takes, guided ones twice; an interval is taken to guide throughout."""
    twice = options["sampler"] in TWICE
    asked = how_many(options["steps"]) * (2 if twice else 1) - twice
    return asked * pictures * (2 if options.get("cfg_scale", 1.0) != 1 else 1)


def begin(run: dict | None) -> dict:
    """Where a page looks at first: late in the run, where the picture is there and noise still is, at its middle."""
    if run is None:
        return {}
    rows, columns = run["grid"]
    return {
        "step": 3 * (len(run["t"]) - 1) // 4,
        "patch": rows // 2 * columns + columns // 2,
        "block": run["depth"] // 3,
    }


def settings_of(opened: Opened) -> dict:
    """The settings of the page that make a run."""
    run, options, first = opened.trajectory, opened.trajectory.options, defaults(opened.config, opened.source)
    told = {name: options[name] for name in ("cfg_scale", "cfg_channels", "cfg_interval", "eta", "size")}
    known = {each["name"] for each in samplers(opened.config)}
    asked = getattr(opened, "options", options)["steps"]  # of a run that was stopped, all that were to be taken
    taken = asked[: len(run.t)] if isinstance(asked, list) else len(run.t)
    told |= {"sampler": options["sampler"] if options["sampler"] in known else first["sampler"]}
    return first | told | {"labels": list(run.labels)[:MOST_PICTURES], "seed": options["seed"] or 0, "steps": taken}


def kept_bytes(config: Config, options: dict, pictures: int) -> int:
    """What a run keeps: x_t, x0 and eps of every step in fp32."""
    size = config.size if "size" not in options else (options["size"],) * 2
    return 4 * 3 * how_many(options["steps"]) * pictures * config.in_channels * math.prod(size)


def as_sentence(text: str) -> str:
    """A note as a sentence of its own."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}." if text else ""
