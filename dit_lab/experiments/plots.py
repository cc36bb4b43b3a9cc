"""Figures of experiments: rungs side by side, models as they train, quality against compute."""

from collections.abc import Sequence
from itertools import cycle

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from dit_lab.inside.plots import BLUE, CATEGORIES, ORANGE, panels


def ladder(rungs: dict[str, Sequence[dict]]) -> Figure:
    """The rungs of an experiment side by side: `rungs` maps a name to its runs, dicts of `test_mse`, `frechet`, `macs`.

    A dot a run and a bar at the mean; the multiply-accumulates in the last panel.
    """
    panes = {"test_mse": "loss on unseen pictures (mse)", "frechet": "Fréchet distance", "macs": "MMACs a picture"}
    figure, axes = panels(1, len(panes), 3.0, grid=False)
    for axis, (field, title) in zip(axes[0], panes.items(), strict=True):
        for place, runs in enumerate(rungs.values()):
            values = np.array([run[field] for run in runs]) / (1e6 if field == "macs" else 1)
            axis.plot(values, [place] * len(values), "o", color=BLUE, alpha=0.6, markersize=5)
            axis.plot(values.mean(), place, "|", color=ORANGE, markersize=16, markeredgewidth=2.5)
        axis.set(title=title, ylim=(len(rungs) - 0.5, -0.5))
        axis.set_yticks(range(len(rungs)), rungs if axis is axes[0, 0] else [""] * len(rungs))
        axis.grid(alpha=0.3, axis="x")
        axis.margins(x=0.12)
    figure.suptitle("From DiT to U-DiT, step by step (dots: seeds, bar: their mean)")
    return figure


def comparison(models: dict[str, Sequence[dict]], batch_size: int) -> Figure:
    """Models as they train: `models` maps a title to its runs, dicts of `losses`, `curve` and `macs` (`experiment`).

    Loss against step, Fréchet distance against step and against the multiply-accumulates spent: a line is the mean over
    the runs, a band their range.
    """
    figure, axes = panels(1, 3, 3.2, grid=False)
    for (title, runs), colour in zip(models.items(), CATEGORIES, strict=False):
        steps, losses = np.array(runs[0]["losses"]).T[0], [np.array(run["losses"]).T[1] for run in runs]
        draw_band(axes[0, 0], steps, losses, title, colour)
        judged = np.array([figures["step"] for figures in runs[0]["curve"]])
        distances = [[figures["frechet"] for figures in run["curve"]] for run in runs]
        # A backward pass takes twice a forward's.
        spent = judged * batch_size * 3 * runs[0]["macs"] / 1e12
        draw_band(axes[0, 1], judged, distances, title, colour, ".-")
        draw_band(axes[0, 2], spent, distances, title, colour, ".-")
    names = "loss (mse, training)", "Fréchet distance", "Fréchet distance"
    unit = "training step", "training step", "TMACs of training"
    for axis, name, along in zip(axes[0], names, unit, strict=True):
        axis.set(xlabel=along, ylabel=f"{name} (log scale)", yscale="log")
        # Plain numbers at 1, 2, 3, 5: within less than a decade powers of ten say little.
        axis.yaxis.set(minor_locator=LogLocator(subs=(1, 2, 3, 5)), minor_formatter="{x:g}", major_formatter="{x:g}")
        axis.grid(alpha=0.3, which="both")
    axes[0, 0].legend(frameon=False)
    figure.suptitle("Conditioning blocks compared (line: mean over seeds, band: their range)")
    return figure


def draw_band(axis, x, curves, label: str, colour: str, style: str = "-") -> None:
    """The mean of some curves, and their range as a band."""
    curves = np.array(curves)
    axis.plot(x, curves.mean(0), style, color=colour, label=label, linewidth=1.2)
    axis.fill_between(x, curves.min(0), curves.max(0), color=colour, alpha=0.2, linewidth=0)


def scaling(models: dict[str, Sequence[dict]]) -> Figure:
    """Fréchet distance and unseen loss against MACs: `models` maps `SIZE/patch` to its runs; a line joins a size."""
    figure, axes = panels(1, 2, 3.4, grid=False)
    sizes = list(dict.fromkeys(name.split("/")[0] for name in models))
    # Of sizes that follow each other one is named above and one below: models of like MACs lie close together.
    sides = cycle([dict(xytext=(5, 4)), dict(xytext=(-5, -4), ha="right", va="top")])
    for size, colour, side in zip(sizes, CATEGORIES, sides, strict=False):
        mine = {name: runs for name, runs in models.items() if name.split("/")[0] == size}
        macs = [runs[0]["macs"] / 1e6 for runs in mine.values()]
        for axis, field in zip(axes[0], ("frechet", "test_mse"), strict=True):
            values = [np.mean([run[field] for run in runs]) for runs in mine.values()]
            axis.plot(macs, values, "o-", color=colour, label=size, linewidth=1)
            for name, x, y in zip(mine, macs, values, strict=True):
                axis.annotate(name, (x, y), textcoords="offset points", fontsize=7, color=colour, **side)
    for axis, name in zip(axes[0], ("Fréchet distance", "loss on unseen pictures (mse)"), strict=True):
        axis.set(xlabel="MMACs a picture (log scale)", ylabel=f"{name} (log scale)", xscale="log", yscale="log")
        axis.xaxis.set(major_formatter="{x:g}")
        axis.yaxis.set(minor_formatter="{x:g}", major_formatter="{x:g}")  # powers of ten say little in half a decade
        axis.margins(x=0.1)
        axis.grid(alpha=0.3, which="both")
    figure.suptitle("Quality against compute (a line a size, a dot a patch size)")
    return figure


