"""What came of `fewer_steps`, told: the time of each way on one core, a table a model, a figure."""

from functools import partial
from pathlib import Path
from statistics import mean

import torch
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from dit_lab.checkpoints import load
from dit_lab.commands.bench.report import machine
from dit_lab.commands.bench.timing import race
from dit_lab.diffusion import generate
from dit_lab.experiments.elsewhere import rows
from dit_lab.experiments.page import save_figure, spelt, write_page
from dit_lab.experiments.reuse import Reusing
from dit_lab.experiments.ways import HELD_OUT, INTERVAL, Way, options_of
from dit_lab.inside.plots import CATEGORIES, panels
from dit_lab.models import fast

COMMAND = "python -m dit_lab experiment fewer-steps"
PICTURES = 8
SHOWN = 3  # times the best distance, up to which the figure shows them
COLOURS = *CATEGORIES, "#56b4e9", "#e69f00", "#000000"
TITLE = "Fewer forwards: which way of sampling gives good pictures soonest?"
FAMILIES = {
    "DDPM": "ddpm", "DDIM": "ddim", "Euler": "euler", "Heun": "heun", "DPM-Solver++(2M)": "dpmpp",
    "DPM-Solver++(3M)": "dpmpp3", "UniPC": "unipc",
}  # fmt: skip


def timed(name: str, table: dict, asked: list[Way], turns: int) -> None:
    """Seconds of `PICTURES` guided pictures of each way that was judged and not timed, on one core, taking turns."""
    names = lambda rows: {row["way"].removesuffix(", searched") for row in table[rows] if row["model"] == name}
    wanted = names("rows") - names("times")
    missing = {str(way): way for way in asked if str(way) in wanted}
    if not missing:
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = fast(load(name).model, precision=table["settings"]["precision"])
        labels = [number % model.config.num_classes for number in range(PICTURES)]
        call = lambda way: partial(
            generate, Reusing(model, way.every, way.order, way.branches), labels,
            **options_of(way, way.steps, table["settings"]["cfg_scale"]),
        )  # fmt: skip
        seconds = race({key: call(way) for key, way in missing.items()}, turns + 2, torch.device("cpu"))
        table["machine"] = machine(torch.device("cpu"))
    finally:
        torch.set_num_threads(threads)
    rows = [dict(model=name, way=key, seconds=timing.median) for key, timing in seconds.items()]
    table["times"].extend(rows)


def tell(table: dict, results: Path) -> None:
    """Write the page and the figure beside the results."""
    save_figure(figure(table), results.with_suffix(".png"))
    write_page(results.with_suffix(".md"), TITLE, COMMAND, page(table))


def page(table: dict) -> str:
    """A table a model: its ways from the fewest passes to the most, and what a reader must know beside it."""
    settings, parts, names = table["settings"], [], list(dict.fromkeys(row["model"] for row in table["rows"]))
    for name in names:
        floor = table["floors"][name]
        parts += [f"## {name}\n", f"As many real test pictures are at {floor:.2f}.\n", *rows_of(name, table), ""]
        parts += rows(name, table)
    seeds = {name: sorted({row["seed"] for row in table["rows"] if row["model"] == name}) for name in names}
    most, named = max(seeds.values(), key=len), lambda word: any(word in row["way"] for row in table["rows"])
    told, spread = ("seeds", " (mean ± half the range)") if len(most) > 1 else ("seed", "")
    fewer = [f", of {name} {', '.join(map(str, mine))} alone" for name, mine in seeds.items() if mine != most]
    parts.append(
        f"Guidance {settings['cfg_scale']:g}; {settings['samples']:,} pictures a seed, {told} "
        f"{', '.join(map(str, most))}{''.join(fewer)}{spread}; precision {settings['precision']}. The "
        f"Fréchet distance is that of the project's own classifier to all test pictures but the first {HELD_OUT:,}; so "
        "few samples make it too large, by as much in all rows. A pass is a picture once through the network: guidance "
        "takes two a step. "
        + f"An interval is guidance between timesteps {INTERVAL[0]:g} and {INTERVAL[1]:g} only. " * named("interval")
        + f"Seconds are those of {PICTURES} guided pictures on one core"
        + (f" ({table['machine']})." if table["times"] else ".")
    )
    return "\n".join(parts)


def rows_of(name: str, table: dict) -> list[str]:
    """The rows of one model."""
    lines = ["| way | passes | Fréchet distance | seen as asked | seconds |", "| --- | --- | --- | --- | --- |"]
    seconds, grouped = seconds_of(name, table), by_way(name, table)
    for way, runs in sorted(grouped.items(), key=lambda item: item[1][0]["passes"]):
        time = f"{seconds[way]:.3f}" if seconds else "–"
        judged = f"{spelt(runs, 'frechet', '.2f')} | {spelt(runs, 'agreement', '.1%')}"
        lines.append(f"| {way} | {runs[0]['passes']:.0f} | {judged} | {time} |")
    return lines


def seconds_of(name: str, table: dict) -> dict[str, float]:
    """Seconds of each way of a model, where all were timed, else nothing: other timesteps take no other time."""
    timed = {row["way"]: row["seconds"] for row in table["times"] if row["model"] == name}
    ways = {way: timed.get(way.removesuffix(", searched")) for way in by_way(name, table)}
    return ways if None not in ways.values() else {}


def by_way(name: str, table: dict) -> dict[str, list[dict]]:
    """The runs of one model by way, in the order in which they came."""
    mine = [row for row in table["rows"] if row["model"] == name]
    return {way: [row for row in mine if row["way"] == way] for way in dict.fromkeys(row["way"] for row in mine)}


def kind(way: str) -> str:
    """By which word of its name a way is marked: the last, as a searched one's or one's whose branches are forecast."""
    return next((word for word in ("branches", "searched", "every", "interval") if word in way), "")


def figure(table: dict):
    """Distance against time, a panel a model: a line a solver, marks for what spares or reuses steps.

    The time is the wall's where all ways were timed, else passes.
    """
    names = list(dict.fromkeys(row["model"] for row in table["rows"]))
    samplers = {row["way"].split()[0] for row in table["rows"]}
    columns = min(len(names), 2 if len(names) == 4 else 3)
    drawn, axes = panels(-(-len(names) // columns), columns, 4.0, grid=False)
    for axis in axes.flat[len(names) :]:
        axis.remove()
    for axis, name in zip(axes.flat, names, strict=False):
        grouped, seconds = by_way(name, table), seconds_of(name, table)
        spent = lambda runs, seconds=seconds: seconds[runs[0]["way"]] if seconds else runs[0]["passes"]
        point = lambda runs, spent=spent: (spent(runs), mean(run["frechet"] for run in runs))
        for (title, sampler), colour in zip(FAMILIES.items(), COLOURS, strict=True):
            mine = {way: runs for way, runs in grouped.items() if way.split()[0] == sampler}
            line = lambda points: zip(*points, strict=True) if points else ([], [])
            plain = sorted(point(runs) for way, runs in mine.items() if "," not in way)
            shown = title if sampler in samplers else None  # by the legend
            axis.plot(*line(plain), "o-", color=colour, label=shown, linewidth=1, markersize=3)
            for marker, word in {"x": "interval", "+": "every", "*": "searched", "d": "branches"}.items():
                others = [point(runs) for way, runs in mine.items() if word == kind(way)]
                axis.plot(*line(others), marker, color=colour, markersize=5)
        heights = sorted(point(runs)[1] for runs in grouped.values())
        axis.set(title=f"{name} (real pictures: {table['floors'][name]:.1f})", xscale="log", yscale="log")
        cost = f"seconds of {PICTURES} pictures, one core" if seconds else "passes a picture"
        axis.set(xlabel=f"{cost} (log scale)", ylabel="Fréchet distance (log scale)")
        highest = min(1.1 * heights[-1], SHOWN * heights[0])  # else Heun's few steps would leave the others no room
        axis.set_ylim(0.9 * heights[0], highest)
        axis.xaxis.set(major_formatter="{x:g}", minor_locator=LogLocator(subs=(2, 5)), minor_formatter="{x:g}")
        axis.yaxis.set(major_locator=MaxNLocator(8), minor_locator=NullLocator(), major_formatter="{x:g}")
        axis.grid(alpha=0.3)
    drawn.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)
    told = "dots: even steps; x: guidance interval, +: forecasts, *: searched steps"
    told += ", diamonds: forecasts branch by branch" * any("branches" in row["way"] for row in table["rows"])
    drawn.suptitle(f"Quality against time\n({told}; what is off the scale is in the tables)", fontsize=9)
    return drawn
