"""What any such edit does: the same kind and size of edit at a random other place, and how far each moves the picture.

Switching off one head moves a picture; whether it moves it more than another head would is what an effect says.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from random import Random

import torch
from einops import reduce
from torch import nn

from dit_lab.diffusion.whole import whole
from dit_lab.inside.editing import Edit, check_edits
from dit_lab.inside.edits import Channels, Label
from dit_lab.inside.geometry import Box
from dit_lab.inside.rerun import rerunning, to_end
from dit_lab.inside.run import CONDITION_TOKENS, region_mask
from dit_lab.inside.trace import TraceError, place
from dit_lab.inside.trajectory import Trajectory
from dit_lab.inside.walking import relayed
from dit_lab.models import BLOCKS, Block
from dit_lab.program import quoted

TRIES = 50  # draws for each control that is asked for, and for a shift, where there are few places


@dataclass(frozen=True, eq=False)
class Effect:
    """How far an edit moved a run, and how far its controls did, in root mean squares over samples and pixels.

    `picture` is the distance of the final sample from the untouched run's, `picture_controls: control`; `x0: step` and
    `x0_controls: control step` those of each step's x0. `rank` counts from 1, the edit that moved the picture furthest.
    """

    edit: Edit
    controls: list[Edit]
    picture: float
    picture_controls: torch.Tensor
    x0: torch.Tensor
    x0_controls: torch.Tensor
    rank: int


def effect(
    trajectory: Trajectory, model, edit: Edit, controls: int = 8, *, steps=None,
    region: torch.Tensor | Box | None = None,
) -> Effect:  # fmt: skip
    """Walk a run again with an edit, and with each of its controls, at the same `steps` (None: all).

    Controls are drawn with the seeds 0, 1 ... until there are as many different ones: on the edit's own stage, where
    that has too few places on others too, and fewer where there are no more. A `region`, a mask `h w` or a Box of input
    pixels, measures what happens within alone. Costs the sampling once for the edit and once a control. Raises
    TraceError as `rerun` and `control` do.
    """
    if not whole(controls) or controls < 1:
        raise TraceError(f"controls must be a whole number of at least 1, not {quoted(controls)}")
    edits = [edit, *controls_of(trajectory, model, edit, controls)]
    walking = effects(trajectory, model, edits, steps=steps, region=region)
    return to_end(walking, "edit and controls", len(edits), lambda step: step[2] is not None)


def effects(
    trajectory: Trajectory, model, edits: list[Edit], *, steps=None, region: torch.Tensor | Box | None = None
) -> Generator[tuple[int, int, dict | None], None, Effect]:
    """The `effect` of the first of some edits beside the others, its controls, step by step.

    Yields the number of the edit, that of the step that was taken, and None, once more after a walk's last step with
    what `rerun` gives; returns the Effect. Raises TraceError at once.
    """
    check_edits(model, edits, trajectory)
    mask = region_mask(region, tuple(trajectory.x.shape[-2:]))
    return measured(trajectory, edits, [rerunning(trajectory, model, each, steps=steps) for each in edits], mask)


def measured(trajectory: Trajectory, edits, walks, mask) -> Generator[tuple[int, int, dict | None], None, Effect]:
    """What `effects` gives, all arguments checked; `walks` are the reruns that have not begun."""
    distances = []
    for number, walk in enumerate(walks):
        walked = yield from relayed(walk, partial(step_of, number))
        told = [(walked[name] - getattr(trajectory, name))[..., mask] for name in ("sample", "x0")]
        distances.append((told[0].square().mean().sqrt(), reduce(told[1] ** 2, "step b c p -> step", "mean").sqrt()))
        yield number, len(trajectory.t) - 1, walked
    pictures, x0 = map(torch.stack, zip(*distances, strict=True))
    rank = 1 + (pictures[1:] >= pictures[0]).sum().item()
    return Effect(edits[0], edits[1:], pictures[0].item(), pictures[1:], x0[0], x0[1:], rank)


def step_of(number: int, step: int) -> tuple[int, int, None]:
    """A step of the walk with an edit of that number, as `effects` tells it."""
    return number, step, None


def controls_of(trajectory: Trajectory, model, edit: Edit, count: int) -> list[Edit]:
    """Different controls of an edit of a run, as many as asked for, or as there are. Raises TraceError on none."""
    check_edits(model, [edit], trajectory)
    size, found = tuple(trajectory.x.shape[-2:]), []
    for wide, seed in product((False, True), range(TRIES * count)):
        other = control(edit, model, seed, size=size, wide=wide)
        # The label that the run has anyway would be no edit at all.
        vain = isinstance(other, Label) and set(trajectory.labels) == {other.label}
        if other not in found and not vain:
            found.append(other)
        if len(found) == count:
            break
    if not found:
        raise nowhere(edit)
    return found


def control(
    edit: Edit, model: nn.Module, seed: int, *, size: tuple[int, int] | None = None, wide: bool = False
) -> Edit:  # fmt: skip
    """The same kind and size of edit at another place, drawn by the seed: never the edit itself.

    A branch, part or attention in another block, or in as many other heads of any; in a model of several stages on the
    same stage, or with `wide` on any (with tokens, of the same grid). Tokens are moved by one random shift that wraps
    around the grid, so that their shape stays, and condition tokens become random image tokens. Channels are others of
    the same block, a label is another class. `size` (h, w) is that of the input where it is not the trained one. Raises
    TraceError where there is no other place.
    """
    check_edits(model, [edit])
    if not whole(seed):
        raise TraceError(f"seed must be a whole number, not {quoted(seed)}")
    found = elsewhere(edit, model, Random(int(seed)), size, wide)
    if found == edit:
        raise nowhere(edit)
    return found


def elsewhere(edit: Edit, model, random: Random, size, wide: bool) -> Edit:
    """An edit like this one at another place; itself where there is none."""
    if isinstance(edit, Label):
        classes = [label for label in range(model.config.num_classes) if label != edit.label]
        return Label(random.choice(classes)) if classes else edit
    if isinstance(edit, Channels):
        width, count = model.config.stage_of(edit.block).dim, len(edit.numbers)
        free = [number for number in range(width) if number not in edit.numbers]
        # More than half of them have too few others: then all of those, and some of the edit's own.
        own = random.sample(edit.numbers, max(0, count - len(free)))
        return replace(edit, numbers=own + random.sample(free, count - len(own)))
    return moved(replace(edit, **other_block(edit, model, random, wide)), model, random, size)


def other_block(edit: Edit, model, random: Random, wide: bool) -> dict:
    """The block and heads of another place on the stage, or `wide`r, as fields of the edit; all are as likely."""
    config = model.config
    if not wide:
        stage = next(blocks for blocks in config.stage_blocks.values() if edit.block in blocks)
    else:
        fits = lambda block: not tokens_in(edit) or config.grid_of(block) == config.grid_of(edit.block)
        stage = [block for block in range(config.depth) if fits(block)]
    heads, count = getattr(edit, "heads", None), model.config.heads
    if heads is None or len(heads) == count:
        blocks = [block for block in stage if block != edit.block]
        return {"block": random.choice(blocks)} if blocks else {}
    own = edit.block, heads
    while (found := (random.choice(stage), tuple(sorted(random.sample(range(count), len(heads)))))) == own:
        pass
    return dict(zip(("block", "heads"), found, strict=True))


def tokens_in(edit: Edit) -> list[str]:
    """The fields of an edit that name tokens."""
    return [name for name in ("tokens", "queries", "keys") if getattr(edit, name, None) is not None]


def moved(edit: Edit, model, random: Random, size) -> Edit:
    """The edit with its tokens moved by one random shift, where one moves them."""
    names = tokens_in(edit)
    if getattr(edit, "kind", "attn") == "cross":
        names = [name for name in names if name != "keys"]  # these are time and label, which lie nowhere
    if not names:
        return edit
    rows, columns = model.config.grid_of(edit.block, size)
    joining = CONDITION_TOKENS * (BLOCKS[model.config.block].enter is not Block.enter)
    for token in (token for name in names for token in getattr(edit, name)):
        place("token", token, rows * columns + joining)
    layout = getattr(model.blocks[edit.block].attn, "layout", None)
    square = layout.keys // layout.queries if layout else 1  # a key that covers a square of tokens stays one
    shifts = list(product(range(0, rows, square), range(0, columns, square)))
    for shift in random.sample(shifts, min(TRIES, len(shifts))):
        found = replace(edit, **{name: shifted(getattr(edit, name), shift, (rows, columns), random) for name in names})
        if found != edit:
            return found
    return edit


def shifted(tokens, shift: tuple[int, int], grid: tuple[int, int], random: Random) -> list[int]:
    """Image tokens moved by rows and columns, around the edges; for condition tokens random image tokens."""
    (down, right), (rows, columns) = shift, grid
    image = [token for token in tokens if token < rows * columns]
    move = lambda row, column: (row + down) % rows * columns + (column + right) % columns
    found = {move(*divmod(token, columns)) for token in image}
    free = [token for token in range(rows * columns) if token not in found]
    beside = tokens[len(image) :]  # numbers rise, and the condition is last
    return [*found, *(random.sample(free, len(beside)) if len(free) >= len(beside) else beside)]


def nowhere(edit: Edit) -> TraceError:
    """What is said where an edit has no control."""
    return TraceError(f"there is no other place for a {type(edit).__name__} of this size, so it has no control")
