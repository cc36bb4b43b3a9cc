"""The folder of a training run: a checkpoint that `load` opens, the state to resume from, and the loss log.

The state is written last, so it is what says how far a run came: killed anywhere before, the run repeats the steps
since the state before it, and writes the same model and the same log lines again.
"""

import json
from pathlib import Path

from dit_lab.checkpoints import save
from dit_lab.checkpoints.own import TENSORS
from dit_lab.checkpoints.places import STATE
from dit_lab.files import add_line, atomic
from dit_lab.parallel import bare, processes
from dit_lab.state import TrainState

LOG = "log.jsonl"


def open_folder(out: Path, state: TrainState, run: dict, resume: bool, defaults: dict | None = None) -> None:
    """Restore `state` from the folder (`resume`), or make sure that a fresh run overwrites nothing.

    What a killed run half wrote is cleared away. `defaults` are those of `TrainState.restore`. Raises ValueError, in
    one sentence, on a folder that does not fit.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give the run a folder")
    if resume:
        if not (out / STATE).is_file():
            raise ValueError(f"there is nothing to resume in {out}: it has no {STATE}")
        state.restore(out / STATE, run, defaults)
    elif held := next((name for name in (STATE, TENSORS) if (out / name).exists()), None):
        raise ValueError(f"{out} already holds a run ({held}); continue it with --resume or choose another folder")
    processes().wait_for_everyone()  # until all have seen what was there
    if processes().is_main_process:
        out.mkdir(parents=True, exist_ok=True)
        for leftover in out.rglob(".*.partial"):
            leftover.unlink()
        trim(out / LOG, state.step)
    processes().wait_for_everyone()


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
    state.save(out / STATE, run)


def log(out: Path, state: TrainState) -> dict[str, float]:
    """Add the mean figures of the steps since the last line as one JSON line, and start the next. Returns them."""
    names = state.recent[0]
    means = {name: round(sum(step[name] for step in state.recent) / len(state.recent), 6) for name in names}
    state.recent = []
    if not processes().is_main_process:
        return means
    add_line(out / LOG, {"step": state.step, **means})
    return means


def trim(path: Path, step: int) -> None:
    """Drop the log's lines after `step`, which a resumed run writes again, and a last line cut in half."""
    if not path.exists():
        return
    kept = [line for line in path.read_text().splitlines(keepends=True) if line_step(line) <= step]
    with atomic(path) as partial:
        partial.write_text("".join(kept))


def line_step(line: str) -> float:
    """The step of a log line; infinity for half a line."""
    try:
        return json.loads(line)["step"] if line.endswith("\n") else float("inf")
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")
