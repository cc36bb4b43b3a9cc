"""How far few steps are from many with other guidance than their timesteps were searched with: the error of x0."""

from itertools import product

from dit_lab.checkpoints import load
from dit_lab.diffusion import generate
from dit_lab.diffusion.searching import NOISES, REFERENCE, SEED, rms
from dit_lab.experiments.ways import Way
from dit_lab.models import fast

SCALES = 1.0, 2.0, 4.0
MANY = 10  # steps, from which on none are searched for a quality
PLAIN = Way("unipc", 6), Way("unipc", 10), Way("dpmpp", 14), Way("ddim", 50)


def errors(name: str, table: dict, device) -> list[dict]:
    """Of each way and scale that the table lacks: its error over the root mean square of what many steps draw.

    The noises are others than the search's.
    """
    found = [row for row in table["searched"] if row["model"] == name and row["sampler"] == "unipc"]
    ways = {Way("unipc", row["steps"], searched=True): row["timesteps"] for row in found if row["steps"] < MANY}
    ways |= {way: way.steps for way in PLAIN}
    there = {(row["way"], row["cfg_scale"]) for row in table.get("errors", []) if row["model"] == name}
    missing = [(scale, way) for scale, way in product(SCALES, ways) if (str(way), scale) not in there]
    if not missing:
        return []
    model, taken, goals = fast(load(name, device=device).model, precision=table["settings"]["precision"]), [], {}
    labels = [number % model.config.num_classes for number in range(NOISES)]
    for scale, way in missing:
        draw = lambda sampler, walk, scale=scale: generate(
            model, labels, sampler=sampler, steps=walk, seed=SEED + 1, cfg_scale=scale
        )
        if scale not in goals:
            goals[scale] = draw("unipc", REFERENCE)
        error = rms(draw(way.sampler, ways[way]) - goals[scale]) / rms(goals[scale])
        taken.append(dict(model=name, way=str(way), cfg_scale=scale, error=error))
    return taken


def rows(name: str, table: dict) -> list[str]:
    """A table of a model's errors, a column a scale; nothing where none were taken."""
    mine = [row for row in table.get("errors", []) if row["model"] == name]
    if not mine:
        return []
    scales = sorted({row["cfg_scale"] for row in mine})
    lines = [f"| way | {' | '.join(f'guidance {scale:g}' for scale in scales)} |", f"|{' --- |' * (len(scales) + 1)}"]
    for way in dict.fromkeys(row["way"] for row in mine):
        by = {row["cfg_scale"]: row["error"] for row in mine if row["way"] == way}
        lines.append(f"| {way} | {' | '.join(f'{by[scale]:.3f}' if scale in by else '–' for scale in scales)} |")
    told = (
        f"Errors of {name} with other guidance than the search's too: from {NOISES} noises that it had not seen, "
        f"against {REFERENCE} steps of UniPC, over the root mean square of what these draw."
    )
    return [told, "", *lines, ""]
