"""How cost grows with tokens, width, depth, batch and steps: time, work and memory at doubling sizes, all else alike.

Through the points of an axis goes a power law; its exponent stands beside theory's. For time that is the exponent of
the multiply-accumulates counted at the same points: of tokens between 1 (products with weights) and 2 (attention's
maps). Memory is counted, not measured: for a forward, what it keeps for the backward pass, whose fused attention keeps
no map; for steps, what is kept of the trajectory.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from matplotlib.ticker import LogLocator, NullLocator
from torch.autograd.graph import saved_tensors_hooks

from dit_lab.commands.bench.report import keep, spelt
from dit_lab.commands.bench.timing import race, stirred
from dit_lab.diffusion import generate
from dit_lab.files import atomic
from dit_lab.inside import record
from dit_lab.inside.plots import BLUE, ORANGE, panels
from dit_lab.models import build, count

BASE = dict(tokens=256, width=256, depth=4, batch=1)
HEAD = 64  # features of a head, at every width
AXES = {
    "tokens": (64, 256, 1024, 4096),
    "width": (128, 256, 512, 1024),
    "depth": (2, 4, 8, 16),
    "batch": (1, 2, 4, 8, 16),
    "steps": (2, 4, 8, 16),
}
PATCH = 2


@dataclass(frozen=True)
class Point:
    """One size along an axis: seconds (median and quartiles), multiply-accumulates, and bytes kept."""

    axis: str
    at: int
    seconds: float
    low: float
    high: float
    macs: int
    kept: int


def bench_growth(rounds: int, place, about: dict, out: Path | None) -> None:
    """Measure every axis, and print its points and exponents; `out` keeps them, a page and a figure."""
    points = [point for axis, sizes in AXES.items() for point in grown(axis, sizes, rounds, place)]
    print(told(points))
    if out is not None:
        keep(out, "growth", about, points, page)
        with atomic(out / "bench-growth.png") as partial:
            drawn(points).savefig(partial, format="png", dpi=110)


def grown(axis: str, sizes: tuple[int, ...], rounds: int, place) -> list[Point]:
    """The points of one axis, timed in turns."""
    works = {at: sampling(at, place) if axis == "steps" else forward(BASE | {axis: at}, place) for at in sizes}
    times = race({at: call for at, (call, _, _) in works.items()}, rounds, place)
    return [Point(axis, at, *times[at], macs, kept) for at, (_, macs, kept) in works.items()]


def model_of(tokens: int, width: int, depth: int):
    """A DiT with random weights of so many tokens of 4-channel latents."""
    side = PATCH * math.isqrt(tokens)
    return stirred(build(f"DiT-nano/{PATCH}", input_size=side, dim=width, depth=depth, heads=width // HEAD)).eval()


def forward(shape: dict, place) -> tuple[Callable, int, int]:
    """A forward in fp32: the call, its multiply-accumulates, and the bytes that it keeps for a backward pass."""
    batch = shape["batch"]
    model = model_of(shape["tokens"], shape["width"], shape["depth"]).to(place)
    x = torch.randn(batch, model.config.in_channels, *model.config.size, device=place)
    t, y = torch.full((batch,), 500, device=place), torch.zeros(batch, dtype=torch.long, device=place)
    return partial(torch.no_grad()(model), x, t, y), batch * count(model).macs, kept_for_backward(model, x, t, y)


def sampling(steps: int, place) -> tuple[Callable, int, int]:
    """DDIM in so many steps, without guidance: the call, its multiply-accumulates, and the trajectory's bytes."""
    model = model_of(**{name: BASE[name] for name in ("tokens", "width", "depth")}).to(place)
    run = record(model, [0], steps=steps)
    kept = sum(tensor.nbytes for tensor in vars(run).values() if torch.is_tensor(tensor))
    return partial(generate, model, [0], steps=steps), steps * count(model).macs, kept


