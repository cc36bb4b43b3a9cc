"""Names: the paper's twelve models with the paper's shapes, and mistakes that are answered with what there is."""

import pytest

from dit_lab.blocks import BLOCKS
from dit_lab.dit import DiTConfig
from dit_lab.presets import PRESETS, build, preset

# Table 1 of the paper: layers, width, heads.
SHAPES = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}


@pytest.mark.parametrize("patch", (2, 4, 8))
@pytest.mark.parametrize("size", SHAPES)
def test_the_papers_models_have_the_papers_shapes(size, patch):
    config = preset(f"DiT-{size}/{patch}")
    assert (config.depth, config.dim, config.heads) == SHAPES[size]
    assert config.patch_size == patch
    assert (config.input_size, config.in_channels, config.num_classes, config.mlp_ratio) == (32, 4, 1000, 4.0)
    assert config.learned_variance and config.block == "adaln_zero"


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_possible_config(name):
    assert isinstance(preset(name), DiTConfig)


def test_a_preset_can_be_changed_field_by_field():
    config = preset("DiT-S/4", num_classes=10, input_size=(16, 32))
    assert (config.num_classes, config.size, config.dim) == (10, (16, 32), 384)


@pytest.mark.parametrize("block", BLOCKS)
def test_build_resolves_any_block_by_name(block):
    model = build("DiT-nano/8", block=block)
    assert type(model.blocks[0]) is BLOCKS[block]
    assert model.config == preset("DiT-nano/8", block=block)


def test_build_changes_a_config_as_it_changes_a_preset():
    config = preset("DiT-nano/8")
    assert build(config, num_classes=3).config == preset("DiT-nano/8", num_classes=3)
    assert build(config).config == config


def test_an_unknown_preset_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="no preset 'DiT-XXL/2'; the nearest are .*DiT-XL/2"):
        build("DiT-XXL/2")


@pytest.mark.parametrize("model", ("DiT-nano/8", DiTConfig()))
def test_an_unknown_field_is_answered_with_the_fields(model):
    with pytest.raises(ValueError, match="has no field classes; its fields are .*num_classes"):
        build(model, classes=10)
