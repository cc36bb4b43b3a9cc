"""Compare: a few settings that differ in one thing, from the same noise, under one scrubber."""

from functools import partial
from time import monotonic

import torch
from einops import rearrange, reduce

from dit_lab.diffusion import check_finite
from dit_lab.inside import Recording, record
from dit_lab.inside.plots import picture_table
from dit_lab.inside.walking import relayed
from dit_lab.models import BLOCKS, count
from dit_lab.panels.asking import whole
from dit_lab.panels.compare.curves import shipped_curves
from dit_lab.panels.compare.nearest import nearest_pictures
from dit_lab.panels.compare.settings import Models, factors, settings_of
from dit_lab.panels.frames import decoding, frame_steps, frames_of, samples_sent
from dit_lab.panels.opened import Opened
from dit_lab.panels.packing import atlas, pack
from dit_lab.panels.panel import Panel, Progress
from dit_lab.panels.words import SAMPLER_TITLES, shown_times

SAID = {"cfg_scale": "guidance", "cfg_channels": "guided channels", "cfg_interval": "guidance interval"}
TITLES = SAMPLER_TITLES | {name: block.title for name, block in BLOCKS.items()}
KEPT = "seed", "sampler", "steps", "cfg_scale"  # options that are told where all share them


def data(opened: Opened) -> dict:
    """What may differ, the curves of the four blocks, and whether training pictures are at hand."""
    return {
        "run": opened.id, "factors": factors(opened), "curves": shipped_curves(),
        "pictures": getattr(opened, "training_pictures", None) is not None,
    }  # fmt: skip


def answer(opened: Opened, request: dict):
    """Runs of some settings, `{factor, values, sample}`, or a sample's nearest training pictures, `{nearest: sample}`.

    Both with progress. Raises ValueError with a sentence on what cannot be compared.
    """
    last = len(opened.trajectory.labels) - 1
    if "nearest" in request:
        sample = whole("Sample", request["nearest"], 0, last)
        return opened.answering(("nearest", sample), lambda: nearest_pictures(opened, sample))
    sample, settings = whole("Sample", request.get("sample"), 0, last), settings_of(opened, request)
    frames = sum(1 + len(frame_steps(opened.codec, steps_of(each))) for each in settings)
    samples = samples_sent(opened.codec, opened.trajectory, frames, sample)
    asked = {"factor": request["factor"], "values": request["values"], "sample": sample}
    key = "compare", request["factor"], request["values"], samples
    return opened.answering(key, lambda: comparing(opened, settings, samples, asked))


def steps_of(setting) -> int:
    """How many steps a setting takes."""
    steps = setting.options["steps"]
    return len(steps) if isinstance(steps, list) else steps


def comparing(opened: Opened, settings, samples: list[int], asked: dict):
    """The answer, with progress on its way."""
    total, before = sum(map(steps_of, settings)), 0
    yield Progress(0, total, "opening the models")
    models = Models(settings)
    models.check_noise()
    labels = models.labels_for(opened.trajectory.labels, asked["factor"] == "block")
    runs, columns, classes = [], [], []
    for number, setting in enumerate(settings):
        (model, codec, names), begun = models.take(number), monotonic()
        run, seconds = opened.trajectory, None
        if model is not opened.model or run.options != setting.options or run.labels != labels:
            recording = Recording(model, fitting(model.config, labels), **setting.options)
            for step in recording:
                yield Progress(before + step.index + 1, total, f"{setting.name}, step {step.index + 1}")
            run, seconds = recording.trajectory, monotonic() - begun
        check_finite(f"What {setting.name} draws", run.sample)
        before += steps_of(setting)
        shown = yield from shown_frames(run, codec, samples, f"decoding {setting.name}")
        classes.append(called(names, run.labels))
        columns.append({"name": setting.name, "t": shown_times(run), "shown": shown, "seconds": seconds})
        runs.append(run)
        del model
    wide = asked["factor"] in ("block", "checkpoint")  # than one model
    rows, same = table(runs, wide)
    if asked["factor"] == "precision":
        rows.insert(0, ["precision", *asked["values"]])
    if len({*map(tuple, classes)}) > 1:
        rows.insert(0, ["class", *(", ".join(dict.fromkeys(each)) for each in classes)])
    return {
        "runs": columns, "table": rows, "same": same, "distances": pack(distances(opened.trajectory.t, runs)),
        "labels": classes[0], "request": asked,
        "same_noise": asked["factor"] != "seed", "other_labels": labels != opened.trajectory.labels,
        "other_noise": opened.trajectory.options["seed"] is None,
    }  # fmt: skip


