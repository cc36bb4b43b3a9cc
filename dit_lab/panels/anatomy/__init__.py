"""Anatomy: the loaded model drawn from its config, each part openable to shapes, einops patterns, cost, code and paper.

Everything follows from the config: no run and no weights are needed, for the model is built and counted on the meta
device.
"""

from functools import lru_cache
from importlib.resources import files

from dit_lab.files import json_object
from dit_lab.models import BLOCKS, PRESETS, Block, Config, UDiTConfig, count
from dit_lab.panels.anatomy.catalogue import Catalogue
from dit_lab.panels.anatomy.wiring import wirings
from dit_lab.panels.opened import Opened
from dit_lab.panels.panel import Panel
from dit_lab.panels.words import stage_words

__all__ = ["PANEL", "anatomy"]

SIZE = "depth", "dim", "heads", "patch_size", "depths"  # what makes a config one of the paper's presets


def data(opened: Opened) -> dict:
    """The anatomy of the model that made the run."""
    return anatomy(opened.config) | {"source": opened.source, "run": opened.id}


@lru_cache(maxsize=16)
def anatomy(config: Config) -> dict:
    """What the panel draws of a config: its stages, its parts by name, its table of costs and its place in the paper.

    It takes a second of a large model, once. Raises ValueError, as `build` does, on a config that cannot be built.
    """
    catalogue, counted = Catalogue(config), count(config)
    shapes = zip(stage_words(config), config.stages, config.stage_blocks.values(), strict=True)
    return {
        "source": "", "run": None, "architecture": config.architecture, "block": config.block,
        "blockTitle": BLOCKS[config.block].title, "depth": config.depth, "heads": config.heads,
        "learnedVariance": config.learned_variance, "prediction": config.prediction, "feeds": feeds(config),
        "total": {"trained": counted.trained, "fixed": counted.fixed, "macs": counted.macs},
        "stages": [
            words | {"stage": shape.name, "grid": list(config.grid_of(blocks[0])), "dim": shape.dim}
            for words, shape, blocks in shapes
        ],
        "levels": config.levels if isinstance(config, UDiTConfig) else 1,
        "flow": catalogue.flow(), "parts": catalogue.parts(),
        "rows": [{"part": row.part, "copies": row.copies, "trained": row.trained, "fixed": row.fixed, "macs": row.macs}
                 for row in counted.rows],
        "wirings": wirings(config), "preset": preset_of(config), **papers(),
    }  # fmt: skip


def feeds(config: Config) -> list[str]:
    """Which parts the condition goes to."""
    kind = BLOCKS[config.block]
    return ["enter"] if kind.enter is not Block.enter else ["blocks", *["final"] * kind.modulated]


def layers(config: Config) -> int:
    """Blocks as the papers count them: a U-DiT's hold two pairs of attention and MLP each."""
    return sum(config.depths) if isinstance(config, UDiTConfig) else config.depth


def preset_of(config: Config) -> str | None:
    """The paper's model of the same size: widths, depth, heads and patches, whatever the input and the classes."""
    size = lambda of: (of.architecture, *(getattr(of, field, None) for field in SIZE))
    return next((name for name in papers()["presets"] if size(PRESETS[name]) == size(config)), None)


@lru_cache(maxsize=1)
def papers() -> dict:
    """The papers' tables of models and of conditioning blocks, with ours beside theirs."""
    tables = json_object(files(__package__).joinpath("paper.json").read_text(encoding="utf-8"))
    sizes = {name: PRESETS[name] for name in tables["presets"]}
    presets = {
        name: {"layers": layers(config), "dim": config.dim, "heads": config.heads, **tables["presets"][name]}
        for name, config in sizes.items()
    }
    return {"presets": presets, "blocks": tables["blocks"], "titles": {name: BLOCKS[name].title for name in BLOCKS}}


PANEL = Panel("anatomy", "Anatomy", data)
