"""Every preset, of its own width, heads and patch, and every model of the zoo is when fast as near as was promised."""

import pytest
import torch
from halves import FORWARD, HALVES, ROUNDING, SAMPLE, error, inputs

from dit_lab.checkpoints import load, zoo
from dit_lab.diffusion import generate, process_of, quality
from dit_lab.inside import Scale, edited
from dit_lab.models import BLOCKS, PRESETS, UDiTConfig, build, fast

OPTIONS = dict(labels=[1], cfg_scale=2.0, seed=1)
OTHERS = [block for block in BLOCKS if block != "adaln_zero"]  # which presets have
FOUND = [
    *((name, "adaln_zero") for name in PRESETS),
    *(("DiT-S/2", block) for block in OTHERS),
    *(("U-DiT-S", block) for block in OTHERS if block != "in_context"),  # which has no place on a grid
]


def cut(name, block):
    """A preset of a few blocks on a few tokens, its weights random and as large as its widths ask for."""
    config = PRESETS[name]
    if isinstance(config, UDiTConfig):
        few = dict(depths=(1,) * (5 if config.dim <= 96 else 3), input_size=8)  # five would take U-DiT-L 15 s
    else:
        few = dict(depth=2 if config.dim < 1000 else 1, input_size=4 * config.patch_size)
    torch.manual_seed(0)
    model = build(name, block=block, num_classes=10, **few).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.7 * parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.1)
    return model


def near(model, quick, options) -> None:
    """Hold what a fast model gives and draws to what the model does."""
    given = inputs(model, 2)
    assert 0 < error(quick(*given), model(*given)) < FORWARD
    assert 0 < error(generate(quick, **options), generate(model, **options)) < SAMPLE


@pytest.mark.parametrize("name, block", FOUND)
@torch.no_grad()
def test_every_preset_is_in_half_precision_as_near_as_was_promised(name, block):
    model = fast(cut(name, block), precision="fp32")  # which folds a U-DiT
    for half in HALVES:
        near(model, fast(model, precision=half), OPTIONS | dict(steps=2))


@pytest.mark.parametrize("name", ["U-DiT-S", "U-DiT-tiny", "toy/reparameterised"])
@torch.no_grad()
def test_a_preset_that_is_folded_is_off_by_rounding_alone(name):
    model = cut(name, "adaln_zero")
    quick = fast(model, precision="fp32")
    assert quick.speed.folded and 0 < error(quick(*inputs(model, 2)), model(*inputs(model, 2))) < ROUNDING


@pytest.mark.parametrize("name", sorted(zoo()))
@torch.no_grad()
def test_every_model_of_the_zoo_is_whole_as_near_as_was_promised(name):
    loaded = load(name)
    draft = quality("draft", process_of(loaded.config), loaded.qualities)
    for half in HALVES:
        near(loaded.model, fast(loaded.model, precision=half), OPTIONS | draft)


@pytest.mark.parametrize("name, block", [("DiT-S/2", "adaln_zero"), ("U-DiT-S", "adaln_zero")])
@torch.no_grad()
def test_blocks_have_their_say_in_what_is_compared(name, block):
    """Else all would be near, whatever a block computes."""
    model = cut(name, block)
    output = model(*inputs(model, 2))
    with edited(model, *(Scale(place, part, 0.0) for place in range(len(model.blocks)) for part in ("attn", "mlp"))):
        assert error(model(*inputs(model, 2)), output) > 5 * FORWARD
