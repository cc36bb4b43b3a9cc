"""What is seen of a network while it trains: its loss, samples from one noise, its gates, and where a patch looks.

Whoever trains calls `note` after each step and goes through `looking` where a look is `due`; `state` is all of it as
plain JSON, for the panel. Looks are at the averaged weights, with the same noise and pictures in every run.
"""

import secrets
from collections.abc import Callable, Iterator
from statistics import median
from time import perf_counter

import torch
from einops import reduce

from dit_lab.data import Pixels
from dit_lab.diffusion import process_of, sample
from dit_lab.inside import token_at, token_under, watch
from dit_lab.panels.packing import atlas, pack

LOOKS = 30  # evenly over a run, after the first steps, in which the gates open
FIRST = 0, 1, 2, 3, 5, 8, 13, 20
POINTS = 240  # of the loss curve that a state carries
SMOOTH = 20  # steps that the smooth curve looks back
RECENT = 30  # steps whose middle says how long the rest takes
MOST_SAMPLES = 10
FOCUS = 3  # the class whose picture the map is of
SAMPLING = dict(sampler="dpmpp", steps=8)
CFG_SCALE = 2.0
GAUGES = {
    "gate": ("Gates", "root mean square of a block's gates over ten digits, half noise: 0 at birth, when each block "
             "passes its tokens on unchanged"),
    "change": ("What a block adds", "root mean square of what a block adds to its tokens, divided by that of what came "
               "in; 0 is a block that does nothing"),
}  # fmt: skip


def look_steps(steps: int) -> list[int]:
    """After which steps a run of so many is looked at: close together at first, then evenly, and at its end."""
    even = (round(steps * number / LOOKS) for number in range(1, LOOKS + 1))
    return sorted({step for step in (*FIRST, *even) if step <= steps})


