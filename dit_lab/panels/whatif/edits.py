"""What a browser asks to change, as an edit of `inside`, and an edit in words for a reader."""

from math import prod

from dit_lab.inside import Box, Cut, Edit, Label, Modulate, Scale, Temperature, token_box, token_under
from dit_lab.inside.trace import attends, branches, modulation_of
from dit_lab.models import BLOCKS
from dit_lab.models.grid_layers import FACTOR
from dit_lab.panels.asking import choice, real, whole
from dit_lab.panels.opened import Opened
from dit_lab.program import quoted

REACHES = 1, 3, 5  # patches along a side of the square around the one that was clicked
MOST_FACTOR, COLDEST, WARMEST = 4.0, 0.1, 10.0
NAMES = {"attn": "attention", "cross": "cross-attention", "mlp": "MLP"}
# What is cut: from some patches to all others, from all others to them, or from them to a token of the condition.
WAYS = {"from": "its view of all other patches", "to": "all other patches' view of it",
        "time": "its view of the time token", "label": "its view of the label token"}  # fmt: skip


def places(opened: Opened) -> dict:
    """What of a model can be edited: its blocks are alike, so that the first says it for all."""
    block, config = opened.model.blocks[0], opened.config
    modulation = modulation_of(block)
    conditions = "cross" in attends(block) or joins(opened)
    return {
        "branches": [[name, NAMES[name]] for name in branches(block)],
        "attention": [[name, NAMES[name]] for name in attends(block)],
        "parts": [[part, part_name(part)] for part in (modulation.parts if modulation else ())],
        "ways": [[way, words] for way, words in WAYS.items() if way in ("from", "to") or conditions],
        "labels": [[label, opened.label_name(label)] for label in range(config.labels if config.num_classes else 0)],
        "reaches": list(REACHES), "factors": [0, MOST_FACTOR], "warmth": [COLDEST, WARMEST],
    }  # fmt: skip


def joins(opened: Opened) -> bool:
    """Whether the time and label tokens stand in the sequence, after the image tokens."""
    return opened.trajectory.tokens_of(0) > prod(opened.trajectory.grid)


def edit_of(opened: Opened, asked) -> Edit:
    """The edit that a browser named. Raises ValueError with a sentence on one that is not there."""
    if not isinstance(asked, dict):
        raise ValueError(f"An edit must be values by name, not {quoted(asked, 40)}.")
    kinds = {"head": head, "branch": branch, "part": part, "temperature": temperature, "cut": cut, "label": label}
    kind = choice("What is edited", asked.get("kind"), kinds)
    edit = kinds[kind](opened, asked)
    edit.check(opened.model, opened.trajectory)
    return edit


def head(opened: Opened, asked: dict) -> Scale:
    """One head's part in an attention, times a factor."""
    at = opened.asked(asked, "block", "head")
    return Scale(at["block"], attention(opened, asked), factor(asked), heads=[at["head"]])


def branch(opened: Opened, asked: dict) -> Scale:
    """All that a branch adds, times a factor."""
    block = opened.asked(asked, "block")["block"]
    return Scale(block, choice("Branch", asked.get("branch"), branches(opened.model.blocks[block])), factor(asked))


def part(opened: Opened, asked: dict) -> Modulate:
    """A shift, scale or gate, times a factor."""
    block = opened.asked(asked, "block")["block"]
    modulation = modulation_of(opened.model.blocks[block])
    if modulation is None:
        raise ValueError(f"{BLOCKS[opened.config.block].title} blocks have no shift, scale or gate to edit.")
    return Modulate(block, choice("Part", asked.get("part"), modulation.parts), factor(asked))


def temperature(opened: Opened, asked: dict) -> Temperature:
    """The attention of a block, or of one head, warmed or cooled."""
    block, warmth = opened.asked(asked, "block")["block"], real("Temperature", asked.get("factor"), COLDEST, WARMEST)
    return Temperature(block, warmth, heads=heads(opened, asked), kind=attention(opened, asked))


def label(opened: Opened, asked: dict) -> Label:
    """Another class."""
    if not opened.config.num_classes:
        raise ValueError("This model has no classes, so there is no label to swap.")
    number = whole("Class", asked.get("label"), 0, opened.config.labels - 1)
    if set(opened.trajectory.labels) == {number}:
        raise ValueError(f"The run's label is {opened.label_name(number)} already: choose another one.")
    return Label(number)


def cut(opened: Opened, asked: dict) -> Cut:
    """Attention cut from the patches of a square, or to them, in a block or one head of it."""
    at = opened.asked(asked, "block", "patch")
    way, reach = choice("Way", asked.get("way"), WAYS), choice("Square", asked.get("reach"), REACHES)
    block, run = at["block"], opened.trajectory
    image, mine = prod(run.grid_of(block)), tokens_around(opened, block, at["patch"], reach)
    if way in ("time", "label"):
        crossing, number = "cross" in attends(opened.model.blocks[block]), ("time", "label").index(way)
        if not crossing and not joins(opened):
            raise ValueError(f"{BLOCKS[opened.config.block].title} blocks have no {way} token that a patch could see.")
        keys = [number if crossing else image + number]
        return Cut(block, mine, keys, heads(opened, asked), kind="cross" if crossing else "attn")
    wide = whole_keys(opened, block, mine)
    others = [token for token in range(image) if token not in wide]
    if not others:
        raise ValueError("The square holds all patches of this block: there is no other patch left to cut from.")
    queries, keys = (mine, others) if way == "from" else (others, sorted(wide))
    return Cut(block, queries, keys, heads(opened, asked))


