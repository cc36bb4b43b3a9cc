"""`python -m dit_lab evaluate`: pictures of a checkpoint, how far they are from real ones, and how both were made.

Killed, it goes on where it was; several processes share the sampling: `accelerate launch -m dit_lab evaluate …`.
"""

import json
import os
import subprocess
import sys
import zlib
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from shutil import which
from typing import Annotated, Literal

import torch
import tyro
from einops import rearrange

from dit_lab import adm
from dit_lab.checkpoints import load
from dit_lab.checkpoints.places import find
from dit_lab.codecs import open_codec
from dit_lab.files import writable
from dit_lab.judging import Judging, measure, open_judge
from dit_lab.program import out_of_memory
from dit_lab.run import pick_device
from dit_lab.samples import Samples, Sampling
from dit_lab.sampling import sample

RESULTS = "results.jsonl"
PATIENCE = timedelta(days=7)  # for processes that have more to do than others


def evaluate_command(
    checkpoint: str,
    /,
    sampling: Annotated[Sampling, tyro.conf.arg(name="")] = Sampling(),  # noqa: B008
    judging: Annotated[Judging, tyro.conf.arg(name="")] = Judging(),  # noqa: B008
    *,
    weights: Literal["ema", "model"] = "ema",
    vae: str | None = None,
    out: Path | None = None,
    npz: Path | None = None,
    device: str = "auto",
) -> dict | None:
    """Draw pictures with a checkpoint, compare them with real ones, and add the figures to OUT/results.jsonl.

    Run again with the same arguments, it goes on where it was; samples that are there are judged again, not drawn.

    Args:
        checkpoint: A zoo name such as mnist, a checkpoint's folder or file, or a hub id.
        sampling: How samples are made.
        judging: What they are compared with.
        weights: Which weights of a training checkpoint that holds both.
        vae: Folder or hub id of the VAE of a latent model, instead of the one its config names.
        out: Folder for samples and results (default: runs/evaluate/ and the checkpoint's name).
        npz: Also write the samples to this file, in ADM's format.
        device: cpu, cuda, mps, or auto.
    """
    from accelerate import PartialState  # here, not above: it takes seconds

    place = pick_device(device)
    process = PartialState(cpu=place.type == "cpu", timeout=PATIENCE)
    place = place if process.num_processes == 1 else process.device
    out = out or Path("runs/evaluate") / Path(checkpoint).stem
    for path in (out / RESULTS, npz) if npz else (out / RESULTS,):
        writable(path)
    loaded = load(checkpoint, weights=weights, device=place)
    check_sampling(loaded, sampling)
    codec = open_codec(loaded.codec_hint, vae, channels=loaded.config.in_channels, device=place)
    if codec.note:
        raise ValueError(f"only pictures can be judged, not a preview of latents. {codec.note}")
    about = {"weights": weights, "codec": vae or loaded.codec_hint, "crc32": checksum(loaded.model)}
    samples = Samples(out, sampling, loaded.config.num_classes)
    with told_which_knob(sampling.batch_size):
        if process.is_main_process:
            blank = torch.zeros(1, loaded.config.in_channels, *loaded.config.size, device=place)
            shape = tuple(codec.decode(blank).shape[1:])
            samples.open({**asdict(sampling), **about})
            network, reference = open_judge(judging, shape, loaded.config.num_classes, out, place)
        process.wait_for_everyone()
        samples.draw(loaded.model, codec, process.process_index, process.num_processes)
        process.wait_for_everyone()
        if not process.is_main_process:
            return None
        drawn = network.see((rearrange(x, "b h w c -> b c h w") for x, _ in samples), sampling.count, "samples")
        asked = samples.labels(0, sampling.count) if loaded.config.num_classes else None
        figures, left_out = measure(network, drawn, asked, reference, sampling.batch_size, sampling.seed)
    if npz:
        npz.parent.mkdir(parents=True, exist_ok=True)
        adm.write(npz, sampling.count, samples)
    result = {
        "figures": figures, "left_out": left_out, **provenance(loaded, checkpoint, about, sampling),
        "features": network.about, "reference": reference.about, "versions": versions(),
    }  # fmt: skip
    append(out / RESULTS, result)
    print(table(result, out))
    return result


def provenance(loaded, checkpoint: str, about: dict, sampling: Sampling) -> dict:
    """How the samples were made, and what is known of the checkpoint that made them."""
    config = find(checkpoint, about["weights"]).config
    trained = {name: config.get(name) for name in ("ema_decay", "trained_steps")}
    precision = str(next(loaded.model.parameters()).dtype).removeprefix("torch.")
    samples = {**asdict(sampling), "precision": precision}
    return {"samples": samples, "checkpoint": {"source": checkpoint, **about, **trained}}


def check_sampling(loaded, sampling: Sampling) -> None:
    """Raise ValueError, before any work, on samples that this model cannot make."""
    if sampling.cfg_scale != 1 and not loaded.config.num_classes:
        raise ValueError(f"{loaded.source} has no classes, so it cannot be guided: leave --cfg-scale at 1")
    sample(loaded.model, [0], **sampling.options)


@contextmanager
def told_which_knob(batch_size: int):
    """Around work on batches: running out of memory becomes a ValueError that says what to turn."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if out_of_memory(error):
            raise ValueError(f"out of memory: give a --batch-size below {batch_size}") from error
        raise


def checksum(model: torch.nn.Module) -> str:
    """A number that tells a model's weights from others'."""
    total = 0
    for tensor in model.state_dict().values():
        total = zlib.crc32(tensor.detach().cpu().flatten().contiguous().view(torch.uint8).numpy(), total)
    return f"{total:08x}"


def versions() -> dict[str, str]:
    """The commit of dit_lab where it is a checkout, else its version, and the libraries' versions."""
    root, ours = Path(__file__).parents[1], {}
    if (root / ".git").exists() and which("git"):
        call = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
        ours["commit"] = subprocess.run(call, capture_output=True, text=True, check=False).stdout.strip()
    else:
        with suppress(PackageNotFoundError):  # a copy of the sources is neither a checkout nor installed
            ours["dit_lab"] = version("dit_lab")
    libraries = {name: version(name) for name in ("torch", "torchmetrics", "diffusers")}
    return {**ours, "python": sys.version.split()[0], **libraries}


def append(path: Path, result: dict) -> None:
    """Add one whole line of JSON to a file, on a line of its own also after one that was cut off."""
    before = path.read_bytes() if path.is_file() else b""
    gap = "" if before.endswith(b"\n") or not before else "\n"
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{gap}{json.dumps(result)}\n")
        file.flush()
        os.fsync(file.fileno())


def table(result: dict, out: Path) -> str:
    """The figures, a line each, and in words how they were made."""
    lines = [f"{name:<26}{value:12.4f}" for name, value in result["figures"].items()]
    lines += [f"{name:<26}{'-':>12}  {reason}" for name, reason in result["left_out"].items()]
    spelt = lambda group: ", ".join(f"{name} {value}" for name, value in result[group].items() if value is not None)
    return "\n".join([*lines, *(f"{group}: {spelt(group)}" for group in list(result)[2:]), f"kept in {out / RESULTS}"])
