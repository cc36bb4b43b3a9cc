"""What models of several sizes and patches make of compute: training's (the DiT paper's figure 9), and sampling's (10).

Training compute is 3 x MACs x pictures a step x steps, as the paper estimates it (section 5): MACs are the
multiply-accumulates of one picture's forward, and a backward pass takes about twice as many. Neither the optimiser, nor
the VAE, nor judging is in it. Sampling compute is MACs x steps: a forward a step, without guidance.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np

from dit_lab.experiments import plots
from dit_lab.experiments.experiment import finished
from dit_lab.experiments.judge import Judge
from dit_lab.experiments.page import Part, spelt, verdict
from dit_lab.experiments.papers import DIT, DIT_SAMPLING
from dit_lab.experiments.plan import Kept, Plan
from dit_lab.files import write_json
from dit_lab.models import Config

LOSS, DISTANCE = "test_mse", "frechet"
FIELDS = {"loss": LOSS, "distance": DISTANCE}
CLAIM_OF_TRAINING = (
    "The paper's claim (section 5, figure 9): small models, even when trained longer, become inefficient, and larger "
    "ones that are trained for fewer steps use the same compute better; so do smaller patches at one size."
)
CLAIM_OF_SAMPLING = (
    "The paper's claim (section 5, figure 10): more steps of sampling do not make up for a smaller model. {small} with "
    "{many} steps, at {dear:.1f} TMACs a picture, has an FID of {worse}; {large} with {few}, at {cheap:.1f}, one of "
    "{better}."
)


class Pair(NamedTuple):
    """Two models at comparable compute, the larger second: what each is called, and its figures by seed."""

    small: str
    large: str
    of_small: list[dict]
    of_large: list[dict]

    def verdict(self, field: str) -> str:
        """Whether the larger one is ahead: `held`, `failed`, or with how many of the seeds it is."""
        return verdict(self.of_large, self.of_small, field)


def neighbours(models: dict[str, list[dict]]) -> list[tuple[str, str]]:
    """Names `SIZE/patch` that differ in one step of one thing, the larger second: first in size, then in patch."""
    sizes, patches = (list(dict.fromkeys(name.split("/")[part] for name in models)) for part in (0, 1))
    patches.sort(key=int, reverse=True)
    wider = [(f"{a}/{patch}", f"{b}/{patch}") for patch in patches for a, b in pairwise(sizes)]
    finer = [(f"{size}/{a}", f"{size}/{b}") for size in sizes for a, b in pairwise(patches)]
    return [pair for pair in (*wider, *finer) if models.keys() >= {*pair}]


def by_seed(*runs: Sequence[dict]) -> Iterator[tuple[dict, ...]]:
    """Rows of several models side by side, for the seeds that all of them have."""
    seeds = [{row["seed"]: row for row in rows} for rows in runs]
    common = set.intersection(*({*rows} for rows in seeds))
    return (tuple(rows[seed] for rows in seeds) for seed in sorted(common))


def spent(run: dict, batch_size: int) -> list[int]:
    """MACs of training after which a run was judged."""
    return [3 * run["macs"] * batch_size * figures["step"] for figures in run["curve"]]


def at(run: dict, macs: float, batch_size: int) -> dict[str, float] | None:
    """A run's figures and steps at some MACs of training, None where it was judged at more only, or at less only.

    Between two judgements they are linear in the logarithm of the MACs.
    """
    known = spent(run, batch_size)
    if not known[0] <= macs <= known[-1]:
        return None
    value = lambda field: np.interp(np.log(macs), np.log(known), [figures[field] for figures in run["curve"]]).item()
    return {LOSS: value(LOSS), DISTANCE: value(DISTANCE), "step": macs / (3 * run["macs"] * batch_size)}


def training_pairs(models: dict[str, list[dict]], batch_size: int) -> list[Pair]:
    """Neighbours at the MACs that the smaller one's training took, where the larger one was judged around there."""
    found = []
    for small, large in neighbours(models):
        rows = [
            (a["curve"][-1], at(b, spent(a, batch_size)[-1], batch_size))
            for a, b in by_seed(models[small], models[large])
        ]
        if rows and all(other for _, other in rows):
            ends, others = map(list, zip(*rows, strict=True))
            names = f"{small}, {ends[0]['step']:,} steps", f"{large}, {others[0]['step']:,.0f} steps"
            found.append(Pair(*names, ends, others))
    return found


