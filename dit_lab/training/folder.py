"""The folder of a training run: a checkpoint that `load` opens, the state to resume from, and the loss log.

The state is written last, so it is what says how far a run came: killed anywhere before, the run repeats the steps
since the state before it, or all where there is none, and writes the same model and the same log lines again.
"""

import json
import math
import re
import sys
from contextlib import ExitStack
from pathlib import Path

from torch import nn

from dit_lab.checkpoints import save
from dit_lab.checkpoints.own import JSON, TENSORS
from dit_lab.checkpoints.places import STATE
from dit_lab.checkpoints.reading import listed
from dit_lab.files import add_line, atomic, checksum, clear, json_object, read_json, writable, write_json
from dit_lab.training.lock import hold
from dit_lab.training.parallel import bare, processes
from dit_lab.training.state import TrainState, differences, groups, is_step

LOG = "log.jsonl"
BEGUN = "begun.json"  # what the run was started with, until its first state says so


def open_folder(out: Path, state: TrainState, run: dict, resume: bool, defaults: dict | None = None) -> ExitStack:
    """Restore `state` from the folder (`resume`), or make sure that a fresh run overwrites nothing.

    The folder is this run's alone until what is returned is closed. A run that was killed before its first state begins
    anew, resumed. What a killed run half wrote is cleared away. `defaults` are those of `TrainState.restore`. Raises
    ValueError, in one sentence, on a folder that does not fit or that another run is in.
    """
    check_folder(out, resume)  # now, so that none is made where it is refused
    with hold(out, "training") as held:
        check_folder(out, resume)  # again, now that no other run can begin or end there
        begin(out, state, run, resume, defaults or {})
        return held.pop_all()


def begin(out: Path, state: TrainState, run: dict, resume: bool, defaults: dict) -> None:
    """Bring the folder and the state to where the run begins or goes on. Raises ValueError where it cannot."""
    if resume and (out / STATE).is_file():
        state.restore(out / STATE, run, defaults)
    elif resume:
        if changed := differences(begun(out), json.loads(json.dumps(run)), defaults):
            raise ValueError(
                f"the run in {out} was started with {listed(changed, 3)}; it has no checkpoint yet, so remove the "
                "folder or choose another one, and begin without --resume"
            )
        if processes().is_main_process:
            print(f"dit_lab: the run in {out} ended before its first checkpoint; it begins anew", file=sys.stderr)
    processes().wait_for_everyone()  # until all have seen what was there
    if processes().is_main_process:
        clear_leftovers(out, state)
        if (out / STATE).is_file():
            (out / BEGUN).unlink(missing_ok=True)  # killed between the two
        else:
            write_json(out / BEGUN, run)
        trim(out / LOG, state.step)
    processes().wait_for_everyone()


def clear_leftovers(out: Path, state: TrainState) -> None:
    """Remove what this run half wrote when it was killed, in its own folders."""
    named = lambda *names: "|".join(map(re.escape, names))
    clear(out, named(STATE, TENSORS, JSON, LOG, BEGUN))
    for decay in state.averages:
        clear(out / state.title(decay), named(TENSORS, JSON))


def check_folder(out: Path, resume: bool) -> None:
    """Raise ValueError or OSError, before any work, on a folder that no run can begin in, or (`resume`) go on in."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give the run a folder")
    if resume and not can_resume(out):
        raise ValueError(f"there is nothing to resume in {out}: it has no {STATE}")
    held = next((name for name in (STATE, TENSORS) if (out / name).exists()), None)
    if held and not resume:
        what, how = ("run", "continue it with --resume") if can_resume(out) else ("model", "train it on with --init")
        raise ValueError(f"{out} already holds a {what} ({held}); {how} or choose another folder")
    writable(*(out / name for name in (LOG, STATE, TENSORS, JSON)))


def can_resume(out: Path) -> bool:
    """Whether a folder holds a run, be it one that was killed before its first checkpoint."""
    return any((out / name).is_file() for name in (STATE, BEGUN))


def birth(out: Path, model: nn.Module) -> dict:
    """What a run that begins in a folder is besides started with: its weights. Nothing where a state has later ones.

    Started with --init, killed, and begun anew without it, a run would else go on from random weights.
    """
    return {} if (out / STATE).is_file() else {"starting": {"weights": checksum(model.state_dict())}}


def begun(out: Path) -> dict:
    """What the run in a folder was started with. Raises ValueError."""
    try:
        return groups(read_json(out / BEGUN))
    except ValueError as error:
        told = f"{out / BEGUN} does not say what a run was started with; choose another folder ({error})"
        raise ValueError(told) from error


def checkpoint(out: Path, state: TrainState, run: dict, images) -> None:
    """Write the averaged model as a checkpoint, then the state to resume from, each file whole or not at all.

    Further averages are checkpoints in folders of their own, `ema-0.999`.
    """
    model = bare(state.model)
    made = {"encoder_checksum": images.encoder} if hasattr(images, "encoder") else {}
    for decay in state.averages:
        tensors = state.weights(decay)
        if processes().is_main_process:
            extra = {"trained_steps": state.step, "ema_decay": decay, **made}
            folder = out if state.title(decay) == "ema" else out / state.title(decay)
            save(folder, model, labels=images.names, codec_hint=images.codec, extra=extra, tensors=tensors)
    keep_state(out, state, run)


def keep_state(out: Path, state: TrainState, run: dict) -> None:
    """Write the state to resume from, which from now on says what the run was started with."""
    state.save(out / STATE, run)
    if processes().is_main_process:
        (out / BEGUN).unlink(missing_ok=True)


def log(out: Path, state: TrainState) -> dict[str, float]:
    """Add the mean figures of the steps since the last line as one JSON line, and start the next. Returns them."""
    seen = {name: [step[name] for step in state.recent if name in step] for name in state.recent[-1]}
    means = {name: round(sum(values) / len(values), 6) for name, values in seen.items()}
    state.recent = []
    if not processes().is_main_process:
        return means
    add_line(out / LOG, {"step": state.step, **means})
    return means


def trim(path: Path, step: int) -> None:
    """Drop the log's lines after `step`, which a resumed run writes again, and a last line cut in half."""
    if not path.exists():
        return
    kept = [line for line in path.read_bytes().splitlines(keepends=True) if line_step(line) <= step]
    with atomic(path) as partial:
        partial.write_bytes(b"".join(kept))


def line_step(line: bytes) -> float:
    """The step of a log line; infinity for half a line, and for one that no run wrote."""
    try:
        step = json_object(line)["step"] if line.endswith(b"\n") else None
    except (ValueError, KeyError):
        return math.inf
    return step if is_step(step) else math.inf
