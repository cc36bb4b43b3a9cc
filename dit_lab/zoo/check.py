"""`python -m dit_lab.zoo.check mnist --data ylecun/mnist`: the figures beside a zoo checkpoint, made again.

A classifier that saw real training images only says whether samples show the digit that was asked for, and its
features give a Fréchet distance, next to the one between real training and test images.
"""

import json
from pathlib import Path

import torch

from dit_lab.checkpoints import load
from dit_lab.codecs import open_codec
from dit_lab.data import open_data
from dit_lab.features import KEPT, classifier_for, everything, judge, opened, shipped
from dit_lab.files import write_json
from dit_lab.metrics import agreement, frechet_distance
from dit_lab.program import run
from dit_lab.samples import draw


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
    out: Path | None = None,
) -> dict:
    """Measure a zoo checkpoint and write `figures.json` beside it.

    Args:
        name: The zoo's name for it, or any checkpoint that load takes.
        data: The data set it was trained on, with a train and a test split.
        samples: Samples for the agreement with the requested labels.
        cfg_scale: Guidance of those.
        distance_samples: Samples for the Fréchet distance (0: skip it).
        distance_cfg_scale: Guidance of those.
        steps: DDIM steps of both.
        out: Where figures.json goes, and a classifier where none ships (default: the checkpoint's folder in the zoo).
    """
    loaded = load(name)
    if out is None and not (out := Path(__file__).parent / name).is_dir():
        raise ValueError(f"{name} is not in the zoo: say with --out where its figures go")
    decode, size = shown(loaded)
    train, test = (open_data(data, split=split, size=size) for split in ("train", "test"))
    judges = shipped(test, "test")
    classifier = opened(judges, test) if judges else classifier_for(train, out / KEPT)
    seen, test_features = judge(classifier, everything(test))
    figures = {"classifier_test_accuracy": agreement(seen, torch.from_numpy(test.labels))}
    settings = {"sampler": "ddim", "steps": steps}

    drawn, labels = draw(loaded.model, samples, steps, cfg_scale, decode)
    seen, _ = judge(classifier, drawn)
    figures["agreement"] = {"samples": samples, "cfg_scale": cfg_scale, **settings, "share": agreement(seen, labels)}
    if distance_samples:
        drawn, _ = draw(loaded.model, distance_samples, steps, distance_cfg_scale, decode)
        _, train_features = judge(classifier, everything(train))
        figures["frechet"] = {
            "samples": distance_samples, "cfg_scale": distance_cfg_scale, **settings,
            "samples_to_test": frechet_distance(judge(classifier, drawn)[1], test_features),
            "train_to_test": frechet_distance(train_features, test_features),
        }  # fmt: skip
    write_json(out / "figures.json", figures)
    print(json.dumps(figures, indent=2))
    return figures


def shown(loaded):
    """What makes pictures of a model's samples, which are in grey or in RGB, and the side of those pictures.

    Raises ValueError where latents could only be shown roughly.
    """
    config = loaded.config
    if loaded.codec_hint == "pixels":
        return (lambda pixels: pixels), config.size[0]
    codec = open_codec(loaded.codec_hint, channels=config.in_channels)
    if codec.note:
        raise ValueError(f"{loaded.source}: only pictures can be judged. {codec.note}")
    return codec.decode, config.size[0] * codec.factor


if __name__ == "__main__":
    run(check, "dit_lab.zoo.check")
