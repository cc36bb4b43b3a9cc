"""Attention: where a patch looks in every block and head, who looks at it, and all heads in numbers."""

import math
from base64 import b64encode
from collections.abc import Generator
from functools import partial

import torch

from dit_lab.inside import Seen, attended_by, attention_numbers, received, token_under, trajectory_rollout
from dit_lab.inside.looks import Attending, attention_spot, layout_of, map_shape, passing
from dit_lab.inside.plots import attention_overlay
from dit_lab.inside.trace import attends
from dit_lab.models import BLOCKS
from dit_lab.panels.asking import choice
from dit_lab.panels.opened import Opened
from dit_lab.panels.packing import pack
from dit_lab.panels.panel import Panel, Progress

NUMBERS = ("entropy", "distance", "itself", "time", "label")  # of `AttentionNumbers`, in the order they are sent in
TOKENS = ("time", "label")  # of the condition
MOST_EXACT = 2**18  # weights sent in fp32, 1 MiB; more go in fp16, right to 0.05 %
KEPT_ROLLOUT = 2**18  # weights of a rollout that are kept for other patches
RECORDING = "Only the recording is open: its attention needs the model. Load its checkpoint to look inside."


def data(opened: Opened) -> dict:
    """What can be asked: kinds of attention, whether the condition joins the tokens, and each stage's grid of keys.

    Of `stride` rows and columns a token sees one, `keys` is how many keys it has. `why` says why nothing can be asked.
    """
    if opened.model is None:
        return {"run": opened.id, "why": RECORDING, "kinds": ["attn"], "joins": False, "stages": []}
    run, model = opened.trajectory, opened.model
    stages = []
    for blocks in opened.config.stage_blocks.values():
        layout, (_, _, keys) = layout_of(run, model, blocks[0]), map_shape(run, model, blocks[0])
        stages.append({"stride": layout.queries if layout.keys == layout.queries else 1, "keys": keys})
    kinds = list(attends(model.blocks[0]))
    return {"run": opened.id, "why": "", "kinds": kinds, "joins": joins(opened), "stages": stages}


def joins(opened: Opened) -> bool:
    """Whether the condition's tokens are among those of self-attention."""
    return opened.trajectory.tokens_of(0) > math.prod(opened.trajectory.grid)


def answer(opened: Opened, request: dict) -> dict | Generator:
    """One look at a step, `{look, step, sample, half}` and what it is at; each is one forward, answered again for free.

    `rows` (`patch`) is where a patch looks, in every block and head; `attended` (`patch`, `block`) who looks at it,
    `rollout` (`patch`, `block`) what reaches it; `received` (`block`) what every token receives, `time` and `label`
    (`block`) what it gives a token of the condition: those in all blocks of the stage of `block`. `numbers` are those
    of all heads at a step, `run` (without `step`) at all of them. Raises ValueError with a sentence.
    """
    look = choice("Look", request.get("look"), LOOKS)
    make, names = LOOKS[look]
    place = opened.asked(request, *names)
    if look in TOKENS:
        place["token"] = condition_token(opened, look)
    if "block" in place:
        place["block"] = blocks_of(opened, place["block"]).start
    key = ("attention", look, *place.values())
    if look == "run":
        return opened.answering(key, lambda: over_the_run(opened, **place))
    return opened.once(key, lambda: make(opened, **place))


def blocks_of(opened: Opened, block: int) -> range:
    """The blocks of the stage that a block is in."""
    return next(blocks for blocks in opened.config.stage_blocks.values() if block in blocks)


def query_of(opened: Opened, patch: int, block: int) -> int:
    """The token of a block's grid that a patch of the finest lies under."""
    stage, run = opened.config.stage_of(block), opened.trajectory
    return token_under(patch, run.grid, opened.config.stages[0].patch, run.grid_of(block), stage.patch)


def condition_token(opened: Opened, name: str) -> int:
    """The number of a token among the condition's. Raises ValueError where nothing attends to it."""
    if not joins(opened) and "cross" not in attends(opened.model.blocks[0]):
        raise ValueError(f"{BLOCKS[opened.config.block].title} blocks attend to no token of the condition.")
    return TOKENS.index(name)


def answered(stages: dict[int, dict[str, torch.Tensor]]) -> dict:
    """Weights by a stage's first block and by kind, `block head token`, as they are sent. Raises ValueError on NaN."""
    check_numbers(*(weights for kinds in stages.values() for weights in kinds.values()))
    packed = lambda kinds: {kind: packed_weights(weights) for kind, weights in kinds.items()}
    return {"stages": [{"first": first} | packed(kinds) for first, kinds in stages.items()]}


def check_numbers(*found: torch.Tensor) -> None:
    """Raise ValueError, in a sentence, unless all are numbers."""
    if not all(each.isfinite().all() for each in found):
        raise ValueError("The attention of this step is NaN or Inf: the model computes no number here.")


def packed_weights(weights: torch.Tensor) -> dict:
    """Weights as `pack` has them; many of them in fp16 under the name `half`."""
    if weights.numel() <= MOST_EXACT:
        return pack(weights)
    halved = b64encode(weights.numpy().astype("<f2").tobytes()).decode()
    return {"shape": list(weights.shape), "half": halved}


def patch_rows(opened: Opened, step: int, sample: int, patch: int, half: str) -> dict:
    """Where a patch looks in all stages, in every kind of attention there is, from one replay."""
    stages, kinds = list(opened.config.stage_blocks.values()), list(attends(opened.model.blocks[0]))
    queries = {block: query_of(opened, patch, block) for blocks in stages for block in blocks}
    spots = [
        attention_spot(opened.model, block, kind, partial(weights_of, queries=[query]))
        for kind in kinds
        for block, query in queries.items()
    ]
    (made,) = passing(opened.trajectory, opened.model, spots, [step], [sample], half)
    rows = dict(zip(((kind, block) for kind in kinds for block in queries), made, strict=True))
    in_stage = lambda blocks, kind: torch.stack([rows[kind, block][:, 0] for block in blocks]).cpu()
    return answered({blocks.start: {kind: in_stage(blocks, kind) for kind in kinds} for blocks in stages})


