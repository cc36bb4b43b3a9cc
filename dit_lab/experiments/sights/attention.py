"""Attention: who looks where, in which head, and what becomes of it over a run."""

from functools import partial

import torch
from einops import rearrange, reduce

from dit_lab.experiments.sights.base import LATE, Sight, Zoo, brightest, middle, places, said_step, shuffled
from dit_lab.inside import (
    Trajectory,
    attended_by,
    attention_numbers,
    head_similarity,
    received,
    step_similarity,
    trajectory_rollout,
)
from dit_lab.inside.plots import (
    attended_by_overlay,
    attention_numbers_map,
    attention_overlay,
    received_overlay,
    rollout_overlay,
    similarity_map,
)

NEIGHBOURS = {"left of": (0, -1), "above": (-1, 0), "right of": (0, 1), "below": (1, 0)}
LOOKING = 2  # the block of `mnist` whose heads look at neighbours


def maps_of(zoo: Zoo, name: str, step: int) -> torch.Tensor:
    """All maps of a 7 at a step, the image's queries alone: `-> block head i j`."""
    run, model = zoo.run(name, 7), zoo.model(name)
    maps = torch.stack([run.attention(model, step, block=block) for block in range(model.config.depth)])
    return maps[:, :, : len(places(run))]


def to_neighbours(maps: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """What the patches that have it give to each of their four neighbours, the mean: `-> neighbour block head`."""
    steps = rearrange(where, "n two -> 1 n two") - rearrange(where, "n two -> n 1 two")  # from i to j
    shares = []
    for step in NEIGHBOURS.values():
        there = (steps == torch.tensor(step)).all(-1)
        shares.append(maps[..., : len(where)][..., there].mean(-1))
    return torch.stack(shares)


def four_neighbours(zoo: Zoo) -> Sight:
    """Four heads that look at the four neighbours."""
    run, model, step = zoo.run("mnist", 7), zoo.model("mnist"), zoo.at(LATE)
    given = to_neighbours(maps_of(zoo, "mnist", step), places(run))
    most, which = given.max(0)
    said = [
        f"{share:.0%} to the patch {list(NEIGHBOURS)[place]} it (head {head})"
        for head, (share, place) in enumerate(zip(most[LOOKING].tolist(), which[LOOKING].tolist(), strict=True))
    ]
    patch, even = middle(run), 1 / len(places(run))
    found = attended_by(run, model, step, patch)
    bright = [beside(run, patch, int(column.argmax())) for column in found[LOOKING]]
    return Sight(
        "Heads that look at a neighbour",
        f"`mnist`, a 7, {said_step(run, step)}",
        partial(attended_by_overlay, run.sample[0], found, patch, run.grid),
        "Maps of who attends to the patch in the middle of a 7, blocks in rows and heads in columns",
        f"In block {LOOKING} a patch gives on average {', '.join(said)}; the brightest patches in that block's maps "
        f"are those {', '.join(bright)} the outlined one.",
        f"In the next block no head gives more than {most[LOOKING + 1].max():.0%} to any of the four; an even head "
        f"gives {even:.0%}.",
    )


def beside(run: Trajectory, patch: int, other: int) -> str:
    """Where one patch lies from another: beside it, or elsewhere."""
    step = tuple((places(run)[other] - places(run)[patch]).tolist())
    return next((name for name, there in NEIGHBOURS.items() if there == step), "not beside")


def on_the_condition(zoo: Zoo) -> Sight:
    """Patches that look at the condition's tokens, late."""
    name, late = "mnist_in_context", zoo.at(0.9)
    run, model = zoo.run(name, 7), zoo.model(name)
    block, patch = model.config.depth - 1, middle(run)
    tokens = len(places(run))
    on = [maps_of(zoo, name, step)[block, :, :, tokens:].sum(-1).mean(-1) for step in (late, 0)]
    said = [", ".join(f"{share:.0%}" for share in shares) for shares in on]
    return Sight(
        "Patches that look at the condition",
        f"`{name}`, a 7, block {block}, {said_step(run, late)}",
        partial(
            attention_overlay, run.sample[0], run.attention(model, late, block=block, queries=[patch])[:, 0], patch,
            run.grid,
        ),
        "Where one patch looks, a panel a head, with the share that goes to the condition's tokens",
        f"Here time and label are two tokens among {tokens + 2}. At this step the patches give them {said[0]} of their "
        "attention on average, head by head; the shares of the outlined one stand above its maps.",
        f"At the first step it is {said[1]}; an even head gives {2 / (tokens + 2):.0%}.",
    )  # fmt: skip


def sinks(zoo: Zoo) -> Sight:
    """Which tokens receive much."""
    run, model, step = zoo.run("mnist", 7), zoo.model("mnist"), zoo.at(LATE)
    found, before = (received(run, each, step) for each in (model, zoo.untrained("mnist")))
    tokens = found.shape[-1]
    block, head, token = (int(each) for each in torch.unravel_index(found.argmax(), found.shape))
    row, column = divmod(token, run.grid[1])
    among = "one" if brightest(run)[token] else "not one"
    return Sight(
        "Where attention gathers",
        f"`mnist`, a 7, {said_step(run, step)}",
        partial(received_overlay, run.sample[0], found, run.grid),
        "Maps of what attention each patch receives, blocks in rows and heads in columns",
        f"The most that a patch receives is {found.max() * tokens:.1f} times its even share: patch {token} (row {row}, "
        f"column {column}) in head {head} of block {block}, {among} of the brightest quarter.",
        f"In the same model before training it is {before.max() * tokens:.1f} times.",
    )


def rolled_out(zoo: Zoo) -> Sight:
    """What reaches patches through all blocks."""
    run, model, step = zoo.run("mnist", 7), zoo.model("mnist"), zoo.at(LATE)
    found, before = (trajectory_rollout(run, each, step) for each in (model, zoo.untrained("mnist")))
    far = torch.cdist(places(run).float(), places(run).float())
    around = (far > 0) & (far < 1.5)
    near = lambda rolled: (rolled * around).sum(1).mean()
    sharp = to_neighbours(maps_of(zoo, "mnist", step), places(run)).max()
    rows, columns = run.grid
    return Sight(
        "What reaches a patch through all blocks",
        f"`mnist`, a 7, {said_step(run, step)}",
        partial(rollout_overlay, run.sample[0], found, [columns + 1, middle(run), rows * columns - 2], run.grid),
        "Maps of what reaches three patches through all blocks, and of the mean over all",
        f"A patch has {near(found):.0%} of its rollout from the eight around it, the mean over all patches; single "
        f"heads, over which rollout averages, give up to {sharp:.0%} to one neighbour.",
        f"In the same model before training it has {near(before):.0%} from them.",
    )


def reach_of_heads(zoo: Zoo) -> Sight:
    """Spread and distance of every head over a run."""
    run, step = zoo.run("mnist", 7), zoo.steps - 1
    found = attention_numbers(run, zoo.model("mnist"))
    before = attention_numbers(run, zoo.untrained("mnist"), steps=[step])
    far = found.distance[..., step].mean(1)
    block = int(far.argmin())
    return Sight(
        "How far heads look",
        "`mnist`, a 7",
        partial(attention_numbers_map, found),
        "Heat maps of spread, distance and share on the token itself, heads in rows and timesteps in columns",
        f"At the last step the heads of block {block} look {far[block]:.1f} patches far, the mean over its heads, the "
        f"other blocks' {min(far[each] for each in range(len(far)) if each != block):.1f} to {far.max():.1f}; at the "
        f"first step block {block}'s look {found.distance[block, :, 0].mean():.1f} far.",
        f"Before training the blocks look {before.distance.mean(1).min():.1f} to {before.distance.mean(1).max():.1f} "
        "patches far.",
    )


def label_and_time(zoo: Zoo) -> Sight:
    """Cross-attention between the label's and the time's token."""
    name = "mnist_cross_attention"
    run = zoo.run(name, 7)
    found = attention_numbers(run, zoo.model(name), kind="cross")
    before = attention_numbers(run, zoo.untrained(name), kind="cross", steps=[0, zoo.steps - 1])
    mean = lambda numbers: reduce(numbers.label, "block head step -> step", "mean")
    return Sight(
        "Label or time?",
        f"`{name}`, a 7",
        partial(attention_numbers_map, found),
        "Heat maps of cross-attention's spread and of its shares on the time and on the label token",
        f"The patches give {mean(found)[0]:.0%} of their cross-attention to the label at the first step and "
        f"{mean(found)[-1]:.0%} at the last, the mean over all heads; what is left goes to the time.",
        f"Before training it is {mean(before)[0]:.0%} and {mean(before)[-1]:.0%}.",
    )


def heads_alike(zoo: Zoo) -> Sight:
    """Heads that do the same."""
    run, model, step = zoo.run("mnist", 7), zoo.model("mnist"), zoo.at(LATE)
    found, heads = head_similarity(run, model, step), model.config.heads
    block_of = torch.arange(len(found)) // heads
    pairs = (rearrange(block_of, "i -> i 1") < block_of).nonzero()
    cosines = found[pairs[:, 0], pairs[:, 1]]
    one, two = pairs[cosines.argmax()].tolist()
    maps = rearrange(maps_of(zoo, "mnist", step), "block head i j -> (block head) i j")
    order = shuffled(maps.shape[-1])
    mixed = torch.cosine_similarity(maps[one].flatten(), maps[two][order][:, order].flatten(), dim=0)
    said = lambda number: f"head {number % heads} of block {number // heads}"
    return Sight(
        "Heads that do the same",
        f"`mnist`, a 7, {said_step(run, step)}",
        partial(similarity_map, found, heads=heads, what=f"step {step}"),
        "A square of how alike the maps of all heads are, white lines between blocks",
        f"Of all heads of different blocks {said(one)} and {said(two)} are most alike: their maps have a cosine of "
        f"{cosines.max():.2f}.",
        f"The median of such pairs is {cosines.median():.2f}, and with the patches of one of the two in random order "
        f"it is {mixed:.2f}.",
    )


def head_over_time(zoo: Zoo) -> Sight:
    """A head that changes over a run."""
    run, model = zoo.run("mnist", 7), zoo.model("mnist")
    everyone = [(block, head) for block in range(model.config.depth) for head in range(model.config.heads)]
    found = {each: step_similarity(run, model, *each) for each in everyone}
    ends = {each: cosines[0, -1].item() for each, cosines in found.items()}
    least, most = min(ends, key=ends.get), max(ends, key=ends.get)
    said = lambda each: f"head {each[1]} of block {each[0]}"
    return Sight(
        "A head that changes",
        "`mnist`, a 7",
        partial(similarity_map, found[least], t=run.t, what=f"block {least[0]}, head {least[1]}"),
        "A square of how alike one head's maps are at all pairs of steps",
        f"Of all heads {said(least)} changes most: between the first and the last step its maps have a cosine of "
        f"{ends[least]:.2f}.",
        f"{said(most).capitalize()} changes least, with {ends[most]:.2f}.",
    )


ATTENTION = (
    four_neighbours, on_the_condition, sinks, rolled_out, reach_of_heads, label_and_time, heads_alike, head_over_time,
)  # fmt: skip
