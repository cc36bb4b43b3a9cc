"""How a conditioning block is wired, as the panel draws it: what each branch does on its way to the residual stream."""

from torch import nn

from dit_lab.inside.trace import branches, modulation_of
from dit_lab.models import BLOCKS, Block, Config
from dit_lab.models.unfilled import unfilled
from dit_lab.panels.anatomy.places import TOLD

# The blocks whose wiring is known: that of another may be any, so it is drawn as its parts in their order.
KNOWN = "adaln_zero", "adaln", "cross_attention", "in_context"
DRAWN = 16, 2  # the width and heads of the blocks that are built to be drawn: their wiring depends on neither


def wirings(config: Config) -> dict[str, dict]:
    """The wiring of every block that this architecture takes, by name."""
    fits = lambda kind: config.architecture == "DiT" or kind.enter is Block.enter
    return {name: wiring(name, kind) for name, kind in BLOCKS.items() if fits(kind)}


def wiring(name: str, kind: type[Block]) -> dict:
    """One block: its branches in order, each with its boxes, and how the condition comes in.

    A box has the child that it stands for, a label, and whether it reads the condition. `branches` is empty where the
    wiring is not known: then `parts` alone are drawn.
    """
    with unfilled():
        block = kind(*DRAWN, nn.Identity(), nn.Identity())
    modulation = modulation_of(block)
    children = [name for name, _ in block.named_children()]
    return {
        "title": kind.title, "name": name, "joins": kind.enter is not Block.enter,
        "modulation": list(modulation.parts) if modulation else [], "cross": "cross" in children,
        "branches": [boxes(block, branch, modulation) for branch in branches(block)] if name in KNOWN else [],
        "parts": [{"part": child, "label": TOLD.get(child, (child,))[0]} for child in children],
    }  # fmt: skip


def boxes(block: Block, branch: str, modulation) -> list[dict]:
    """What a branch does one after the other: norm, shift and scale, its own work, gate."""
    parts = modulation.parts if modulation else ()
    norm = getattr(block, f"norm_{branch}")
    learned = "with its own weights" if norm.elementwise_affine else "without weights"
    drawn = [{"part": f"norm_{branch}", "label": "Layer norm", "note": learned, "reads": False}]
    if f"scale_{branch}" in parts:
        drawn.append({"part": "modulation", "label": "Scale and shift", "note": "· (1 + scale) + shift", "reads": True})
    drawn.append({"part": branch, "label": TOLD[branch][0], "note": "", "reads": branch == "cross"})
    if f"gate_{branch}" in parts:
        drawn.append({"part": "modulation", "label": "Gate", "note": "· gate, born zero", "reads": True})
    return drawn