def kept_for_backward(model, *inputs) -> int:
    """Bytes that autograd keeps of a forward, each once, the model's own weights and tables left out."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    held = {}

    def keep_it(tensor):
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that no address comes twice
        return tensor

    with saved_tensors_hooks(keep_it, lambda tensor: tensor):
        output = model(*inputs)  # it, too, is kept until all is counted
    kept = sum(size for address, (size, _) in held.items() if address not in own)
    del output
    return kept


def exponent(sizes: list[int], values: list[float]) -> float:
    """The power of size that values grow with: the slope of a line through their logarithms, by least squares."""
    x, y = (torch.tensor(list(map(math.log, numbers)), dtype=torch.float64) for numbers in (sizes, values))
    return float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())


def exponents(points: list[Point]) -> dict[str, dict[str, float]]:
    """Of each axis the exponents of `seconds`, `macs` and `kept`."""
    axes = dict.fromkeys(point.axis for point in points)
    mine = {axis: [point for point in points if point.axis == axis] for axis in axes}
    fit = lambda of, field: exponent([point.at for point in of], [getattr(point, field) for point in of])
    return {axis: {field: fit(of, field) for field in ("seconds", "macs", "kept")} for axis, of in mine.items()}


def told(points: list[Point]) -> str:
    """The points as lines, and under each axis its exponents."""
    lines = [f"{'':12}{'':>8}{'time':>12}{'MACs':>12}{'kept':>12}"]
    for axis, fitted in exponents(points).items():
        for point in points:
            if point.axis == axis:
                kept = f"{point.kept / 2**20:.2f} MiB"
                lines.append(f"{axis:12}{point.at:>8}{spelt(point.seconds):>12}{point.macs / 1e9:>10.2f} G{kept:>12}")
        lines.append(f"{'':12}{'grows as':>8}" + "".join(f"{f'{axis}^{power:.2f}':>12}" for power in fitted.values()))
    return "\n".join(lines)


def page(name: str, about: dict, points: list[Point]) -> str:
    """The page: what grew how, and all points."""
    head = [
        "# How cost grows", "", *(f"- {what}: {value}" for what, value in about.items()), "",
        f"A DiT with patches of {PATCH} and heads of {HEAD} features, in fp32, with "
        + ", ".join(f"{what} {value}" for what, value in BASE.items())
        + " where nothing else is said. Steps are DDIM's, without guidance. Time is the median of turns taken one after"
        " the other; kept is what a forward keeps for the backward pass, at steps what the trajectory holds.", "",
        "![time and memory against size](bench-growth.png)", "",
        "| axis | sizes | time grows as | MACs grow as | kept grows as |", "| --- | --- | ---: | ---: | ---: |",
    ]  # fmt: skip
    for axis, fitted in exponents(points).items():
        sizes = ", ".join(str(point.at) for point in points if point.axis == axis)
        head.append(f"| {axis} | {sizes} | " + " | ".join(f"{axis}^{power:.2f}" for power in fitted.values()) + " |")
    head += ["", "| axis | size | time | spread | MACs | kept |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for point in points:
        spread = (point.high - point.low) / point.seconds
        head.append(
            f"| {point.axis} | {point.at} | {spelt(point.seconds)} | {spread:.0%} | {point.macs / 1e9:.2f} G "
            f"| {point.kept / 2**20:.2f} MiB |"
        )
    return "\n".join([*head, ""])


def drawn(points: list[Point]):
    """Time above, memory below, a column an axis: dots measured, dashed how theory comes to the last."""
    fitted = exponents(points)
    figure, axes = panels(2, len(fitted), 2.2, grid=False)
    units = {"seconds": (1.0, "time in seconds"), "kept": (2**20, "kept, in MiB")}
    for column, (name, powers) in enumerate(fitted.items()):
        mine = [point for point in points if point.axis == name]
        sizes = [point.at for point in mine]
        for axis, (field, (unit, label)) in zip(axes[:, column], units.items(), strict=True):
            values = [getattr(point, field) / unit for point in mine]
            work = [point.macs / mine[0].macs if field == "seconds" else point.at / mine[0].at for point in mine]
            axis.plot(sizes, [values[-1] * each / work[-1] for each in work], "--", color=ORANGE, linewidth=1.2)
            axis.plot(sizes, values, "o-", color=BLUE, markersize=4, linewidth=1)
            axis.set(
                xscale="log", yscale="log", xlabel=f"{name} (log scale)", title=f"grows as {name}^{powers[field]:.2f}"
            )
            axis.set_xticks(sizes, list(map(str, sizes)), minor=False)
            axis.set_xticks([], minor=True)
            # Plain numbers at 1, 2, 5: within little more than a decade powers of ten say little.
            axis.yaxis.set(
                major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}", minor_locator=NullLocator()
            )
            axis.grid(alpha=0.3)
            if column == 0:
                axis.set(ylabel=f"{label} (log scale)")
    figure.suptitle("Blue: measured. Orange: as theory has it to the last, as the MACs (above), in proportion (below)")
    return figure
