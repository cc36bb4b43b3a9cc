"""How an evaluation's model is made fast, where several processes draw and samples of an earlier call may be there."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from dit_lab.checkpoints import Loaded
from dit_lab.data.pictures import say
from dit_lab.diffusion import how_many
from dit_lab.evaluation.samples import Samples
from dit_lab.models import check_compiler, fast


@dataclass(frozen=True)
class Maker:
    """Makes a checkpoint's model fast for what is left of the samples: as asked for, or as for those that are there.

    `crew` is accelerate's, of which each process has its share. `precision` and `compile` are those of `fast`.
    """

    loaded: Loaded
    samples: Samples
    crew: object
    place: torch.device
    precision: str
    compile: bool | str

    @property
    def forwards(self) -> int:
        """How many are to come in this process."""
        share = self.samples.share(self.crew.process_index, self.crew.num_processes)
        return len(share) * how_many(self.samples.sampling.steps)

    def first(self) -> tuple[nn.Module, bool | str]:
        """The model, compiled only where that is sure, and whether it is to be: what the first process begins with."""
        begun = self.samples.begun
        compiling = self.as_drawn() if begun else self.compile
        precision = self.samples.drawn_in() if begun and self.precision == "auto" else self.precision
        return self.fast(precision, compiling is True), compiling

    def tried(self, model: nn.Module, compiling: bool | str) -> nn.Module:
        """The first process's model; where it is left to itself, compiled if that is faster."""
        if compiling != "auto":
            return model
        seconds, model = model.speed.seconds, self.fast(model.speed.precision, compiling)
        model.speed = replace(model.speed, seconds=seconds | model.speed.seconds)
        return model

    def others(self) -> nn.Module:
        """Any other process's model, as the first one found and wrote down."""
        return self.fast(self.samples.drawn_in(), self.as_drawn())

    def fast(self, precision: str, compiling: bool | str) -> nn.Module:
        """The model in a precision, compiled or not."""
        return fast(
            self.loaded.model, precision=precision, compile=compiling if self.forwards else False,
            batch=self.samples.sampling.passes, forwards=self.forwards, tell=say if self.crew.is_main_process else len,
        )  # fmt: skip

    def as_drawn(self) -> bool | str:
        """Whether code is compiled: as it is asked, and where that is "auto" as it was for the samples that are there.

        Raises ValueError where those were compiled and the device that draws the others, if any are to come, cannot.
        """
        drawn = self.samples.compiled()
        if self.compile != "auto" or drawn is None:
            return self.compile
        if drawn and self.forwards:
            try:
                check_compiler(self.place)
            except ValueError as error:
                folder, way = self.samples.folder, "install one, name yours in CXX, or give --out another folder"
                drew = "has samples that compiled code drew, for which there is no C++ compiler here"
                raise ValueError(f"{folder} {drew}: {way}") from error
        return drawn
