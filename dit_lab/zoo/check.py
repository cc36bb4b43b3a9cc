"""`python -m dit_lab.zoo.check mnist --data ylecun/mnist`: the figures beside a zoo checkpoint, made again.

A classifier that saw real training images only says whether samples show the digit that was asked for, and its
features give a Fréchet distance, next to the one between real training and test images.
"""

import json
import math
from pathlib import Path
from typing import Literal

import torch

from dit_lab.checkpoints import load
from dit_lab.data import open_data, picture_codec
from dit_lab.data.pictures import say
from dit_lab.evaluation import Sampling, agreement, draw, everything, frechet_distance, judge, judge_for
from dit_lab.evaluation.features import reading
from dit_lab.evaluation.reading import mistrust
from dit_lab.evaluation.samples import BATCH
from dit_lab.files import make_folder, writable, write_json
from dit_lab.models import COMPILE, PRECISION, check_compiler, fast, pick_device
from dit_lab.models.fast import Speed
from dit_lab.program import run

FIGURES = "figures.json"


def check(
    name: str = "mnist",
    /,
    *,
    data: str = "ylecun/mnist",
    samples: int = 1_000,
    cfg_scale: float = 2.0,
    distance_samples: int = 10_000,
    distance_cfg_scale: float = 1.0,
    steps: int = 50,
    vae: str | None = None,
    device: str = "auto",
    precision: PRECISION = "fp32",
    compile: Literal[tuple(COMPILE)] = "no",
    out: Path | None = None,
) -> dict:
    """Measure a zoo checkpoint and write `figures.json` beside it: of a judge that does not read, why there are none.

    Args:
        name: The zoo's name for it, or any checkpoint that load takes.
        data: The data set it was trained on, with a train and a test split.
        samples: Samples for the agreement with the requested labels.
        cfg_scale: Guidance of those.
        distance_samples: Samples for the Fréchet distance (0: skip it).
        distance_cfg_scale: Guidance of those.
        steps: DDIM steps of both.
        vae: Folder or hub id of the VAE of a latent model, instead of the one its config names.
        device: Where samples are drawn: cpu, cuda, mps, or auto; the noise is the same on each.
        precision: What the model's blocks compute in: fp32, as the recorded figures were made; bf16 or fp16, sooner, a
            little off and said beside them; or auto, what is faster.
        compile: Have the steps compiled, which takes a minute or so and is off by rounding alone, and said beside the
            figures where it is done: auto tries it where the work takes ten times as long, and stays with what is
            faster.
        out: Where figures.json goes, and a classifier where none ships (default: the checkpoint's folder in the zoo).
    """
    place = pick_device(device)
    if COMPILE[compile] is True:
        check_compiler(place)
    loaded = load(name, device=place)
    if out is None and not (out := Path(__file__).parent / name).is_dir():
        raise ValueError(f"{name} is not in the zoo: say with --out where its figures go")
    writable(out / FIGURES)
    codec = picture_codec(loaded, vae, place)
    size = loaded.config.size[0] * codec.factor
    train, test = (open_data(data, split=split, size=size) for split in ("train", "test"))
    classifier, _ = judge_for(test, "test", lambda: train, out)
    seen, test_features = judge(classifier, everything(test))
    figures = {"classifier_test_accuracy": agreement(seen, torch.from_numpy(test.labels))}
    if blind := mistrust(reading(classifier, seen, test), len(test.names)):
        left_out = dict.fromkeys(["agreement", *["frechet"] * bool(distance_samples)], blind)
        return written(out, figures | {"left_out": left_out})
    forwards = steps * sum(math.ceil(count / BATCH) for count in (samples, distance_samples))
    model = fast(
        loaded.model, precision=precision, compile=COMPILE[compile], batch=Sampling(cfg_scale=cfg_scale).passes,
        forwards=forwards, tell=say,
    )  # fmt: skip
    settings = {"sampler": "ddim", "steps": steps} | unlike_recorded(model.speed)
    decode = lambda latents: codec.decode(latents).cpu()  # the classifier, which is small, stays on the CPU

    drawn, labels = draw(model, samples, steps, cfg_scale, decode)
    seen, _ = judge(classifier, drawn)
    figures["agreement"] = {"samples": samples, "cfg_scale": cfg_scale, **settings, "share": agreement(seen, labels)}
    if distance_samples:
        drawn, _ = draw(model, distance_samples, steps, distance_cfg_scale, decode)
        _, train_features = judge(classifier, everything(train))
        figures["frechet"] = {
            "samples": distance_samples, "cfg_scale": distance_cfg_scale, **settings,
            "samples_to_test": frechet_distance(judge(classifier, drawn)[1], test_features),
            "train_to_test": frechet_distance(train_features, test_features),
        }  # fmt: skip
    return written(out, figures)


def unlike_recorded(speed: Speed) -> dict:
    """What is to be said of how a fast model runs: in which half precision, and that it is compiled."""
    precision = {"precision": speed.precision} if speed.precision != "fp32" else {}
    return precision | ({"compiled": True} if speed.compiled else {})


def written(out: Path, figures: dict) -> dict:
    """The figures, which are written and printed."""
    make_folder(out)
    write_json(out / FIGURES, figures)
    print(json.dumps(figures, indent=2))
    return figures


if __name__ == "__main__":
    run(check, "dit_lab.zoo.check")
