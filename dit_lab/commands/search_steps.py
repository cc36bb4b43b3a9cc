"""`python -m dit_lab search-steps`: timesteps at which few steps of a model come near to what many would draw."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tqdm.auto import tqdm

from dit_lab.checkpoints import Told, load
from dit_lab.checkpoints.describing import QUALITIES
from dit_lab.checkpoints.own import JSON, NAME
from dit_lab.data.pictures import say
from dit_lab.diffusion import SAMPLERS, searched
from dit_lab.diffusion.searching import beginnings, check_sampler, walked_at_most
from dit_lab.files import read_json, writable, write_json
from dit_lab.models import COMPILE, PRECISION, fast, pick_device


def search_steps_command(
    checkpoint: str,
    /,
    told: Annotated[Told, tyro.conf.arg(name="")] = Told(),  # noqa: B008
    *,
    steps: int = 6,
    sampler: Literal[tuple(SAMPLERS)] = "unipc",
    cfg_scale: float = 2.0,
    samples: int = 64,
    keep_as: Literal["draft", "good"] | None = None,
    weights: Literal["ema", "model"] = "ema",
    device: str = "auto",
    precision: PRECISION = "fp32",
    compile: Literal[tuple(COMPILE)] = "auto",
) -> None:
    """Search timesteps for a model by trying: from the same noises, the nearest to what 200 steps draw.

    Args:
        checkpoint: A zoo name such as cifar10, a checkpoint's folder or file, or a hub id.
        told: What the checkpoint's file may not say of its model.
        steps: How many timesteps.
        sampler: How to step, without fresh noise on the way.
        cfg_scale: Guidance; 1 is none. What is found with one may do worse with another (docs/results/fewer_steps.md).
        samples: So many are drawn at each try, of the classes in turn.
        keep_as: Write them into the checkpoint's config.json, a folder of our own, as its draft or good quality, which
            the commands, Python and the app then take. A smaller error is not always nearer to real pictures: judge
            them first, by `evaluate --steps`.
        weights: Which weights of a training checkpoint that holds both.
        device: cpu, cuda, mps, or auto.
        precision: What the blocks compute in.
        compile: Have the steps compiled, which takes a minute or so: auto tries it where the walks that are to come
            take ten times as long, and stays with what is faster.
    """
    check_sampler(sampler)
    if samples < 1:
        raise ValueError(f"--samples must be at least 1, not {samples}")
    place = own_json(checkpoint) if keep_as else None
    device = pick_device(device)
    loaded = load(checkpoint, weights=weights, device=device, **asdict(told))
    if cfg_scale != 1 and not loaded.config.num_classes:
        raise ValueError(f"{loaded.source} has no classes, so it cannot be guided: give --cfg-scale 1")
    clip = None if loaded.codec_hint == "pixels" else False  # as `sample` has it; no VAE is opened for that
    beginnings(loaded.config, sampler, steps, samples, clip_x0=clip)  # refuses what cannot be searched, before the rest
    model = fast(
        loaded.model, precision=precision, compile=COMPILE[compile], batch=samples * (1 + (cfg_scale != 1)),
        forwards=walked_at_most(steps), tell=say,
    )  # fmt: skip
    with tqdm(desc=f"walks of {steps} steps, {model.speed}", unit="walk") as bar:
        found, error, even = searched(
            model, sampler, steps, noises=samples, tried=lambda nearest: bar.update() or bar.set_postfix(error=nearest),
            cfg_scale=cfg_scale, clip_x0=clip,
        )  # fmt: skip
    print(f"--sampler {sampler} --steps {' '.join(map(str, found))}")
    print(f"root mean square away from what 200 steps draw: {error:.4f}; {steps} even steps: {even:.4f}")
    if place:
        about = read_json(place)
        about[QUALITIES] = loaded.qualities | {keep_as: {"sampler": sampler, "steps": found}}
        write_json(place, about)
        print(f"{place}: kept as its quality {keep_as}")


def own_json(checkpoint: str) -> Path:
    """The config.json of a checkpoint's folder. Raises ValueError where it is not one of ours, or cannot be written."""
    path = Path(checkpoint) / JSON
    about = read_json(path) if path.is_file() else None
    if not isinstance(about, dict) or about.get("format") != NAME:
        raise ValueError(f"{checkpoint} is no folder of dit_lab's format, which could keep them: convert it first")
    writable(path)
    return path
