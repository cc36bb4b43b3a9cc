"""A whole training checkpoint of the original's script, or fast-DiT's: weights, average, AdamW's moments, arguments.

`{"model", "ema", "opt", "args"}`: AdamW numbers its parameters in the model's order, and a moment has the shape of its
parameter, so that it is mapped as a weight is.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from dit_lab.checkpoints import meta_dit
from dit_lab.checkpoints.loading import Loaded, is_finite, load
from dit_lab.checkpoints.origin import LATENT_SIDE, LATENTS
from dit_lab.checkpoints.reading import CheckpointError, check_pickles, first_line, is_plain, listed, unpickle
from dit_lab.checkpoints.wrapped import arguments, candidates
from dit_lab.models import PRESETS, DiTConfig
from dit_lab.program import quoted

MOMENTS = ("exp_avg", "exp_avg_sq")
ADAMW = dict(amsgrad=False, maximize=False, eps=1e-8)  # what the original leaves at PyTorch's defaults, and we too
KEPT = ("lr", "betas", "weight_decay")
# What the original's script is called with where nothing else is said, and a checkpoint's `args` hold.
DEFAULTS = dict(
    data_path="", results_dir="results", epochs=1400, num_workers=4, log_every=100, ckpt_every=50_000,
)  # fmt: skip
VAES = "stabilityai/sd-vae-ft-"


@dataclass(frozen=True)
class MetaRun:
    """A run as the original's script saved it, under our names: the model as trained, and what goes on with it.

    `average` and each of `moments` ("exp_avg", "exp_avg_sq") hold a tensor for every parameter; `adamw` is the
    optimiser's lr, betas and weight_decay, `args` what the script was called with.
    """

    loaded: Loaded
    average: dict[str, torch.Tensor]
    moments: dict[str, dict[str, torch.Tensor]]
    step: int
    adamw: dict
    args: dict


def open_run(source: str | Path, **told) -> MetaRun:
    """The run in a `.pt` of the original's training script; `told` is what `load` is told of the model.

    Nothing in the file is ever run. Raises CheckpointError, in one sentence, where it is not whole: without an
    optimiser or one of the two sets of weights, with moments that do not fit, or of another optimiser than AdamW.
    """
    path = Path(source)
    if not path.is_file():
        raise CheckpointError(f"{path} is no file; a run is gone on with from the .pt that the original's script wrote")
    check_pickles(path)
    content = unpickle(path)
    if not isinstance(content, dict) or not {"model", "ema", "opt"} <= content.keys():
        raise CheckpointError(
            f"{path} is no whole training checkpoint (model, ema, opt), so it cannot be gone on with; begin with its "
            "weights: --init"
        )
    loaded, averaged = (load(path, weights=weights, **told) for weights in ("model", "ema"))
    if not isinstance(loaded.config, DiTConfig) or loaded.config.schedule == "sit":
        raise CheckpointError(f"{path} is no DiT's; of others' runs only a DiT's is gone on with")
    try:
        moments, step, adamw = optimiser_of(content, loaded.config)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise CheckpointError(f"{path}: its opt is no AdamW's state ({first_line(error)})") from error
    average = {name: tensor.detach() for name, tensor in averaged.model.named_parameters()}
    return MetaRun(loaded, average, moments, step, adamw, arguments(content))


def optimiser_of(content: dict, config: DiTConfig) -> tuple[dict, int, dict]:
    """(moments by our names, steps done, lr and so on) of a checkpoint's AdamW. Raises CheckpointError."""
    groups, states = content["opt"]["param_groups"], content["opt"]["state"]
    if len(groups) != 1:
        raise CheckpointError(f"its optimiser has {len(groups)} groups of parameters, the original's has one")
    if other := [
        f"{name} {quoted(groups[0][name])}" for name, value in ADAMW.items() if groups[0].get(name, value) != value
    ]:
        raise CheckpointError(f"its AdamW has {listed(other)}, which dit_lab's has not")
    weights = candidates(content, "model")[0].tensors
    states = {name: states.get(number) for name, number in numbers(list(weights), groups[0]["params"]).items()}
    if lacking := [name for name, state in states.items() if not state and name != meta_dit.POSITIONS]:
        raise CheckpointError(f"its optimiser has no moments of {listed(lacking)}")
    states.pop(meta_dit.POSITIONS, None)
    steps = {float(state["step"]) for state in states.values()}
    if len(steps) != 1 or not 0 < min(steps) < 2**53 or min(steps) % 1:
        raise CheckpointError(f"its optimiser should have done one number of steps, not {quoted(sorted(steps))}")
    moments = {}
    for moment in MOMENTS:
        tensors = {name: state[moment] for name, state in states.items()}
        check_moments(moment, tensors, weights)
        ours = meta_dit.to_ours(tensors | {meta_dit.POSITIONS: weights[meta_dit.POSITIONS]}, config)
        moments[moment] = {name: tensor.float() for name, tensor in ours.items() if name != "positions"}
    return moments, int(min(steps)), {name: groups[0][name] for name in KEPT}


