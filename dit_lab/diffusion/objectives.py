"""What a network is trained for, by name: a process, and what is predicted in it. The network itself never knows.

`schedule` names the process (`linear` and `cosine` diffusions, `flow`, and `sit`, the flow as SiT trains it),
`prediction` a row of `process.PREDICTIONS`.
"""

from dit_lab.diffusion.flow import Flow, SiT
from dit_lab.diffusion.gaussian import SCHEDULES, Diffusion
from dit_lab.diffusion.process import Process
from dit_lab.program import quoted

PROCESSES = {**dict.fromkeys(SCHEDULES, Diffusion), "flow": Flow, "sit": SiT}


def process_of(config) -> Process:
    """The full process that a model's config names. Raises ValueError when it names none that can be."""
    if config.schedule not in PROCESSES:
        raise ValueError(f"there is no schedule {quoted(config.schedule)}; there are {', '.join(PROCESSES)}")
    process = PROCESSES[config.schedule].named(config.schedule, config.prediction)
    if config.learned_variance and isinstance(process, Flow):
        raise ValueError("flow matching has no variance to learn; build the model with learned_variance=False")
    return process


def objective(schedule: str | None = None, prediction: str | None = None, learned_variance: bool | None = None) -> dict:
    """The three fields of a config that say what it is trained for; None is the paper's, or what the schedule is for.

    Diffusions predict eps and learn their variance, as in the paper; flow matching predicts the velocity.
    """
    velocity = {"flow": Flow.prediction, "sit": SiT.prediction}.get(schedule)
    return {
        "schedule": schedule or "linear",
        "prediction": prediction or velocity or "eps",
        "learned_variance": velocity is None if learned_variance is None else learned_variance,
    }
