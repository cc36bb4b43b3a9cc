"""diffusers' scheduler configs: what a model was trained for, where our processes have it, and the way back."""

from dit_lab.checkpoints.reading import CheckpointError
from dit_lab.models import DiTConfig
from dit_lab.program import quoted

# What their scheduler's config calls what ours call so.
PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
SCHEDULES = {"linear": "linear", "squaredcos_cap_v2": "cosine"}
# The rest of what they train with, as our processes have it; the two ends are of the linear schedule alone.
BETAS = {"beta_start": 0.0001, "beta_end": 0.02}
PROCESS = {
    "num_train_timesteps": 1000, "trained_betas": None, "rescale_betas_zero_snr": False, "use_flow_sigmas": False,
}  # fmt: skip
# Their classes that step through such a process, and what each takes where its config is silent.
DEFAULTS = {"beta_schedule": "linear", "prediction_type": "epsilon", **BETAS, **PROCESS}
SD_BETAS = {"beta_start": 0.00085, "beta_end": 0.012}
SCHEDULERS = {
    **dict.fromkeys(
        (
            "DDIM", "DDIMParallel", "DDPM", "DDPMParallel", "DEISMultistep", "DPMSolverMultistep",
            "DPMSolverSinglestep", "EulerAncestralDiscrete", "EulerDiscrete", "LMSDiscrete", "PNDM", "SASolver",
            "UniPCMultistep",
        ),
        DEFAULTS,
    ),
    **dict.fromkeys(("HeunDiscrete", "KDPM2AncestralDiscrete", "KDPM2Discrete"), DEFAULTS | SD_BETAS),
    **dict.fromkeys(("LCM", "TCD"), DEFAULTS | SD_BETAS | {"beta_schedule": "scaled_linear"}),
}  # fmt: skip


def trained_with(scheduler: dict) -> dict:
    """The prediction and schedule of a scheduler's config. Raises CheckpointError on what our processes do not have."""
    name = scheduler.get("_class_name", "DDIMScheduler")
    defaults = SCHEDULERS.get(name.removesuffix("Scheduler")) if isinstance(name, str) else None
    if defaults is None:
        raise CheckpointError(f"its scheduler is a {quoted(name)}, not one of a diffusion that dit_lab has")
    said = defaults | scheduler
    prediction, schedule = said["prediction_type"], said["beta_schedule"]
    fixed = PROCESS | (BETAS if schedule == "linear" else {})
    other = [f"{field} {quoted(said[field])}" for field, value in fixed.items() if not same(said[field], value)]
    for field, known in dict(prediction_type=PREDICTIONS, beta_schedule=SCHEDULES).items():
        if not isinstance(said[field], str) or said[field] not in known:
            other.insert(0, f"{field} {quoted(said[field])}")
    if other:
        raise CheckpointError(f"its scheduler has {', '.join(other[:3])}, which is no process that dit_lab has")
    return {"prediction": PREDICTIONS[prediction], "schedule": SCHEDULES[schedule]}


def same(value, known) -> bool:
    """Whether a value of a file is a known one: None, a truth, or a number that is no truth."""
    plain = value is None or isinstance(value, bool | int | float)
    return plain and value == known and isinstance(value, bool) == isinstance(known, bool)


def scheduler_json(config: DiTConfig) -> dict:
    """A DDIM scheduler that starts from pure noise, ends at the clean image, and clips nothing.

    diffusers' DDIM goes down by 1000 // steps whatever its spacing: "trailing" fits that in any number of steps that
    divides 1000, and is ours in 1 and in 1000; "linspace" has our timesteps more often, but misses the next by one.
    Raises CheckpointError on what DDIMScheduler does not know.
    """
    schedules, predictions = ({ours: theirs for theirs, ours in table.items()} for table in (SCHEDULES, PREDICTIONS))
    if config.schedule not in schedules or config.prediction not in predictions:
        raise CheckpointError(
            f"diffusers' DiTPipeline takes {', '.join(schedules)} schedules and {', '.join(predictions)} predictions, "
            f"not {config.schedule} and {config.prediction}"
        )
    return {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": 1000,
        "beta_start": 0.0001,
        "beta_end": 0.02,
        "beta_schedule": schedules[config.schedule],
        "prediction_type": predictions[config.prediction],
        "clip_sample": False,
        "set_alpha_to_one": True,
        "timestep_spacing": "trailing",
    }
