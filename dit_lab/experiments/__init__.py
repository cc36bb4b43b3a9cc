"""The experiments that are told in docs/results: models trained and judged alike, and what came out of them."""

from dit_lab import lazily

# When first used: figures take Matplotlib.
__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        "Plan": "plan",
        "Kept": "plan",
        "Experiment": "experiment",
        "carry_out": "experiment",
        "Ladder": "ladder",
        "FourBlocks": "four_blocks",
        "Scaling": "scaling",
    },
)