def numbers(names: list[str], params: list[int]) -> dict[str, int]:
    """The number of each parameter, which is its place in the model. Raises CheckpointError where there are others.

    The position table is a parameter of the original's that is not trained, and of some forks none.
    """
    if len(params) == len(names) - 1:
        names.remove(meta_dit.POSITIONS)
    if len(params) != len(names):
        raise CheckpointError(f"its optimiser has {len(params)} parameters, its model {len(names)}")
    return dict(zip(names, params, strict=True))


def check_moments(moment: str, tensors: dict, weights: dict) -> None:
    """Raise CheckpointError on moments that are no finite numbers of their parameters' shapes."""
    fits = lambda name, tensor: (
        is_plain(tensor)
        and tensor.is_floating_point()
        and tensor.shape == weights[name].shape
        and is_finite(tensor)
        and not (moment == "exp_avg_sq" and tensor.min() < 0)
    )
    if wrong := [name for name, tensor in tensors.items() if not fits(name, tensor)]:
        raise CheckpointError(f"its optimiser's {moment} does not fit the weights, or is not finite: {listed(wrong)}")


def content_of(run: MetaRun) -> dict:
    """What the original's script would have saved of a run, whose model may be ours: as `torch.save` takes it.

    Raises CheckpointError for a model that the format does not have.
    """
    config, trained = run.loaded.config, run.loaded.model.state_dict()
    theirs = lambda tensors: {
        name: tensor.detach().contiguous().clone()
        for name, tensor in meta_dit.to_theirs({"positions": trained["positions"], **tensors}, config).items()
    }
    model, average, moments = theirs(trained), theirs(run.average), [theirs(run.moments[name]) for name in MOMENTS]
    parameters = {n: nn.Parameter(tensor, requires_grad=n != meta_dit.POSITIONS) for n, tensor in model.items()}
    optimiser = torch.optim.AdamW(parameters.values(), **run.adamw)
    for name, parameter in parameters.items():
        if parameter.requires_grad:
            state = {moment: tensors[name] for moment, tensors in zip(MOMENTS, moments, strict=True)}
            optimiser.state[parameter] = {"step": torch.tensor(float(run.step)), **state}
    args = argparse.Namespace(**DEFAULTS | described(run.loaded) | run.args)
    return {"model": model, "ema": average, "opt": optimiser.state_dict(), "args": args}


def described(loaded: Loaded) -> dict:
    """The arguments of the original's script that say what is trained."""
    config, latent = loaded.config, loaded.config.in_channels in LATENTS
    shape = lambda each: (each.dim, each.depth, each.heads, each.patch_size)
    known = [name for name, each in PRESETS.items() if isinstance(each, DiTConfig) and shape(each) == shape(config)]
    told = {"model": known[0] if known else f"DiT/{config.patch_size}", "num_classes": config.num_classes}
    if isinstance(config.input_size, int):
        told["image_size"] = config.input_size * (LATENT_SIDE if latent else 1)
    return told | ({"vae": loaded.codec_hint.removeprefix(VAES)} if latent and loaded.codec_hint else {})
