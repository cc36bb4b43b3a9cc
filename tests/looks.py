"""What tests of looks inside share: small models of every kind, a recorded run of each, and the hooks that are left."""

from functools import cache, partial

import torch
from shared import random_model, random_udit

from dit_lab.inside import record
from dit_lab.models import BLOCKS

MODELS = {block: partial(random_model, block) for block in BLOCKS} | {
    "U-DiT": random_udit,
    "U-DiT kv": partial(random_udit, downsample="kv"),
    "U-DiT whole": partial(random_udit, downsample="none"),
    "U-DiT plain": partial(random_udit, downsample="none", cosine=False, rope=False),
    "U-DiT cross": partial(random_udit, "cross_attention"),
}
# Models and a stage of each that has several.
PLACES = [(block, None) for block in BLOCKS] + [("U-DiT", stage) for stage in ("encoder 1", "middle", "decoder 1")]


@cache
def run_of(name, steps=4):
    """A model of that name, and a guided run of two samples of it."""
    model = MODELS[name]()
    return model, record(model, [1, 5], steps=steps, cfg_scale=2.0, seed=3)


def features_of(name, stage=None, sample=0, half="cond"):
    """Every step's features, one replay each: `step block n d`."""
    model, trajectory = run_of(name)
    return torch.stack([trajectory.features(model, step, stage=stage, sample=sample, half=half) for step in range(4)])


def hooks_left(model):
    """How many hooks hang in a model."""
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