def whole_keys(opened: Opened, block: int, tokens: list[int]) -> set[int]:
    """Tokens, and with each all others under the same key, where a key covers a square of them."""
    side = FACTOR if getattr(opened.config, "downsample", None) == "kv" else 1
    _, columns = opened.trajectory.grid_of(block)
    corners = {(token // columns // side * side, token % columns // side * side) for token in tokens}
    return {(row + p) * columns + column + q for row, column in corners for p in range(side) for q in range(side)}


def tokens_around(opened: Opened, block: int, patch: int, reach: int) -> list[int]:
    """The tokens of a block that cover a square of `reach` x `reach` patches around one, cut off at the edges."""
    run, stages = opened.trajectory, opened.config.stages
    (rows, columns), (row, column), around = run.grid, divmod(patch, run.grid[1]), reach // 2
    square = [
        r * columns + c
        for r in range(max(0, row - around), min(rows, row + around + 1))
        for c in range(max(0, column - around), min(columns, column + around + 1))
    ]
    other = run.grid_of(block), opened.config.stage_of(block).patch
    return sorted({token_under(each, run.grid, stages[0].patch, *other) for each in square})


def region_of(opened: Opened, asked) -> Box | None:
    """Where distances are measured: `{patch, reach}` is the square around a patch, None the whole picture."""
    if asked is None:
        return None
    if not isinstance(asked, dict):
        raise ValueError(f"A region must be a patch and a square around it, not {quoted(asked, 40)}.")
    patch, reach = opened.asked(asked, "patch")["patch"], choice("Square", asked.get("reach"), REACHES)
    run = opened.trajectory
    side = opened.config.stages[0].patch
    tokens = tokens_around(opened, 0, patch, reach)
    first, last = (token_box(token, run.grid, side) for token in (tokens[0], tokens[-1]))
    return Box(first.top, first.left, last.top + side - first.top, last.left + side - first.left)


def attention(opened: Opened, asked: dict) -> str:
    """Which attention of a block is meant, "attn" where nothing says."""
    return choice("Attention", asked.get("attention", "attn"), attends(opened.model.blocks[0]))


def heads(opened: Opened, asked: dict) -> list[int] | None:
    """The head that is meant, None where it is all of them."""
    return None if asked.get("head") is None else [opened.asked(asked, "head")["head"]]


def factor(asked: dict) -> float:
    """What is multiplied by; 0 switches off."""
    return real("Factor", asked.get("factor"), 0, MOST_FACTOR)


def said(opened: Opened, edit: Edit) -> str:
    """An edit in few words."""
    if isinstance(edit, Label):
        return f"class {opened.label_name(edit.label)}"
    words = [block_name(opened, edit.block)]
    if getattr(edit, "heads", None) is not None:
        words.append(f"head{'s' * (len(edit.heads) > 1)} {', '.join(map(str, edit.heads))}")
    kind = getattr(edit, "branch", getattr(edit, "kind", "attn"))
    if isinstance(edit, Modulate):
        words.append(part_name(edit.part))
    elif kind != "attn" or getattr(edit, "heads", None) is None and not isinstance(edit, Cut):
        words.append(NAMES[kind])
    return f"{', '.join(words)}: {done(opened, edit)}"


def done(opened: Opened, edit: Edit) -> str:
    """What an edit does at its place."""
    if isinstance(edit, Temperature):
        return f"{'flatter' if edit.factor > 1 else 'sharper'}, temperature × {edit.factor:g}"
    if not isinstance(edit, Cut):
        return "off" if edit.factor == 0 else f"× {edit.factor:g}"
    image, mine = prod(opened.trajectory.grid_of(edit.block)), patches(opened, edit.block, edit.queries)
    if edit.kind == "cross" or edit.keys[0] >= image:
        token = "time" if edit.keys[0] in (0, image) else "label"
        return f"the {token} token hidden from {mine}"
    theirs = patches(opened, edit.block, edit.keys)
    if whole_keys(opened, edit.block, edit.queries) | {*edit.keys} != {*range(image)}:
        return f"{theirs} hidden from {mine}"
    if len(edit.queries) <= len(edit.keys):
        return f"all other patches hidden from {mine}"
    return f"{theirs} hidden from all other patches"


def patches(opened: Opened, block: int, tokens) -> str:
    """Some tokens of a block in words."""
    first = "row {}, column {}".format(*divmod(tokens[0], opened.trajectory.grid_of(block)[1]))
    return f"the patch in {first}" if len(tokens) == 1 else f"{len(tokens)} patches (the first in {first})"


def block_name(opened: Opened, block: int) -> str:
    """A block as the page calls it: `encoder 1, block 2, pair b`."""
    stage = [stage for stage in opened.stages() if stage["first"] <= block][-1]
    return ", ".join(filter(None, (stage["name"], stage["blocks"][block - stage["first"]])))


def part_name(part: str) -> str:
    """`gate_mlp -> gate of the MLP`."""
    kind, _, of = part.partition("_")
    return f"{kind} of {'the MLP' if of == 'mlp' else NAMES.get(of, of)}"
