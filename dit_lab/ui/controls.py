"""The controls of a run, and the check of what comes back from them: the browser's word is not trusted."""

import re
from dataclasses import dataclass
from numbers import Real

import gradio as gr

from dit_lab.diffusion import process_of, samplers_for
from dit_lab.models import Config

SEED_LIMIT = 2**63
MAX_STEPS = 1000
MAX_SCALE = 20.0
LARGER = 4  # times the trained side is the most that the page draws
SAMPLER_TITLES = {
    "ddim": "DDIM", "ddpm": "DDPM", "euler": "Euler", "heun": "Heun", "dpmpp": "DPM-Solver++",
    "dpmpp3": "DPM-Solver++(3M)", "unipc": "UniPC",
}  # fmt: skip


@dataclass(frozen=True)
class Controls:
    """The components that a run reads, in the order of `read`'s arguments, and the buttons."""

    label: gr.Dropdown
    seed: gr.Textbox
    steps: gr.Number
    sampler: gr.Radio
    cfg_scale: gr.Number
    size: gr.Number
    start: gr.Button
    stop: gr.Button

    @property
    def inputs(self) -> list:
        return [self.label, self.seed, self.steps, self.sampler, self.cfg_scale, self.size]


def defaults(config: Config) -> dict:
    """What the controls show at first: a label and the options of `sample`."""
    label = min(7, max(config.num_classes - 1, 0))
    sampler = "euler" if config.schedule in ("flow", "sit") else "ddim"
    cfg_scale = 2.0 if guidable(config) else 1.0
    size = config.input_size if is_square(config) else None
    return {"label": label, "seed": 0, "steps": 50, "sampler": sampler, "cfg_scale": cfg_scale, "size": size}


def guidable(config: Config) -> bool:
    """Whether a model knows what guidance compares with: pictures of no class, besides those of classes."""
    return config.num_classes > 0 and config.null_label


def is_square(config: Config) -> bool:
    """Whether one side says the size of the input."""
    return isinstance(config.input_size, int)


def class_choices(config: Config, labels: list[str]) -> list[tuple[str, int]]:
    """(what the drop-down shows, label) for every class, and the null label last, where there is one."""
    named = [(name if name == str(i) else f"{name} ({i})", i) for i, name in enumerate(labels)]
    return [*named, *([("no class (null label)", config.num_classes)] if config.null_label else [])]


def controls(config: Config, labels: list[str]) -> Controls:
    """Lay out the controls. A model without classes has neither a class nor guidance to choose.

    One without a null label has no guidance; only where the trained input is a square is its side to choose.
    """
    first = defaults(config)
    classes = config.num_classes > 0
    label = gr.Dropdown(
        class_choices(config, labels or []), value=first["label"], label="Class", visible=classes,
        info="What to draw." + " The null label is what guidance compares with." * config.null_label,
    )  # fmt: skip
    with gr.Row(equal_height=True, elem_classes=["seed-row"]):
        seed = gr.Textbox(
            str(first["seed"]), label="Seed", max_lines=1, scale=3, min_width=120, elem_id="seed",
            info="A whole number; the same seed gives the same noise.",
        )  # fmt: skip
        dice = gr.Button("New seed", scale=1, min_width=84, elem_id="dice")
    # Number fields, not sliders: a slider quietly replaces what is out of its range.
    steps = gr.Number(first["steps"], label="Steps", elem_id="steps", info="1 to 1000, even from noise to picture.")
    there = samplers_for(process_of(config))
    sampler = gr.Radio(
        [(SAMPLER_TITLES.get(name, name), name) for name in there], value=first["sampler"], label="Sampler",
        info="DDPM adds fresh noise at every step, the others none. Heun takes two passes a step.",
    )  # fmt: skip
    cfg_scale = gr.Number(
        first["cfg_scale"], step=0.5, label="Guidance scale", visible=guidable(config), elem_id="guidance",
        info="0 to 20. 1: none. Higher follows the class more closely, at two passes a step.",
    )  # fmt: skip
    size = gr.Number(
        first["size"], label="Size", visible=is_square(config), elem_id="size",
        info=f"Side of what the model draws; it was trained at {config.input_size}.",
    )  # fmt: skip
    with gr.Row(elem_classes=["run-row"]):
        start = gr.Button("Sample", variant="primary", scale=3, min_width=120, elem_id="sample")
        stop = gr.Button("Stop", scale=1, min_width=84, elem_id="stop")
    dice.click(None, outputs=seed, js="() => String(Math.floor(Math.random() * 1e6))", api_visibility="private")
    return Controls(label, seed, steps, sampler, cfg_scale, size, start, stop)


def read(config: Config, label, seed, steps, sampler, cfg_scale, size=None) -> tuple[list[int], dict]:
    """What the controls sent, as labels and options of `sample`. Raises ValueError with a sentence for the page."""
    label = whole("Class", label, 0, config.labels - 1)
    options = {"seed": read_seed(seed), "steps": whole("Steps", steps, 1, MAX_STEPS), "sampler": sampler}
    there = samplers_for(process_of(config))
    if not isinstance(sampler, str) or sampler not in there:
        raise ValueError(f"Sampler must be one of {', '.join(there)}.")
    # Written so that NaN, of which every comparison is false, does not pass.
    if isinstance(cfg_scale, bool) or not isinstance(cfg_scale, Real) or not 0 <= cfg_scale <= MAX_SCALE:
        raise ValueError(f"Guidance scale must be a number from 0 to {MAX_SCALE:g}.")
    options |= {"cfg_scale": float(cfg_scale) if guidable(config) else 1.0}
    if is_square(config) and size != config.input_size and size is not None:
        options["size"] = whole("Size", size, 1, LARGER * config.input_size)
    return [label], options


def read_seed(text) -> int:
    """A seed from what was typed. Raises ValueError."""
    text = str(text).strip() if isinstance(text, (str, int)) and not isinstance(text, bool) else ""
    if not re.fullmatch(r"[0-9]{1,19}", text) or int(text) >= SEED_LIMIT:
        raise ValueError("Seed must be a whole number from 0 to 2^63 - 1, such as 42.")
    return int(text)


def whole(what: str, value, low: int, high: int) -> int:
    """A whole number within bounds, from a number that JSON may have made a float. Raises ValueError."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not low <= value <= high or value != int(value):
        raise ValueError(f"{what} must be a whole number from {low} to {high}.")
    return int(value)
