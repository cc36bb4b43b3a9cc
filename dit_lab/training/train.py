"""Training as a generator: a notebook, the command line and the app are three callers of the same loop.

DiT paper, section 4: AdamW at 1e-4 without decay, EMA 0.9999, labels dropped with probability 0.1 for guidance. One
process or many run the same loop on the same batches:
`accelerate launch --multi_gpu --num_processes 8 -m dit_lab train …`.
"""

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint as recomputed

from dit_lab.checkpoints import MetaRun
from dit_lab.data import DataError
from dit_lab.diffusion import Process, process_of
from dit_lab.models import attending_by_products, check_compiler, uses_bf16
from dit_lab.training.batches import draw, draw_all, order, parts
from dit_lab.training.folder import birth, checkpoint, log, open_folder
from dit_lab.training.loader import EARLY, ahead, pinned
from dit_lab.training.options import PRECISIONS, TrainOptions
from dit_lab.training.others import take_over
from dit_lab.training.parallel import bare, complete, mean, processes, unshared
from dit_lab.training.precision import faster, timed
from dit_lab.training.preview import Board
from dit_lab.training.state import TrainState
from dit_lab.training.trackers import check_trackers

LOG_EVERY = 50
LOGGED = ("loss", "mse", "vb", "gradient_norm", "images_per_second")


@dataclass(frozen=True)
class TrainStep:
    """What one optimiser step did: losses are means over the whole batch, `vb` in bits per dimension."""

    step: int
    loss: float
    mse: float
    vb: float
    gradient_norm: float
    lr: float
    images_per_second: float
    precision: str = "fp32"

    @property
    def told(self) -> str:
        """What a bar says of it."""
        rates = f"{self.images_per_second:.0f} images/s in {self.precision}"
        return f"loss {self.loss:.4f}, mse {self.mse:.4f}, vb {self.vb:.5f}, {rates}"


class NonFiniteLoss(RuntimeError):
    """The loss or its gradient turned NaN or infinite; the last checkpoint before it stays."""


