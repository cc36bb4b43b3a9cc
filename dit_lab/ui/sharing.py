"""What is taken away and brought back: the Python that makes what is shown, and the trajectory as a file."""

import binascii
from base64 import b64decode, b64encode
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from dit_lab.inside import Trajectory
from dit_lab.panels import Opened
from dit_lab.panels.trajectory import trajectory_bytes
from dit_lab.program import quoted
from dit_lab.ui.checkpoints import Checkpoints

MOST_BYTES = 2**25
OWN = "own"  # what a recorded run says of a sampler or a guide that was a function of its maker's
PLACES = ("step", "sample", "patch", "block", "head", "half")


def python(opened: Opened, checkpoints: Checkpoints, place: dict) -> str:
    """A program that makes the run that is shown, and looks at the place that is looked at: its step, patch, head."""
    run, served = opened.trajectory, opened.source in checkpoints.sources
    options = getattr(opened, "options", run.options)
    lines, model = [f"loaded = dit_lab.load({loading(opened.source, checkpoints)})"] if served else [], "loaded.model"
    if not served or options["seed"] is None or options["sampler"] == OWN or options["guide"] is not None:
        lines += [f"run = Trajectory.load({file_name(opened)!r})  # Save run writes this file"]
        imports = ["import dit_lab"] * served + ["from dit_lab.inside import Trajectory"]
    else:
        imports, made = ["import dit_lab"], getattr(opened, "made", {})
        if (precision := made.get("precision", "fp32")) != "fp32" or made.get("compiled"):
            imports.append("from dit_lab.models import fast")
            code = ", compile=True" if made.get("compiled") else ""
            lines.append(f"model = fast(loaded.model, precision={precision!r}{code})")
            model = "model"
        told = {name: value for name, value in options.items() if value is not None and (name, value) != ("eta", 0.0)}
        given = ", ".join(f"{name}={value!r}" for name, value in told.items())
        lines.append(f"run = dit_lab.record({model}, {run.labels}, {given})")
        if options != run.options:
            lines.append(f"# It was stopped: what is shown are the first {len(run.t)} of these steps.")
    lines.append("pictures = run.sample  # b c h w in [-1, 1], or a VAE's latents")
    return "\n".join([*imports, "", *lines, *looking(opened, place, served)]) + "\n"


def loading(source: str, checkpoints: Checkpoints) -> str:
    """What `load` is given for a checkpoint of the app."""
    told = {name: value for name, value in asdict(checkpoints.told).items() if value is not None}
    told |= {"device": checkpoints.device.type} if checkpoints.device.type != "cpu" else {}
    return ", ".join([repr(checkpoints.sources[source]), *(f"{name}={value!r}" for name, value in told.items())])


def looking(opened: Opened, place: dict, served: bool) -> list[str]:
    """The lines that look at a place of a run. Raises ValueError on a place that is not there."""
    asked = {name: value for name in PLACES if (value := place.get(name)) not in (None, "mean")}
    at = {"sample": 0, "half": "cond"} | opened.placed(asked, *asked)
    lines = []
    if "step" in at:
        lines += ["", f"x0 = run.x0[{at['step']}, {at['sample']}]  # the prediction at the step that is shown"]
    if served and {"step", "patch"} <= at.keys():
        given = f"{at['step']}, {at['patch']}, sample={at['sample']}, half={at['half']!r}"
        lines.append(f"rows = run.patch_rows(loaded.model, {given})  # stage: block head j, where the patch looks")
        if "block" in at:
            stage, blocks = next(each for each in opened.config.stage_blocks.items() if at["block"] in each[1])
            head = f"[{at['head']}]" if "head" in at else ".mean(0)  # of all heads"
            lines.append(f"shown = rows[{stage!r}][{at['block'] - blocks.start}]{head}")
    return lines


def file_name(opened: Opened) -> str:
    """What the file of a run is called."""
    return f"{opened.source or 'run'}.safetensors"


def saved(opened: Opened) -> dict:
    """A run's trajectory as a file for the browser: `{name, mime, data}`. Raises ValueError where it is too large."""
    data = trajectory_bytes(opened)
    if len(data) > MOST_BYTES:
        raise ValueError(f"This run takes {len(data) / 2**20:.0f} MiB, the app hands out 32: record it in Python.")
    return {
        "name": file_name(opened), "mime": "application/octet-stream",
        "data": b64encode(data).decode(),
    }  # fmt: skip


def brought(name, data) -> Trajectory:
    """The trajectory in a file that a browser sent, base64 of safetensors. Raises ValueError; nothing is executed."""
    told = quoted(name)[1:-1] if isinstance(name, str) else "The file"
    if not isinstance(data, str) or len(data) > MOST_BYTES * 4 // 3 + 4:
        raise ValueError(f"{told} is larger than 32 MiB, or is no file: open it in a notebook.")
    try:
        plain = b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{told} did not arrive whole: choose it again.") from None
    with TemporaryDirectory() as folder:
        path = Path(folder) / "brought.safetensors"
        path.write_bytes(plain)
        try:
            return Trajectory.load(path)
        except ValueError as error:
            raise ValueError(str(error).replace(str(path), told)) from None