def called(names: list[str], labels: list[int]) -> list[str]:
    """What labels are called."""
    return [str(names[label]) if label < len(names) else "no class" if names else "" for label in labels]


def fitting(config, labels: list[int]) -> list[int]:
    """The labels as a model takes them: one without classes takes 0."""
    return labels if config.num_classes else [0] * len(labels)


def shown_frames(run, codec, samples, told: str):
    """A run's frames by sample: `steps` that have one, and the atlas of theirs and of the end."""
    steps, shown = frame_steps(codec, len(run.t)), {}
    for sample in samples:
        frames = frames_of({"x0": run.x0, "sample": run.sample}, steps, sample)
        count = partial(Progress, total=len(frames), told=told)
        pictures = yield from relayed(decoding(codec, frames), count)
        shown[str(sample)] = {"steps": steps, "x0": atlas(pictures)}
    return shown


def distances(t: list, runs) -> torch.Tensor:
    """Root mean squares between every two runs, `-> f run run`: x0 nearest to each of the times `t`, then the end."""
    frames = [[run.x0[nearest_step(run.t, each)] for run in runs] for each in t]
    return torch.stack([between(torch.stack(frame)) for frame in (*frames, [run.sample for run in runs])])


def between(x: torch.Tensor) -> torch.Tensor:
    """Root mean squares between every two of some batches, `x: run b c h w -> run run`."""
    apart = rearrange(x, "i b c h w -> i 1 b c h w") - rearrange(x, "j b c h w -> 1 j b c h w")
    return reduce(apart**2, "i j b c h w -> i j", "mean").sqrt()


def nearest_step(times: list, t: float) -> int:
    """The step whose time is nearest to t, of two the noisier one."""
    return min(range(len(times)), key=lambda step: abs(times[step] - t))


def table(runs, wide: bool) -> tuple[list, str]:
    """What differs between runs, of several models where `wide`: a row each, its name first; and what all share."""
    columns = []
    for run in runs:
        config = run.config.as_json()
        columns.append({SAID.get(name, name): value for name, value in (config | run.options).items()})
        if wide:
            counted = count(run.config)
            columns[-1] |= {"parameters": counted.params, "million MACs a forward": counted.macs / 1e6}
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [[name, *(told(column.get(name)) for column in columns)] for name in names]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    options = runs[0].options
    same = [
        f"{SAID.get(name, name)} {told(options[name])}"
        for name in KEPT
        if len({str(run.options[name]) for run in runs}) == 1
    ]
    return rows, ", ".join(same)


def told(value) -> str:
    """A value for a reader."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " × ".join(map(told, value))
    if isinstance(value, int) or isinstance(value, float) and value >= 1000:
        return f"{round(value):,}"
    return f"{value:.4g}" if isinstance(value, float) else TITLES.get(value, str(value))


def still(opened: Opened, *, sample: int = 0, **place):
    """The run in a quarter and in half of its steps, and as it is: a sample's final picture from one noise."""
    run = opened.trajectory
    steps = sorted({max(1, len(run.t) // 4), max(1, len(run.t) // 2)} - {len(run.t)})
    runs = [record(opened.model, run.labels, **run.asked | {"steps": number}) for number in steps]
    finals = torch.cat([opened.codec.decode(each.sample[[sample]]) for each in (*runs, run)])
    return picture_table({"final": finals}, [f"{len(each.t)} steps" for each in (*runs, run)], "From the same noise")


PANEL = Panel("compare", "Compare", data, answer, still)
