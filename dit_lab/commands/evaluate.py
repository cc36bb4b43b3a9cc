"""`python -m dit_lab evaluate`: pictures of a checkpoint, how far they are from real ones, and how both were made.

Killed, it goes on where it was; several processes share the sampling:
`accelerate launch --multi_gpu --num_processes 8 -m dit_lab evaluate …`.
"""

import math
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from shutil import which
from typing import Annotated, Literal

import torch
import tyro
from einops import rearrange
from torch import nn

from dit_lab.checkpoints import Loaded, Told, load
from dit_lab.data import Autoencoder, named_classes, picture_codec
from dit_lab.data.classes import names_of
from dit_lab.data.pictures import say
from dit_lab.diffusion import QUALITIES, late, process_of, sample
from dit_lab.evaluation import Judging, Maker, Samples, Sampling, adm, measure, open_judge
from dit_lab.evaluation.features import KEPT
from dit_lab.evaluation.samples import OWN, SETTINGS
from dit_lab.files import add_line, apart, checksum, make_folder, writable
from dit_lab.models import COMPILE, DTYPES, PRECISION
from dit_lab.training import device_of, processes
from dit_lab.training.lock import hold

RESULTS = "results.jsonl"
UNPLAIN = re.compile(r"[^\w.]+")


def evaluate_command(
    checkpoint: str,
    /,
    sampling: Annotated[Sampling, tyro.conf.arg(name="")] = Sampling(),  # noqa: B008
    judging: Annotated[Judging, tyro.conf.arg(name="")] = Judging(),  # noqa: B008
    told: Annotated[Told, tyro.conf.arg(name="")] = Told(),  # noqa: B008
    *,
    weights: Literal["ema", "model"] = "ema",
    vae: str | None = None,
    out: Path | None = None,
    npz: Path | None = None,
    quality: Literal[tuple(QUALITIES)] | None = None,
    device: str = "auto",
    precision: PRECISION = "auto",
    compile: Literal[tuple(COMPILE)] = "auto",
) -> dict | None:
    """Draw pictures with a checkpoint, compare them with real ones, and add the figures to OUT/results.jsonl.

    Run again with the same arguments, it goes on where it was; samples that are there are judged again, not drawn.

    Args:
        checkpoint: A zoo name such as mnist, a checkpoint's folder or file, or a hub id.
        sampling: How samples are made.
        judging: What they are compared with.
        told: What the checkpoint's file may not say of its model.
        weights: Which weights of a training checkpoint that holds both.
        vae: Folder or hub id of the VAE of a latent model, instead of the one its config names.
        out: Folder for samples and results (default: in runs/evaluate, named after the checkpoint).
        npz: Also write the samples to this file, in ADM's format.
        quality: A sampler and its steps by name, instead of --sampler and --steps: draft, good, or the paper's own.
        device: cpu, cuda, mps, or auto.
        precision: What the model's blocks compute in, fp32, bf16 or fp16; auto is what the samples that are there were
            made in, else what is faster for this model here, found out in a few steps. It stands beside the figures.
        compile: Have the steps compiled, which takes a minute or so: auto is what the samples that are there were made
            by, else it is tried where the work takes ten times as long, and what is faster is taken.
    """
    crew = processes()
    place = device_of(crew, device)
    out = out or Path("runs/evaluate") / UNPLAIN.sub("-", checkpoint).strip("-.")
    check_outputs(out, npz, judging.reference)
    with hold(out, "evaluation"):
        loaded = load(checkpoint, weights=weights, device=place, **asdict(told))
        sampling = settled(loaded, sampling, quality)
        codec = picture_codec(loaded, vae, place)
        samples = Samples(out, sampling, loaded.config.num_classes)
        maker = Maker(loaded, samples, crew, place, precision, COMPILE[compile])
        if crew.is_main_process:
            model, compiling = maker.first()
            about = provenance(loaded, vae, codec, model) | told.known
            settings = {**asdict(sampling), **about, "compiled": compiling}
            kept = samples.kept(settings)  # what does not fit is refused before a judge is trained
            shape = picture_shape(loaded, codec, place)
            network, reference = open_judge(judging, shape, loaded.config.num_classes, out, place)
            model = maker.tried(model, compiling)  # after all that may be refused
            # What drew an older folder's batches cannot be known, so it is not said of those that come to them either.
            settings["compiled"] = kept.get("compiled") if kept else model.speed.compiled
            samples.open(settings, versions())
            announce(checkpoint, loaded, codec, sampling, model)
        crew.wait_for_everyone()
        if not crew.is_main_process:
            model = maker.others()
        samples.draw(model, codec, crew.process_index, crew.num_processes)
        crew.wait_for_everyone()
        if not crew.is_main_process:
            return None
        found = judged(samples, network, reference, loaded)
        if npz:
            make_folder(npz.parent)
            adm.write(npz, sampling.count, samples)
        result = {
            **found._asdict(),
            "samples": {**asdict(sampling), "precision": about.pop("precision"), "compiled": settings["compiled"]},
            "checkpoint": {"source": checkpoint, **loaded.made, **about}, "features": network.about,
            "reference": reference.about, "drawn_with": samples.versions(), "versions": versions(),
        }  # fmt: skip
        add_line(out / RESULTS, result)
        print(table(result, out))
        return result