def train(
    model: nn.Module, images, options=TrainOptions(), *, out=None, resume=False, average: nn.Module | None = None,  # noqa: B008
    theirs: MetaRun | None = None,
) -> Iterator[TrainStep]:  # fmt: skip
    """Train `model` on `images`, yielding a `TrainStep` after each optimiser step.

    `model` itself ends with the weights as trained; their average, which is what to sample from, is in `out`, and in
    memory where an `average` is given: a second model of the same config, whose weights are the (first) average's from
    now on, after each step. `theirs` is a run of the original's, of which this is the model: it goes on after its last
    step with its average and its optimiser's moments (`recipe` gives its options). With `out`, a checkpoint is written
    every `save_every` steps, at the end, and when the caller stops early: the averaged model in our own format, then
    `state.safetensors` to `resume` from, bit-exactly on a CPU; and `log.jsonl` gets the mean losses of every 50 steps.
    Under a launcher every process calls it alike, its model on its own device.
    Raises ValueError, before any work, on a folder that holds another run or (with `resume`) none, or where somebody is
    at work; NonFiniteLoss when training diverges, the step named; DataError where it is the data that holds NaN or Inf.
    """
    taken, given = (model.config.in_channels, *model.config.size), tuple(images.shape)
    if taken != given or len(images.names) != model.config.num_classes:
        raise ValueError(
            f"the model takes pictures of {spelt(taken)} (c h w) in {model.config.num_classes} classes, "
            f"these are {spelt(given)} in {len(images.names)}"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("the model has no weights that could be trained")
    if average is not None and (options.shard or average is model or average.config != model.config):
        raise ValueError("the average must be another model of the same config, and of a run that is not sharded")
    if options.label_dropout and not model.config.null_label:
        raise ValueError("the model has no null label that dropped labels could become; give label_dropout=0")
    process, crew = process_of(model.config), processes()
    process.times(0, torch.Generator(), options.times)  # refused now, before any work, where it does not fit
    check_trackers(options.tracker)
    share = parts(options, crew.process_index, crew.num_processes)
    if options.compile:
        check_compiler(next(model.parameters()).device)
        for block in model.blocks:  # which share one code: as fast as the whole model's, made in a fraction of the time
            block.compile()
    start = {} if out is None else birth(Path(out), model)  # while the weights are whole on every process
    adamw = dict(betas=tuple(map(float, options.betas)), weight_decay=options.weight_decay)
    state = TrainState.fresh(model, options.lr, options.decays, options.shard, options.ema_warmup, average, **adamw)
    if theirs is not None:
        take_over(state, theirs)
    held = ExitStack()
    if out is not None:
        # What a run meant that was started before these were kept.
        known = {"option": TrainOptions().fixed, "data": images.fingerprint | {"crop": "middle"}}
        held = open_folder(Path(out), state, identity(state, images, options) | start, resume, known)
    elif resume:
        raise ValueError("resume needs the folder of the run: give out")
    return during(held, loop(state, images, process, options, share, None if out is None else Path(out)))


def during(held: ExitStack, steps: Iterator[TrainStep]) -> Iterator[TrainStep]:
    """The steps, after which, however they end, the run's folder is held no more."""
    with held:
        yield from steps


def spelt(shape) -> str:
    """`(1, 8, 8) -> 1 x 8 x 8`."""
    return " x ".join(map(str, shape))


def identity(state: TrainState, images, options: TrainOptions) -> dict:
    """What makes a run this one and no other, as JSON; a run is continued only with the same."""
    return {"model": bare(state.model).config.as_json(), "option": options.fixed, "data": images.fingerprint}


def found(state: TrainState) -> dict:
    """What a run found out at its start and keeps, as a further group of `identity` that nobody asks for."""
    return {"found": {"precision": state.precision}}


def chosen(state: TrainState, made, process: Process, options: TrainOptions) -> str:
    """The precision of the whole run: as asked for, or of a run that begins what is faster in passes like its own.

    A run that went on for a while, before what is found was kept, goes on by the rule that it had. All processes get
    the same answer. The passes leave nothing behind.
    """
    device = next(state.model.parameters()).device
    able = uses_bf16(options.precision, device)
    if options.precision != "auto" or state.step or not able:
        return "bf16" if able else "fp32"
    batch = made(state.step)[0]
    state.model.train()
    seconds = timed(lambda precision: gradient(state, batch, process, options, precision, last=True), device)
    state.optimiser.zero_grad()
    spent = mean(torch.tensor([seconds[precision] for precision in PRECISIONS], device=device)).tolist()
    return faster(dict(zip(PRECISIONS, spent, strict=True)))


def loop(state: TrainState, images, process: Process, options: TrainOptions, share: list[slice], out: Path | None):
    """The training loop behind `train`, its folder prepared and its state restored; `share` is this process's."""
    keep = lambda: checkpoint(out, state, identity(state, images, options) | found(state), images)
    saved, board = state.step, Board(out, images, options, state.step)
    whole, device = bare(state.model), next(state.model.parameters()).device
    made = lambda step: [pinned(batch, device) for batch in draw_all(images, step, process, options, share)]
    batches = ahead(made, range(state.step, options.steps), EARLY[device.type])
    try:
        with closing(board), closing(batches), recomputing(whole, options.checkpointing), attending_by_products(whole):
            state.precision = state.precision or chosen(state, made, process, options)
            while state.step < options.steps:
                step = advance(state, batches, process, options)
                state.recent.append({name: getattr(step, name) for name in LOGGED})
                last = state.step == options.steps
                if out and (state.step % LOG_EVERY == 0 or last):
                    board.scalars(state.step, log(out, state))
                if out and (state.step % options.save_every == 0 or last):
                    keep()
                    saved = state.step
                if board.due(state.step):
                    board.samples(state)
                yield step
    except GeneratorExit:
        if out and state.step > saved:
            keep()
        raise
    except NonFiniteLoss as error:
        check_finite(images, state.step, process, options)  # now that no thread reads
        kept = f"; the checkpoint of step {saved} stays in {out}" if out and saved else ""
        raise NonFiniteLoss(f"{error}{kept}") from None


def advance(state: TrainState, batches: Iterator, process: Process, options: TrainOptions) -> TrainStep:
    """One optimiser step. What is random in it depends on (seed, step) alone, so that a resumed run repeats it."""
    start, lr = time.perf_counter(), options.lr_at(state.step)
    for group in state.optimiser.param_groups:
        group["lr"] = lr
    if not state.model.training:
        state.model.train()
    state.optimiser.zero_grad()
    batch = next(batches)
    passes = [gradient(state, part, process, options, state.precision, last=part is batch[-1]) for part in batch]
    losses, norm = mean(torch.stack(passes).mean(0)), clipped(state.model, options.clip)
    loss, mse, vb, norm = torch.stack([*losses, norm]).tolist()  # the one time in a step that the CPU waits for a GPU
    # Before the weights move: what is in memory, and on disk, is still the last good step.
    if not (math.isfinite(loss) and math.isfinite(norm)):
        what = f"loss turned {loss}" if not math.isfinite(loss) else f"gradient turned {norm}"
        raise NonFiniteLoss(f"the {what} at step {state.step + 1}; try a lower learning rate than {options.lr:g}")
    state.optimiser.step()
    state.step += 1
    state.average()
    rate = options.batch_size / (time.perf_counter() - start)
    return TrainStep(state.step, loss, mse, vb, norm, lr, rate, state.precision)


def clipped(model: nn.Module, most: float | None) -> torch.Tensor:
    """The norm of all gradients, which are then scaled down where it is above `most`."""
    norm = nn.utils.get_total_norm([each.grad for each in model.parameters() if each.grad is not None])
    if most is not None:
        nn.utils.clip_grads_with_norm_(model.parameters(), most, norm)
    return complete(norm)


def check_finite(images, step: int, process: Process, options: TrainOptions) -> None:
    """Raise DataError where it is the data of a step that holds NaN or Inf, as damaged latents may."""
    finite = draw(images, step, process, options)[0].isfinite().flatten(1).all(1)
    if not finite.all():
        place = order(len(images), options.seed, step * options.batch_size, options.batch_size)[finite.int().argmin()]
        raise DataError(
            f"picture {place} of the data holds NaN or Inf, met at step {step + 1}; if these are latents, remove their "
            "folder and encode them again"
        )


def gradient(state: TrainState, batch: tuple, process: Process, options: TrainOptions, precision: str, last: bool):
    """Add the gradient of a part of the batch; after the `last` it is the same on all processes. Returns 3 losses."""
    device = next(state.model.parameters()).device
    x0, i, y, eps = (tensor.to(device, non_blocking=True) for tensor in batch)
    with nullcontext() if last else unshared(state.model):
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            losses = process.losses(state.model, x0, i, y, eps, options.min_snr)
        (losses.loss.mean() / options.accumulate).backward()
    return torch.stack([values.detach().mean() for values in losses])


@contextmanager
def recomputing(model: nn.Module, asked: bool):
    """Inside, if asked for, blocks keep nothing for the backward pass but their input and are computed again in it."""
    blocks = list(model.blocks) if asked else []
    for block in blocks:
        block.forward = partial(recomputed, block.forward, use_reentrant=False)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward
