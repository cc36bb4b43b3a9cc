"""`python -m dit_lab experiment causal`: does what a part seems to have made go with it? On the models of the zoo.

Four questions, each beside its control and asked with several noises: whether attribution and intervention agree,
whether a few massive activations carry the picture, whether the corners are sinks of attention, and whether one block's
heads hold strokes together.
"""

from pathlib import Path
from statistics import mean, median

import torch
from scipy.ndimage import label as connected

from dit_lab.checkpoints import load
from dit_lab.experiments.kept import NAME, STEP, check_settings, is_object, is_objects
from dit_lab.experiments.page import save_figure, write_page
from dit_lab.files import check_fields, make_folder, read_json, writable, write_json
from dit_lab.inside import (
    Channels,
    Cut,
    Scale,
    attribute,
    causal_map,
    cells,
    effect,
    intervene,
    massive,
    received,
    record,
)
from dit_lab.inside.causal import rank_correlation
from dit_lab.inside.plots import picture_table, what_made_this

DIGITS = "mnist", "mnist_adaln_zero", "mnist_adaln", "mnist_cross_attention", "mnist_in_context"
STROKES, STROKE_BLOCK = "mnist", 2  # found on the sevens of seed 0, so that seed is not among those asked
COMMAND = "python -m dit_lab experiment causal"


def causal_command(
    *, seeds: tuple[int, ...] = (1, 2, 3), steps: int = 20, controls: int = 12,
    results: Path = Path("docs/results/causal.json"),
) -> None:  # fmt: skip
    """What parts did, by attribution and by intervention, as JSON, a page and two figures; kept as it goes.

    Args:
        seeds: Of the noise; each is a run of its own.
        steps: DDIM steps of a run, at guidance 2.
        controls: Edits of the same kind and size at random other places, for each edit.
        results: The JSON to write; the page and the figures go beside it.
    """
    writable(results, results.with_suffix(".md"), results.with_suffix(".png"), seven_file(results))
    table = opened(results, dict(seeds=list(seeds), steps=steps, controls=controls))
    make_folder(results.parent)
    for question, (ask, models) in QUESTIONS.items():
        for name in models:
            there = [row["seed"] for row in table["rows"] if (row["question"], row["model"]) == (question, name)]
            missing = [seed for seed in seeds if seed not in there]
            model = load(name).model if missing else None
            for seed in missing:
                row = ask(model, seed, steps, controls)
                table["rows"].append(dict(question=question, model=name, seed=seed) | row)
                write_json(results, table)
                print(f"{question}, {name}, seed {seed}", flush=True)
    save_figure(strokes_figure(seeds[0], steps), results.with_suffix(".png"))
    save_figure(seven(steps), seven_file(results))
    write_page(results.with_suffix(".md"), "What made this pixel, and is that what caused it?", COMMAND, page(table))
    print(f"{results.with_suffix('.md')}: what came out")


def opened(results: Path, settings: dict) -> dict:
    """The table so far. Raises ValueError on a file that is none, and on one made with other settings."""
    if not results.is_file():
        return {"settings": settings, "rows": []}
    try:
        table = read_json(results)
        check_fields(table, settings=(is_object, "an object"), rows=(is_objects, "a list of objects"))
        for row in table["rows"]:
            check_fields(row, question=NAME, model=NAME, seed=STEP)
    except ValueError as error:
        raise ValueError(f"{results} holds no results of this; give --results another name ({error})") from error
    check_settings(results, table["settings"], settings)
    return table


def agreement(model, seed: int, steps: int, controls: int) -> dict:
    """Attribution against intervention over every head and MLP in three ranges of steps, for the stroke of a 7."""
    run = record(model, [7], steps=steps, cfg_scale=2.0, seed=seed)
    stroke = run.sample[0].mean(0) > 0
    everywhere = cells(run, model, 3)
    found, tried = attribute(run, model, stroke), intervene(run, model, everywhere, stroke)
    shares = torch.tensor([found.of(cell) for cell in everywhere])
    largest = shares.argmax().item()
    return dict(
        cells=len(everywhere), rho=rank_correlation(shares, tried.lost), largest=str(everywhere[largest]),
        share=shares[largest].item(), lost=tried.lost[largest].item(),
    )  # fmt: skip


def activations(model, seed: int, steps: int, controls: int) -> dict:
    """Block by block, the channel that is most often the largest, taken out of the stream, and random others."""
    run = record(model, [7, 3], steps=steps, cfg_scale=2.0, seed=seed)
    seen = massive(run, model, top=1)
    channels = seen.feature[..., 0].mode(dim=0).values.tolist()
    effects = [effect(run, model, Channels(block, [top], 0.0), controls) for block, top in enumerate(channels)]
    return dict(channels=channels, times=seen.times[..., 0].mean(0).tolist()) | told(effects)


def sinks(model, seed: int, steps: int, controls: int) -> dict:
    """Block by block, what corners receive of attention (1: as much as any token), and what cutting them off does."""
    run = record(model, [7, 3], steps=steps, cfg_scale=2.0, seed=seed)
    (rows, columns), seen = run.grid, 0
    corners = [0, columns - 1, (rows - 1) * columns, rows * columns - 1]
    looked = range(0, steps, max(steps // 4, 1))
    for step in looked:
        seen = seen + received(run, model, step).mean(1)[:, : rows * columns] / len(looked)
    share = seen[:, corners].mean(1) / seen.mean(1)
    everyone = range(rows * columns)
    effects = [effect(run, model, Cut(block, everyone, corners), controls) for block in range(model.config.depth)]
    return dict(received=share.tolist()) | told(effects)


def strokes(model, seed: int, steps: int, controls: int) -> dict:
    """In how many pieces digits are, untouched and with all heads of one block switched off, block by block."""
    run = record(model, [*range(10), *range(10)], steps=steps, cfg_scale=2.0, seed=seed)
    off = [run.edited(model, Scale(block, "attn", 0.0)).sample for block in range(model.config.depth)]
    return dict(untouched=pieces(run.sample), off=[pieces(each) for each in off])


def pieces(x: torch.Tensor) -> float:
    """The mean number of connected pieces of what is bright: `x: b c h w`; pixels that touch at a corner are one."""
    return mean(connected((each.mean(0) > 0).numpy(), structure=[[1] * 3] * 3)[1] for each in x)


def told(effects: list) -> dict:
    """Effects block by block: how far the picture moved, the controls' median, and the rank among them."""
    return dict(
        moved=[each.picture for each in effects],
        controls=[median(each.picture_controls.tolist()) for each in effects],
        rank=[each.rank for each in effects],
    )


QUESTIONS = {
    "agreement": (agreement, (*DIGITS, "mnist_udit")),
    "massive activations": (activations, (*DIGITS, "cifar10")),
    "corner sinks": (sinks, (*DIGITS, "cifar10")),
    "strokes": (strokes, (STROKES,)),
}


def strokes_figure(seed: int, steps: int):
    """The claim that holds, as pictures: digits untouched, without the block's heads, and without another block's."""
    model = load(STROKES).model
    run = record(model, list(range(10)), steps=steps, cfg_scale=2.0, seed=seed)
    off = lambda block: run.edited(model, Scale(block, "attn", 0.0)).sample
    named = {f"heads of block {block} off": off(block) for block in (STROKE_BLOCK, STROKE_BLOCK + 1)}
    title = f"Without the heads of block {STROKE_BLOCK} strokes fall apart; without those of the next block they do not"
    return picture_table({"untouched": run.sample, **named}, list(range(10)), title)


def seven(steps: int):
    """What made this 7, as the README shows it."""
    model = load(STROKES).model
    run = record(model, [7], steps=steps, cfg_scale=2.0, seed=5)
    stroke = run.sample[0].mean(0) > 0
    return what_made_this(run, causal_map(run, model, stroke, largest=24), stroke, label="7")


def seven_file(results: Path) -> Path:
    """Where its picture goes."""
    return results.with_name(f"{results.stem}_seven.png")


def page(table: dict) -> str:
    """The four tables with their verdicts."""
    rows = lambda question: [row for row in table["rows"] if row["question"] == question]
    settings = table["settings"]
    seeds = ", ".join(map(str, settings["seeds"]))
    about = (
        f"DDIM, {settings['steps']} steps, guidance 2; noise of seeds {seeds}; {settings['controls']} controls an edit."
    )
    return "\n".join(
        [
            "## Do attribution and intervention agree?\n",
            *agreement_table(rows("agreement")),
            "\n## Do a few massive activations carry the picture?\n",
            *effects_table(rows("massive activations"), "times", "largest channel, times the median"),
            "\n## Are the corners sinks of attention?\n",
            *effects_table(rows("corner sinks"), "received", "attention that corners receive (1: even)"),
            "\n## Do the heads of one block hold strokes together?\n",
            *strokes_table(rows("strokes")),
            f"\n{about}",
        ]
    )


def agreement_table(rows: list[dict]) -> list[str]:
    """A row a model."""
    lines = ["| model | cells | rank correlation, by seed | the largest share of the first seed |", "| --- " * 4 + "|"]
    for name, runs in grouped(rows):
        first, rho = runs[0], ", ".join(f"{run['rho']:.2f}" for run in runs)
        largest = f"{first['largest']}: {first['share']:.0%}, and {first['lost']:.0%} is lost without it"
        lines.append(f"| {name} | {first['cells']} | {rho} | {largest} |")
    return lines


def effects_table(rows: list[dict], field: str, what: str) -> list[str]:
    """A row a model, its blocks side by side."""
    lines = [f"| model | {what}, by block | moved, over the controls' median | first of all | verdict |"]
    lines.append("| --- " * 5 + "|")
    for name, runs in grouped(rows):
        values = " ".join(f"{mean(each):.3g}" for each in by_block(runs, field))
        lines.append(f"| {name} | {values} | {verdict(runs)} |")
    return lines


def strokes_table(rows: list[dict]) -> list[str]:
    """A row a seed."""
    lines = ["| seed | pieces a digit, untouched | all heads of a block off, block by block | verdict |"]
    lines.append("| --- " * 4 + "|")
    for row in rows:
        held = row["off"].index(max(row["off"])) == STROKE_BLOCK
        off = " ".join(f"{each:.2f}" for each in row["off"])
        lines.append(f"| {row['seed']} | {row['untouched']:.2f} | {off} | {'held' if held else 'failed'} |")
    return lines


def grouped(rows: list[dict]):
    """Rows by model, in the order in which they came."""
    return [(name, [row for row in rows if row["model"] == name]) for name in dict.fromkeys(r["model"] for r in rows)]


def by_block(runs: list[dict], field: str):
    """The values of a field, one tuple a block over the seeds."""
    return zip(*(run[field] for run in runs), strict=True)


def verdict(runs: list[dict]) -> str:
    """Three cells: how far an edit moved the picture by block, how often it was first of its controls, held or failed.

    Held is first among its controls in every block and with every seed.
    """
    pairs = zip(by_block(runs, "moved"), by_block(runs, "controls"), strict=True)
    ratios = " ".join(f"{mean(moved) / max(mean(others), 1e-9):.1f}" for moved, others in pairs)
    ranks = [rank for run in runs for rank in run["rank"]]
    held = "held" if set(ranks) == {1} else "failed"
    return f"{ratios} | {ranks.count(1)} of {len(ranks)} | {held}"