def frontier(models: dict[str, list[dict]], batch_size: int, field: str) -> list[str]:
    """The models that have the lowest `field` so far as training compute grows, each where it takes the lead."""
    points = []
    for name, runs in models.items():
        curves = np.mean([[figures[field] for figures in run["curve"]] for run in runs], axis=0)
        points += zip(spent(runs[0], batch_size), curves, [name] * len(curves), strict=True)
    leaders, lowest = [], np.inf
    for _, value, name in sorted(points):
        if value < lowest:
            lowest = value
            leaders += [name] * (leaders[-1:] != [name])
    return leaders


def training(models: dict[str, list[dict]], batch_size: int) -> Part | None:
    """Loss and distance against training compute, where models were judged after several steps."""
    if any(len(run.get("curve", [])) < 2 for runs in models.values() for run in runs):
        return None
    pairs = training_pairs(models, batch_size)
    lines = [
        "| smaller | larger, for the same training compute | its loss, unseen | the larger's | its Fréchet | "
        "the larger's | larger ahead in the loss | in the distance |",
        "| --- " * 8 + "|",
    ]
    for pair in pairs:
        figures = [
            spelt(runs, field, form)
            for field, form in ((LOSS, ".4f"), (DISTANCE, ".1f"))
            for runs in (pair[2], pair[3])
        ]
        verdicts = pair.verdict(LOSS), pair.verdict(DISTANCE)
        lines.append(f"| {' | '.join([pair.small, pair.large, *figures, *verdicts])} |")
    leaders = {name: ", ".join(frontier(models, batch_size, field)) for name, field in FIELDS.items()}
    counts = (
        "Training compute is 3 x MACs of a forward x pictures a step x steps; a backward pass counts twice a forward, "
        "and neither the optimiser, nor the VAE, nor judging is in it. The larger one's figures are interpolated "
        "between those after its steps that were judged."
    )
    held = [f"in the {name} in {sum(p.verdict(field) == 'held' for p in pairs)}" for name, field in FIELDS.items()]
    came = (
        f"Here, at the smaller one's last step, of {len(pairs)} pairs it held {', '.join(held)}; after so few steps "
        "it may be too early."
    )
    lead = "As compute grows, the lowest loss so far is that of {loss}; the lowest distance that of {distance}."
    return Part(
        "Against training compute", plots.training(models, batch_size),
        "\n".join([*lines, "", counts, "", f"{CLAIM_OF_TRAINING} {came} {lead.format(**leaders)}"]),
    )  # fmt: skip


def sample_more(
    table: dict, steps: Sequence[int], configs: dict[str, Config], plan: Plan, judge: Judge, kept: Kept
) -> None:
    """Judge samples of each number of steps that the table lacks, model by model, and keep each as it comes."""
    rows = table.setdefault("sampling", [])
    there = {(row["model"], row["seed"], row["steps"]) for row in rows}
    for seed, (name, config) in product(plan.seeds, configs.items()):
        missing = [count for count in steps if (name, seed, count) not in there]
        model = finished(config, name, seed, plan, kept) if missing else None
        for count in missing:
            print(f"{name}, seed {seed}, samples of {count} steps", flush=True)
            rows.append({"model": name, "seed": seed, "steps": count, **judge.of_samples(model, count)})
            write_json(kept.results, table)


def sampled(table: dict, models: dict[str, list[dict]]) -> dict[str, dict[int, list[dict]]]:
    """What was judged, by model and number of steps, in rising order; `models` are the runs."""
    rows = table.get("sampling", [])
    mine = {name: [row for row in rows if row["model"] == name] for name in models}
    steps = lambda name: sorted({row["steps"] for row in mine[name]})
    return {
        name: {count: [row for row in mine[name] if row["steps"] == count] for count in steps(name)}
        for name in models
        if mine[name]
    }