class Watching:
    """A run of `steps` steps, seen through `model`, whose weights are to be the average of those that are trained.

    `images` are what it trains on, `codec` decodes its samples (None: they are pictures), `settings` are words by
    name, `read(x: b c h w)` gives the label that each sample looks like.
    """

    def __init__(self, model, images, steps: int, *, name="", settings=None, codec=None, read: Callable | None = None):
        self.model, self.images, self.steps, self.name = model, images, steps, name
        self.settings, self.codec, self.read = dict(settings or {}), codec or Pixels(), read
        self.id, self.when = secrets.token_hex(4), look_steps(steps)
        self.step, self.spent, self.losses, self.smooth, self.seconds = 0, 0.0, [], [], []
        self.looked, self.gauges, self.look, self.look_seconds = [], {}, None, 0.0
        classes = min(MOST_SAMPLES, len(images.names))
        self.labels = list(range(classes)) or [0] * MOST_SAMPLES
        self.focus = min(FOCUS, len(self.labels) - 1)
        self.seen, self.time = self.half_noise()

    def half_noise(self) -> tuple[torch.Tensor, torch.Tensor]:
        """A picture of each class under as much noise as there is picture left: `-> x_t: b c h w, t: b`."""
        process = process_of(self.model.config)
        even = lambda i: abs(process.levels(i)[0] - process.levels(i)[1])
        level = min(range(len(process.timesteps)), key=even)
        first = [int((self.images.labels == label).argmax()) for label in self.labels]
        x0, _ = self.images.batch(first if self.images.names else range(len(self.labels)))
        i = torch.full((len(x0),), level)
        eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
        return process.noised(x0, i, eps), process.model_time(i)

    def note(self, step: int, loss: float, seconds: float) -> None:
        """A training step is done, and took so long."""
        self.step, self.spent = step, self.spent + seconds
        self.seconds = [*self.seconds, seconds][-RECENT:]
        decay = min(1 - 1 / SMOOTH, len(self.losses) / (len(self.losses) + 1))  # at first the mean of all
        self.losses.append(loss)
        self.smooth.append(loss if not self.smooth else decay * self.smooth[-1] + (1 - decay) * loss)

    def due(self) -> bool:
        """Whether the model is to be looked at now."""
        return self.step in self.when and (not self.looked or self.looked[-1] < self.step)

    def looking(self) -> Iterator[None]:
        """Look at the model as it is, in short parts, a step of sampling each; at the end the look is there."""
        config, began, spent = self.model.config, perf_counter(), 0.0
        guided = CFG_SCALE if config.num_classes and config.null_label else 1.0
        for step in sample(self.model, self.labels, seed=0, cfg_scale=guided, **SAMPLING):
            pictures, spent = step.previous.cpu(), spent + perf_counter() - began
            yield
            began = perf_counter()
        gauges, maps = self.numbers()
        for key, values in gauges.items():
            self.gauges.setdefault(key, []).append([short(value) for value in values])
        self.looked.append(self.step)
        self.look = {
            "number": len(self.looked), "step": self.step, "samples": atlas(self.codec.decode(pictures)),
            "maps": [pack(rows) for rows in maps],
            "read": [int(label) for label in self.read(pictures)] if self.read else None,
        }  # fmt: skip
        self.look_seconds = spent + perf_counter() - began
        self.spent += self.look_seconds

    @torch.no_grad()
    def numbers(self) -> tuple[dict[str, list[float]], list[torch.Tensor]]:
        """One forward on the half-noise pictures: the gauges of each block, and a patch's row of each: `head j`."""
        like, added = next(self.model.parameters()), []
        y = torch.tensor(self.labels, device=like.device)
        note = lambda block, given, output: added.append((rms(output - given[0]) / rms(given[0])).item())
        hooks = [block.register_forward_hook(note) for block in self.model.blocks]
        try:
            with watch(self.model, features=False) as seen:
                self.model(self.seen.to(like), self.time.to(like.device), y)
        finally:
            for each in hooks:
                each.remove()
        gauges = {"change": added}
        gates = {part: of for part, of in seen.modulation.items() if part.startswith("gate")}
        if gates:
            of = [torch.stack([blocks[number] for blocks in gates.values()]) for number in range(len(added))]
            gauges = {"gate": [rms(each).item() for each in of]} | gauges
        rows = [seen.attention(number, queries=[self.query(number)]) for number in range(len(added))]
        return gauges, [row[self.focus, :, 0].cpu() for row in rows]

    def query(self, block: int) -> int:
        """The token of a block's grid that the map is of: the one in the middle of the picture."""
        config = self.model.config
        (h, w), patch = config.size, config.stages[0].patch
        middle = token_at(h / 2, w / 2, config.grid, patch)
        return token_under(middle, config.grid, patch, config.grid_of(block), config.stage_of(block).patch)

    def left(self) -> float | None:
        """Seconds of computing that the rest takes; None before the first step."""
        if not self.seconds:
            return None
        looks = sum(step > self.step for step in self.when)
        return (self.steps - self.step) * median(self.seconds) + looks * self.look_seconds

    def state(self, status: str = "running", told: str = "") -> dict:
        """All that the panel shows, as JSON: the curves so far, and the newest look with its number.

        The panel keeps the looks that it is given; a state that is lost costs one frame of them. `status` is running,
        done, stopped or failed, `told` a sentence on it.
        """
        stride = max(1, -(-len(self.losses) // POINTS))
        kept = [*range(stride - 1, len(self.losses), stride)]
        left = self.left() if status == "running" else 0.0
        return {
            "run": self.id, "name": self.name, "settings": self.settings, "state": status, "told": told,
            "step": self.step, "steps": self.steps, "seconds": round(self.spent, 2),
            "left": None if left is None else round(left, 1),
            "perStep": short(median(self.seconds)) if self.seconds else None,
            "loss": {
                "step": [place + 1 for place in kept], "raw": [short(self.losses[place]) for place in kept],
                "smooth": [short(self.smooth[place]) for place in kept],
            },
            "looked": list(self.looked),
            "gauges": [
                {"key": key, "title": GAUGES[key][0], "told": GAUGES[key][1], "values": list(self.gauges[key])}
                for key in GAUGES if key in self.gauges
            ],
            "look": self.look, "fixed": self.fixed(),
        }  # fmt: skip

    def fixed(self) -> dict:
        """What does not change: the picture whose map is drawn, the blocks' grids, and what things are called."""
        config, names = self.model.config, self.images.names or [""] * len(self.labels)
        return {
            "picture": atlas(Pixels().decode(self.seen[self.focus :][:1])), "focus": names[self.focus],
            "names": [names[label] for label in self.labels], "heads": config.heads, "blocks": config.block_names,
            "grids": [list(config.grid_of(block)) for block in range(config.depth)],
            "queries": [self.query(block) for block in range(config.depth)],
        }  # fmt: skip


def recorded(states: list[dict]) -> list[dict]:
    """Of the states of runs the last of each, with all the looks that were in them: what a saved page replays."""
    runs = {}
    for state in states:
        looks = runs.get(state["run"], {"looks": {}})["looks"]
        if state["look"]:
            looks[state["look"]["number"]] = state["look"]
        runs[state["run"]] = state | {"looks": looks}
    return [state | {"looks": list(state["looks"].values())} for state in runs.values()]


def rms(x: torch.Tensor) -> torch.Tensor:
    """The root of the mean square of all numbers."""
    return reduce(x.float().square(), "... -> ", "mean").sqrt()


def short(value: float) -> float:
    """A number of four digits that count, for a curve."""
    return float(f"{value:.4g}")
