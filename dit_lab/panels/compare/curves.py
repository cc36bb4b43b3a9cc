"""The curves of docs/results/blocks.json, the four blocks trained alike, in the few numbers that a chart takes."""

import json
from statistics import fmean

from dit_lab.models import BLOCKS
from dit_lab.panels.panel import asset

# What was judged, by its field: its name, what it means, and whether more is better.
JUDGED = {
    "frechet": ("Fréchet distance", "to real pictures, by the project's classifier; lower is better"),
    "test_mse": ("Loss on unseen pictures", "mean squared error of v; lower is better"),
    "agreement": ("Read as asked", "share of samples that the classifier reads as their class; higher is better"),
}


def summary(table: dict) -> dict:
    """What the panel ships of an experiment's table: per block and judgement the least, mean and greatest over seeds.

    Written anew by `json.dump(summary(json.load(open("docs/results/blocks.json"))), ...)` into blocks.json beside this.
    """
    blocks = {}
    for name in dict.fromkeys(run["model"] for run in table["runs"]):
        runs = [run for run in table["runs"] if run["model"] == name]
        told = {"parameters": runs[0]["parameters"], "macs": runs[0]["macs"]}
        for field in JUDGED:
            points = zip(*([point[field] for point in run["curve"]] for run in runs), strict=True)
            told[field] = [[float(f"{value:.6g}") for value in (min(p), fmean(p), max(p))] for p in points]
        blocks[name] = told
    settings = table["settings"]
    return {
        "steps": settings["steps"], "seeds": len({run["seed"] for run in table["runs"]}), "blocks": blocks,
        "batch": settings["batch_size"], "real": float(f"{settings['train_to_test_frechet']:.6g}"),
    }  # fmt: skip


def shipped_curves() -> dict:
    """What is shipped, with the names of what was judged and of the blocks."""
    shipped = json.loads(asset("compare", "blocks.json"))
    return shipped | {
        "judged": [[field, *words] for field, words in JUDGED.items()],
        "titles": {name: BLOCKS[name].title for name in shipped["blocks"]},
    }
