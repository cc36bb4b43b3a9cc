"""Recording a sampling run while it goes: the steps of `sample` as they come, and a `Trajectory` at the end."""

from collections.abc import Iterator, Sequence

from torch import nn

from dit_lab.diffusion import Step, process_of, sample
from dit_lab.diffusion.checks import OWN, clips, whole_labels
from dit_lab.inside.run import kept, stacked
from dit_lab.inside.trace import TraceError
from dit_lab.inside.trajectory import Trajectory
from dit_lab.inside.trajectory_file import OPTIONS, anew_of


class Recording:
    """Iterate over it instead of over `sample(model, labels, **options)`: the same steps, and then a `trajectory`."""

    def __init__(self, model: nn.Module, labels, **options):
        self.config = model.config
        self.labels = whole_labels(labels, model.config.num_classes, model.config.null_label)
        steps = sample(model, self.labels, **options)  # first: it checks the options
        self.options = {name: plain(options.get(name, default)) for name, default in OPTIONS.items()}
        if options.get("noise") is not None:
            self.options["seed"] = None
        self.anew = anew_of(options.get("sampler"))
        process = process_of(model.config) if options.get("process") is None else options["process"]
        self.options["clip_x0"] = clips(model.config, process, self.options["clip_x0"])  # what it came to
        self.steps = self.keep(steps)
        self.finished = None

    def __iter__(self) -> Iterator[Step]:
        return self.steps

    def keep(self, steps) -> Iterator[Step]:
        """Pass the steps on and keep what a trajectory holds of them."""
        steps_kept = []
        for step in steps:
            steps_kept.append(kept(step))
            yield step
        walked = stacked(steps_kept, step)
        if isinstance(self.options["steps"], list):
            self.options["steps"] = walked["t"]  # of a diffusion's that are not whole, fp32
        self.finished = Trajectory(self.config, self.labels, self.options, anew=self.anew, **walked)

    @property
    def trajectory(self) -> Trajectory:
        """What was recorded. Raises TraceError until the iteration has come to its end."""
        if self.finished is None:
            raise TraceError("the recording has no trajectory yet: iterate over it to its end first")
        return self.finished


def record(model: nn.Module, labels, **options) -> Trajectory:
    """Sample and keep the trajectory; `labels` and `options` are those of `sample`."""
    recording = Recording(model, labels, **options)
    for _ in recording:
        pass
    return recording.trajectory


def plain(value):
    """An option as JSON has it: lists for tuples, Python's numbers for numpy's, a function's words, if any."""
    if callable(value):
        return getattr(value, "words", OWN)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(each) for each in value]
    return value.tolist() if hasattr(value, "tolist") else value