def picture_shape(loaded: Loaded, codec, place: torch.device) -> tuple[int, ...]:
    """(channels, rows, columns) of the model's pictures, by the codec."""
    blank = torch.zeros(1, loaded.config.in_channels, *loaded.config.size, device=place)
    return tuple(codec.decode(blank).shape[1:])


def announce(checkpoint: str, loaded: Loaded, codec, sampling: Sampling, model: nn.Module) -> None:
    """Say what is to be known of the model, of its classes' names and of its pictures, and in what it samples."""
    called = named_classes(loaded.labels, names_of(checkpoint))
    begins = late(process_of(loaded.config), sampling.steps)
    for sentence in filter(None, (loaded.note, called, codec.note, begins)):
        say(sentence)
    say(f"sampling in {model.speed}")


def judged(samples: Samples, network, reference, loaded):
    """The figures of all samples against a reference, in a network's eyes."""
    sampling = samples.sampling
    drawn = network.see((rearrange(x, "b h w c -> b c h w") for x, _ in samples), sampling.count, "samples")
    asked = (samples.labels(0, sampling.count), loaded.labels) if loaded.config.num_classes else None
    return measure(network, drawn, asked, reference, sampling.batch_size, sampling.seed)


def check_outputs(out: Path, npz: Path | None, reference: Path | None) -> None:
    """Raise ValueError or OSError, before any work, where a file cannot be written or would replace another one."""
    writable(*[path for path in (out / RESULTS, out / SETTINGS, npz) if path])
    if npz:
        apart(npz, out / KEPT, *([reference] if reference else []))
    if npz and npz.resolve().parent == out.resolve() and re.fullmatch(OWN, npz.name):
        raise ValueError(f"{npz} is a file of the evaluation's own; give --npz another name")


def provenance(loaded, vae: str | None, codec, model) -> dict:
    """Which weights make the samples, in what precision, and which VAE their pictures: what must not change between."""
    precision = str(DTYPES[model.speed.precision]).removeprefix("torch.")
    decoder = codec.about if isinstance(codec, Autoencoder) else {}
    told = {name: decoder[name] for name in ("vae_checksum", "scaling_factor", "shift_factor") if name in decoder}
    weights = {"weights": loaded.weights, "checksum": checksum(loaded.model.state_dict()), "precision": precision}
    return {**weights, "codec": vae or loaded.codec_hint, **told}


def settled(loaded, sampling: Sampling, quality: str | None) -> Sampling:
    """With its sampler and steps. Raises ValueError, before any work, on samples that this model cannot make."""
    process = process_of(loaded.config)
    sampling = sampling.settled(quality, process, loaded.qualities)
    if sampling.cfg_scale != 1 and not loaded.config.num_classes:
        raise ValueError(f"{loaded.source} has no classes, so it cannot be guided: leave --cfg-scale at 1")
    sample(loaded.model, [0], **sampling.options(process))
    return sampling


def versions() -> dict[str, str]:
    """The commit of dit_lab where it is a checkout, else its version, and the libraries' versions."""
    root, ours = Path(__file__).parents[2], {}
    if (root / ".git").exists() and which("git"):
        call = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
        ours["commit"] = subprocess.run(call, capture_output=True, text=True, check=False).stdout.strip()
    if not ours.get("commit"):  # no checkout, or one that git refuses because it is somebody else's
        ours.pop("commit", None)
        with suppress(PackageNotFoundError):  # a copy of the sources is neither a checkout nor installed
            ours["dit_lab"] = version("dit_lab")
    libraries = {name: version(name) for name in ("torch", "torchmetrics", "diffusers")}
    return {**ours, "python": sys.version.split()[0], **libraries}


def table(result: dict, out: Path) -> str:
    """The figures, a line each with their spread, and in words how they were made."""
    lines = [f"{name:<26}{spelt(value, result['spread'].get(name))}" for name, value in result["figures"].items()]
    lines += [f"{name:<26}{'-':>12}  {reason}" for name, reason in result["left_out"].items()]
    if result["spread"]:
        lines.append("+-: one standard deviation over other samples (without each twentieth), against this reference")
    plain = lambda name, value: f"{value:.4f}" if name in ("accuracy", "chance") else value
    said = lambda group: (f"{name} {plain(name, value)}" for name, value in result[group].items() if value is not None)
    groups = ("samples", "checkpoint", "features", "reference", "versions")
    return "\n".join([*lines, *(f"{group}: {', '.join(said(group))}" for group in groups), f"kept in {out / RESULTS}"])


def spelt(value: float, spread: float | None) -> str:
    """A figure with its spread, to the spread's second digit; without one, to four places."""
    if isinstance(value, int):
        return f"{value:12}"
    if not spread:
        return f"{value:12.4f}" + (" +- 0" if spread == 0 else "")
    places = max(0, 1 - math.floor(math.log10(spread)))
    return f"{value:12.{places}f} +- {spread:.{places}f}"