STYLES = {"marker": "os^", "linestyle": ("-", "--", ":")}  # by patch, the finest first


def looks(names: Sequence[str]) -> dict[str, dict]:
    """Models `SIZE/patch`, each with its look: a colour a size, a marker and a kind of line a patch."""
    sizes, patches = (list(dict.fromkeys(name.split("/")[part] for name in names)) for part in (0, 1))
    patches.sort(key=int)
    found = {}
    for name in names:
        size, patch = name.split("/")
        style = {what: values[patches.index(patch) % len(values)] for what, values in STYLES.items()}
        found[name] = {"color": CATEGORIES[sizes.index(size) % len(CATEGORIES)], **style}
    return found


def along(macs: dict[str, Sequence[float]], panes: dict[str, dict], unit: str) -> Figure:
    """A line a model along its compute, a panel a figure: `panes` maps its name to `{model: seeds of values}`.

    A line is the mean over the seeds, a band their range; both axes are logarithmic.
    """
    figure, axes = panels(1, len(panes), 3.8, grid=False)
    for axis, (name, models) in zip(axes[0], panes.items(), strict=True):
        for model, look in looks(list(models)).items():
            values = np.array(models[model])
            axis.plot(macs[model], values.mean(0), label=model, linewidth=1, markersize=4, **look)
            axis.fill_between(macs[model], values.min(0), values.max(0), color=look["color"], alpha=0.15, linewidth=0)
        axis.set(xlabel=f"{unit} (log scale)", ylabel=f"{name} (log scale)", xscale="log", yscale="log")
        axis.xaxis.set(major_formatter="{x:g}")
        # Even steps in plain numbers: within less than a decade powers of ten say little.
        axis.yaxis.set(major_locator=MaxNLocator(8), minor_locator=NullLocator(), major_formatter="{x:g}")
        axis.grid(alpha=0.3)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)
    return figure


def training(models: dict[str, Sequence[dict]], batch_size: int) -> Figure:
    """Unseen loss and Fréchet distance against MACs of training: `models` maps `SIZE/patch` to runs with a `curve`."""
    macs = {
        name: [3 * runs[0]["macs"] * batch_size * figures["step"] / 1e12 for figures in runs[0]["curve"]]
        for name, runs in models.items()
    }
    of = lambda field: {
        name: [[figures[field] for figures in run["curve"]] for run in runs] for name, runs in models.items()
    }
    panes = {"loss on unseen pictures (mse)": of("test_mse"), "Fréchet distance": of("frechet")}
    figure = along(macs, panes, "TMACs of training")
    figure.suptitle("Quality against training compute (a line a model, a dot where it was judged)")
    return figure


def sampling(seen: dict[str, dict[int, Sequence[dict]]], macs: dict[str, int]) -> Figure:
    """Fréchet distance and share seen as asked against MACs of sampling: `seen` maps `SIZE/patch` to runs by steps."""
    spent = {name: [steps * macs[name] / 1e6 for steps in by_steps] for name, by_steps in seen.items()}
    seeds = lambda by_steps: set.intersection(*({row["seed"] for row in rows} for rows in by_steps.values()))
    of = lambda field: {
        name: [
            [row[field] for rows in by_steps.values() for row in rows if row["seed"] == seed]
            for seed in sorted(seeds(by_steps))
        ]
        for name, by_steps in seen.items()
    }
    figure = along(
        spent, {"Fréchet distance": of("frechet"), "share seen as asked": of("agreement")}, "MMACs a picture"
    )
    steps = sorted({steps for by_steps in seen.values() for steps in by_steps})
    figure.suptitle(f"Quality against sampling compute (a line a model, dots at {', '.join(map(str, steps))} steps)")
    return figure


def decoders(found: dict[str, Sequence[dict]], model: str) -> Figure:
    """Decoders side by side: `found` maps a name to its rows, one a seed, of `psnr`, `rebuilt` and `frechet`."""
    names = "PSNR of rebuilt pictures (dB)", "Fréchet distance, rebuilt", f"Fréchet distance, samples of {model}"
    panes = dict(zip(("psnr", "rebuilt", "frechet"), names, strict=True))
    figure, axes = panels(1, len(panes), 2.6, grid=False)
    for axis, (field, title) in zip(axes[0], panes.items(), strict=True):
        for place, rows in enumerate(found.values()):
            values = np.array([row[field] for row in rows])
            axis.plot(values, [place] * len(values), "o", color=BLUE, alpha=0.6, markersize=5)
            axis.plot(values.mean(), place, "|", color=ORANGE, markersize=16, markeredgewidth=2.5)
        axis.set(ylim=(len(found) - 0.5, -0.5))
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.ticklabel_format(axis="x", useOffset=False)
        axis.set_title(title, fontsize=9)
        axis.set_yticks(range(len(found)), found if axis is axes[0, 0] else [""] * len(found))
        axis.grid(alpha=0.3, axis="x")
        axis.margins(x=0.15)
    figure.suptitle("One VAE's latents by several decoders (dots: seeds, bar: their mean)")
    return figure