def weights_of(attending: Attending, queries=None) -> torch.Tensor:
    """A block's map, or some of its rows, computed as it passes, so that no queries and keys are held: `-> head i j`.

    On picture tokens, and without the edges that edits cut: as `Seen.attention` has it.
    """
    here = 0, "attn"
    seen = Seen(
        {here: attending[:2]}, {here: attending.layout} if attending.layout else {}, cuts={here: attending.cuts}
    )
    return seen.attention(0, queries=queries)[0]


def of_a_stage(opened: Opened, block: int) -> dict:
    """A stage by name, as the functions of a trajectory are asked for it."""
    names = {blocks.start: name for name, blocks in opened.config.stage_blocks.items()}
    return {"stage": names[block]}


def patch_attended(opened: Opened, step: int, sample: int, patch: int, block: int, half: str) -> dict:
    """Who looks at a patch."""
    query, where = query_of(opened, patch, block), of_a_stage(opened, block) | {"sample": sample, "half": half}
    return answered({block: {"attn": attended_by(opened.trajectory, opened.model, step, query, **where)}})


def all_received(opened: Opened, step: int, sample: int, block: int, half: str) -> dict:
    """What every token receives."""
    where = of_a_stage(opened, block) | {"sample": sample, "half": half}
    return answered({block: {"attn": received(opened.trajectory, opened.model, step, **where)}})


def patch_rollout(opened: Opened, step: int, sample: int, patch: int, block: int, half: str) -> dict:
    """What reaches a patch through all blocks of a stage, `1 1 token`; a small rollout is kept for other patches."""

    def rolled():
        where = of_a_stage(opened, block) | {"sample": sample, "half": half}
        return {"rolled": trajectory_rollout(opened.trajectory, opened.model, step, **where)}

    small = opened.trajectory.tokens_of(block) ** 2 <= KEPT_ROLLOUT
    key = ("attention", "rolled", step, sample, block, half)
    whole = opened.once(key, rolled) if small else rolled()
    return answered({block: {"attn": whole["rolled"][query_of(opened, patch, block)][None, None]}})


def on_condition(opened: Opened, step: int, sample: int, block: int, half: str, token: int) -> dict:
    """What every image token gives a token of the condition, in cross-attention where there is one."""
    run, model, blocks = opened.trajectory, opened.model, blocks_of(opened, block)
    if joins(opened):
        image, where = math.prod(run.grid_of(block)), of_a_stage(opened, block) | {"sample": sample, "half": half}
        return answered({block: {"attn": attended_by(run, model, step, image + token, **where)}})
    spots = [attention_spot(model, each, "cross", weights_of) for each in blocks]
    (made,) = passing(run, model, spots, [step], [sample], half)
    return answered({block: {"attn": torch.stack(made)[..., token].cpu()}})


def numbers(opened: Opened, step: int, sample: int, half: str) -> dict:
    """All heads at a step by kind of attention, `number block head`; NaN where a number has no meaning."""
    return {kind: pack(each) for kind, each in measured(opened, step, sample, half).items()}


def measured(opened: Opened, step: int, sample: int, half: str) -> dict[str, torch.Tensor]:
    """The same as tensors."""
    made = {}
    for kind in attends(opened.model.blocks[0]):
        of = dict(sample=sample, half=half, kind=kind, steps=[step])
        found = attention_numbers(opened.trajectory, opened.model, **of)
        check_numbers(found.entropy)
        made[kind] = torch.stack([getattr(found, name)[..., 0] for name in NUMBERS]).float()
    return made


def over_the_run(opened: Opened, sample: int, half: str) -> Generator[Progress, None, dict]:
    """All heads at all steps by kind of attention, `step number block head`, with progress between the steps."""
    steps, made = len(opened.trajectory.t), []
    for step in range(steps):
        yield Progress(step, steps, f"attention of step {step + 1} of {steps}")
        made.append(measured(opened, step, sample, half))
    return {kind: pack(torch.stack([each[kind] for each in made])) for kind in made[0]}


# What makes a look, and the places that it is asked for.
OF_A_PATCH, OF_A_STAGE = ("step", "sample", "patch", "block", "half"), ("step", "sample", "block", "half")
LOOKS = {
    "rows": (patch_rows, ("step", "sample", "patch", "half")),
    "attended": (patch_attended, OF_A_PATCH),
    "received": (all_received, OF_A_STAGE),
    "rollout": (patch_rollout, OF_A_PATCH),
    "time": (on_condition, OF_A_STAGE),
    "label": (on_condition, OF_A_STAGE),
    "numbers": (numbers, ("step", "sample", "half")),
    "run": (over_the_run, ("sample", "half")),
}


def still(opened: Opened, *, step: int = 0, sample: int = 0, patch=None, block: int = 0, half: str = "cond", **place):
    """Where a patch (by default the middle one) looks in all heads of a block."""
    run, (rows, columns) = opened.trajectory, opened.trajectory.grid
    query = query_of(opened, rows // 2 * columns + columns // 2 if patch is None else patch, block)
    where = dict(sample=sample, block=block, half=half, queries=[query])
    weights = run.attention(opened.model, step, **where)[:, 0]
    return attention_overlay(opened.pictures(sample)[step], weights, query, run.grid_of(block))


PANEL = Panel("attention", "Attention", data, answer, still)