def mean(rows: Sequence[dict], field: str = DISTANCE) -> float:
    """The mean of a field over the seeds."""
    return np.mean([row[field] for row in rows]).item()


def sampling_pairs(seen: dict[str, dict[int, list[dict]]], macs: dict[str, int]) -> list[tuple[Pair, Pair]]:
    """Neighbours, each model with the steps that suit it best; and the larger with what the smaller's most would pay.

    That is the most of its steps that cost no more; where not even its fewest do, there is no such pair.
    """
    found = []
    best = {name: min(by_steps, key=lambda steps: mean(by_steps[steps])) for name, by_steps in seen.items()}
    for small, large in neighbours(seen):
        paid = [steps for steps in seen[large] if steps * macs[large] <= max(seen[small]) * macs[small]]
        own, sides = seen[small][best[small]], []
        for steps in (best[large], max(paid)) if paid else ():
            if rows := list(by_seed(own, seen[large][steps])):
                names = f"{small}, {best[small]} steps", f"{large}, {steps} steps"
                sides.append(Pair(*names, *map(list, zip(*rows, strict=True))))
        found += [tuple(sides)] * (len(sides) == 2)
    return found


def sampling(table: dict, models: dict[str, list[dict]]) -> Part | None:
    """Distance against sampling compute, where samples of several numbers of steps were judged."""
    if not (seen := sampled(table, models)):
        return None
    macs = {name: runs[0]["macs"] for name, runs in models.items()}
    pairs = sampling_pairs(seen, macs)
    ahead = [sum(pair.verdict(DISTANCE) == "held" for pair in side) for side in zip(*pairs, strict=True)] or [0, 0]
    about = (
        "Sampling compute is MACs of a forward x steps, a forward a step; the sampler is DDIM, the paper's is "
        "ancestral. The best is of the numbers of steps tried; no more compute means as many steps as cost no more "
        "than the smaller one's most."
    )
    came = (
        f"Here, of {len(pairs)} pairs the larger one's best is ahead of the smaller one's in {ahead[0]}; for no more "
        f"compute than the smaller one's most it is ahead of the smaller one's best in {ahead[1]}."
    )
    return Part(
        "Against sampling compute", plots.sampling(seen, macs),
        "\n".join([*steps_table(seen, macs), "", *pairs_table(pairs), "", about, "", f"{claim_of_sampling()} {came}"]),
    )  # fmt: skip


def steps_table(seen: dict[str, dict[int, list[dict]]], macs: dict[str, int]) -> list[str]:
    """A row a model, a column a number of steps."""
    counts = sorted({steps for by_steps in seen.values() for steps in by_steps})
    lines = [f"| model | MMACs a step | {' | '.join(f'Fréchet, {steps} steps' for steps in counts)} |"]
    lines.append("| --- " * (2 + len(counts)) + "|")
    for name, by_steps in seen.items():
        judged = (spelt(by_steps[steps], DISTANCE, ".1f") if steps in by_steps else "–" for steps in counts)
        lines.append(f"| {name} | {macs[name] / 1e6:.2f} | {' | '.join(judged)} |")
    return lines


def pairs_table(pairs: list[tuple[Pair, Pair]]) -> list[str]:
    """A row a pair of neighbours."""
    lines = [
        "| smaller, at its best | Fréchet | larger, at its best | Fréchet | ahead | larger, for no more compute | "
        "Fréchet | ahead |",
        "| --- " * 8 + "|",
    ]
    for pair in pairs:
        sides = [(side.large, spelt(side.of_large, DISTANCE, ".1f"), side.verdict(DISTANCE)) for side in pair]
        small = pair[0].small, spelt(pair[0].of_small, DISTANCE, ".1f")
        lines.append(f"| {' | '.join([*small, *sides[0], *sides[1]])} |")
    return lines


def claim_of_sampling() -> str:
    """The paper's claim with its example."""
    ((small, many), worse), ((large, few), better) = DIT_SAMPLING.items()
    dear, cheap = (DIT[name].gmacs * steps / 1e3 for name, steps in ((small, many), (large, few)))
    return CLAIM_OF_SAMPLING.format(
        small=small, many=many, dear=dear, worse=worse, large=large, few=few, cheap=cheap, better=better
    )
