"""`python -m dit_lab train`: the command-line caller of `train`, with a bar and a Ctrl-C that saves."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from torch import nn

from dit_lab.checkpoints import MetaRun, load, open_run
from dit_lab.checkpoints.own import JSON
from dit_lab.checkpoints.places import STATE
from dit_lab.data import CROPS, named_classes, open_data
from dit_lab.data.pictures import say
from dit_lab.diffusion import PREDICTIONS, PROCESSES, objective
from dit_lab.models import BLOCKS, PRESETS, build, taking
from dit_lab.program import stop
from dit_lab.training import NonFiniteLoss, TrainOptions, adapted, device_of, processes, train
from dit_lab.training.fine_tune import check_codec
from dit_lab.training.folder import check_folder
from dit_lab.training.following import asked, flag, follow, leave_if
from dit_lab.training.lock import check_free
from dit_lab.training.others import as_started, changes, model_of, recipe, told


@dataclass(frozen=True)
class ModelOptions:
    """What is trained: a preset with changes, or a checkpoint that is gone on from."""

    preset: Literal[tuple(PRESETS)] | None = None
    """Size and patch of the model (default: DiT-tiny/4)."""
    block: Literal[tuple(BLOCKS)] | None = None
    """How conditioning enters (default: adaln_zero)."""
    patch_size: int | None = None
    """Pixels along a patch of a DiT, instead of the preset's; latents of a small picture take 1."""
    dim: int | None = None
    """Width of the tokens, instead of the preset's."""
    depth: int | None = None
    """Number of blocks, instead of the preset's."""
    heads: int | None = None
    """Attention heads, instead of the preset's; with --init or --go-on those of an original file whose width is not one
    of the paper's."""
    schedule: Literal[tuple(PROCESSES)] | None = None
    """The way from picture to noise: a diffusion (linear, the default, or cosine), or flow for flow matching."""
    prediction: Literal[tuple(PREDICTIONS)] | None = None
    """What the network predicts (default: eps; in flow matching the velocity)."""
    learned_variance: bool | None = None
    """Whether the network also predicts each step's variance (default: yes; in flow matching there is none)."""
    init: str | None = None
    """Fine-tune: begin with the weights of this checkpoint, a zoo name, a path or a hub id, which brings its model."""
    go_on: Path | None = None
    """Go on with a run of the original's script (facebookresearch/DiT, fast-DiT) from its .pt: its weights, average,
    optimiser and step; --steps counts them all. Options that are not given are then what that run had (its lr, betas,
    weight decay and batch; fp32, no clipping, an average of 0.9999 without warm-up), which is said."""

    @property
    def given(self) -> dict:
        """What is asked for, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def theirs(self) -> MetaRun | None:
        """The run that is gone on with. Raises ValueError on a file that holds none, or beside other options."""
        if self.go_on is None:
            return None
        beside = self.given.keys() - {"go_on", "heads"}
        if beside:
            raise ValueError(f"--go-on brings its own model; leave out {', '.join(map(flag, sorted(beside)))}")
        return open_run(self.go_on, heads=self.heads)

    def model(self, images) -> nn.Module:
        """The model for a data set, on the CPU. Raises ValueError on what does not go together."""
        given = self.given
        if self.init is None:
            trained_for = [given.pop(name, None) for name in ("schedule", "prediction", "learned_variance")]
            return build(given.pop("preset", "DiT-tiny/4"), **taking(images), **objective(*trained_for), **given)
        if beside := [name for name in given if name not in ("init", "heads")]:
            raise ValueError(f"--init brings its own model; leave out {', '.join(map(flag, beside))}")
        loaded = load(self.init, heads=self.heads)
        model, changes = adapted(loaded, images)
        for change in filter(None, [loaded.note, *changes]) if processes().is_main_process else ():
            say(change)
        return model


def train_command(
    options: Annotated[TrainOptions, tyro.conf.arg(name="")] = TrainOptions(),  # noqa: B008
    model: Annotated[ModelOptions, tyro.conf.arg(name="")] = ModelOptions(),  # noqa: B008
    *,
    out: Path,
    data: str = "digits",
    split: str = "train",
    size: int | None = None,
    crop: Literal[tuple(CROPS)] = "middle",
    labelled: bool = True,
    device: str = "auto",
    resume: bool = False,
    words: Annotated[tuple[str, ...], tyro.conf.Suppress] = (),
) -> None:
    """Train a DiT on labelled pictures. Ctrl-C (or SIGTERM) saves and stops; --resume continues, on a CPU bit by bit.

    Several GPUs or machines: accelerate launch --multi_gpu --num_processes 8 -m dit_lab train with the same options.
    Exit codes: 0 done, 1 the loss turned NaN or memory ran out, 2 bad input, 130 stopped by Ctrl-C and 143 by SIGTERM,
    both saved.

    Args:
        options: The run.
        model: What is trained.
        out: Folder for the checkpoint, the state to resume from, and the loss log (log.jsonl).
        data: `digits`, a hub id such as ylecun/mnist, a local folder of parquet files or pictures, or one of latents.
        split: Which part of the data to train on; rest, of a set with a single one, leaves a tenth out for evaluate.
        size: Make pictures squares of this side (default: as they are).
        crop: How: the middle square, resized, or as ADM, DiT and SiT prepare ImageNet (adm).
        labelled: Train with the data's classes; without, the model is unconditional.
        device: cpu, cuda, mps, or auto.
        resume: Continue the run in `out`, with its own model and options where none are given.
        words: The command line, which says what is given; values do not, where they are the usual ones.
    """
    crew = processes()
    device = device_of(crew, device)
    check_free(out)
    check_folder(out, resume)
    theirs = model.theirs()
    if theirs is not None:
        options = recipe(theirs, options, asked(words, TrainOptions))
        if crew.is_main_process:
            say(told(theirs, options))
    # Called from Python there are no words, and nothing says which of the options were meant.
    again = bool(resume and words) and theirs is None and (out / STATE).is_file()
    if again:
        options = as_started(out, given := options, asked(words, TrainOptions))
        if (changed := changes(options, given)) and crew.is_main_process:
            say(f"the run in {out} is continued as it was started, with {changed}")
    if options.shard and crew.num_processes == 1:
        say("one process has nobody to share with; --shard does nothing")
    with crew.main_process_first():  # the others then find what it has put into the cache
        images = open_data(data, split=split, size=size, labelled=labelled, crop=crop)
    if (classes := named_classes(images.names, out / JSON)) and crew.is_main_process:
        say(classes)
    torch.manual_seed(options.seed)
    try:
        own = model_of(out) if again and not model.given else None
        trained = of_theirs(theirs, images) if theirs else model.model(images) if own is None else build(own)
        steps = train(trained.to(device), images, options, out=out, resume=resume, theirs=theirs)
        stopped = follow(steps, options.steps, options.lr_decay)
    except NonFiniteLoss as error:
        stop(str(error), 1)
    leave_if(stopped, out)


def of_theirs(theirs: MetaRun, images) -> nn.Module:
    """The model of a run that is gone on with. Raises ValueError on latents of another VAE than its own."""
    check_codec(theirs.loaded, images)
    return theirs.loaded.model
