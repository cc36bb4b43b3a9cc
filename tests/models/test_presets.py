"""Names: the papers' models with the papers' shapes, the ladder, and mistakes that are answered with what there is."""

import json
from dataclasses import fields
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from dit_lab.models import (
    BLOCKS,
    PRESETS,
    Config,
    DiT,
    DiTConfig,
    UDiT,
    UDiTConfig,
    build,
    config_of,
    ladder,
    preset,
    taking,
)

# Table 1 of the paper: layers, width, heads.
SHAPES = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}
# U-DiT: width and heads.
U_SHAPES = {"S": (96, 4), "B": (192, 8), "L": (384, 16)}


@pytest.mark.parametrize("patch", (2, 4, 8))
@pytest.mark.parametrize("size", SHAPES)
def test_the_papers_models_have_the_papers_shapes(size, patch):
    config = preset(f"DiT-{size}/{patch}")
    assert (config.depth, config.dim, config.heads) == SHAPES[size]
    assert config.patch_size == patch
    assert (config.input_size, config.in_channels, config.num_classes, config.mlp_ratio) == (32, 4, 1000, 4.0)
    assert config.learned_variance and config.block == "adaln_zero"


@pytest.mark.parametrize("size", U_SHAPES)
def test_the_papers_udits_have_the_papers_shapes(size):
    config = preset(f"U-DiT-{size}")
    assert (config.dim, config.heads) == U_SHAPES[size]
    assert config.depths == (2, 5, 8, 5, 2)
    assert (config.input_size, config.in_channels, config.num_classes, config.mlp_ratio) == (32, 4, 1000, 2.0)
    assert (config.downsample, config.cosine, config.rope, config.mlp) == ("token", True, True, "reparameterised")
    assert config.learned_variance and config.block == "adaln_zero"


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_possible_config(name):
    assert isinstance(preset(name), Config)


@pytest.mark.parametrize("name", [name for name in PRESETS if not name.startswith("DiT-")])
def test_every_udit_preset_and_rung_builds_and_runs_on_the_meta_device(name):
    config = preset(name, depths=(1, 1, 1, 1, 1)) if isinstance(PRESETS[name], UDiTConfig) else preset(name)
    with torch.device("meta"):
        model = build(config)
        out = model(torch.empty(1, 4, *config.size), torch.zeros(1), torch.zeros(1, dtype=torch.long))
    assert type(model) is (UDiT if isinstance(config, UDiTConfig) else DiT)
    assert out.shape == (1, 8, *config.size) and out.is_meta


def test_a_change_reaches_the_built_udit():
    model = build("U-DiT-tiny", num_classes=7, in_channels=1, input_size=(16, 8), block="adaln")
    assert model(torch.zeros(1, 1, 16, 8), torch.zeros(1), torch.tensor([7])).shape == (1, 2, 16, 8)
    assert type(model.blocks[0]) is BLOCKS["adaln"]
    assert {condition.label_embedding.num_embeddings for condition in model.conditions} == {8}


def test_the_ladder_climbs_from_dit_s_4_to_udit():
    rungs = ladder()
    names = ("isotropic", "unet", "kv", "token", "cosine", "rope", "depthwise", "reparameterised")
    assert list(rungs) == [f"toy/{name}" for name in names]
    assert rungs["toy/isotropic"] == preset("DiT-S/4")
    assert all(preset(name) == config for name, config in rungs.items())
    top, official = rungs["toy/reparameterised"], preset("U-DiT-S")
    switches = ("downsample", "cosine", "rope", "mlp", "block")
    assert all(getattr(top, switch) == getattr(official, switch) for switch in switches)


def test_each_rung_from_the_u_net_on_changes_exactly_one_field():
    changed = []
    for below, above in pairwise(list(ladder().values())[1:]):
        assert type(below) is type(above) is UDiTConfig
        changed.append([f.name for f in fields(below) if getattr(below, f.name) != getattr(above, f.name)])
    assert changed == [["downsample"], ["downsample"], ["cosine"], ["rope"], ["mlp"], ["mlp"]]


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("changes", [{}, dict(input_size=(16, 32), num_classes=0, block="adaln")], ids=str)
def test_a_config_comes_back_from_json_as_it_was(name, changes):
    config = preset(name, **changes)
    back = config_of(json.loads(json.dumps(config.as_json())))
    assert type(back) is type(config) and back == config and hash(back) == hash(config)
    assert config_of(config.as_json()) == config


def test_json_that_names_no_architecture_is_a_dits():
    written = preset("DiT-nano/4", num_classes=3).as_json()
    assert written.pop("architecture") == "DiT"
    assert config_of(written) == preset("DiT-nano/4", num_classes=3)
    assert config_of({}) == DiTConfig()


def test_reading_a_config_leaves_the_json_as_it_was():
    written = preset("U-DiT-S").as_json()
    config_of(written)
    assert written == preset("U-DiT-S").as_json() and written["architecture"] == "U-DiT"


@pytest.mark.parametrize("name", ("SiT", None, 3, ["DiT"]))
def test_an_unknown_architecture_is_answered_with_those_there_are(name):
    with pytest.raises(ValueError, match="there are DiT, U-DiT"):
        config_of(preset("DiT-nano/4").as_json() | {"architecture": name})


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
    with pytest.raises(ValueError, match="no preset 'DiT-XXL/2'; the nearest are DiT-XL/2, [^,]*, [^,]*$"):
        build("DiT-XXL/2")
    with pytest.raises(ValueError, match="no preset 'XL'; the nearest are (DiT-XL/., ){2}DiT-XL/.$"):
        preset("XL")  # a short name is near to little; that much it is
    with pytest.raises(ValueError, match="no preset '###'; there are DiT-XL/2, .*, toy/reparameterised$"):
        preset("###")


def test_a_file_with_other_fields_is_answered_with_the_first_three_of_them():
    with pytest.raises(ValueError, match="^a U-DiT config has no field width$"):
        config_of(preset("U-DiT-S").as_json() | {"width": 3})
    with pytest.raises(ValueError, match="^a DiT config has no field a, b, c$"):
        config_of(dict.fromkeys("dcba", 1))


def test_a_data_set_decides_channels_size_and_classes():
    images = SimpleNamespace(shape=(3, 8, 12), names=["a", "b"])
    assert taking(images) == dict(in_channels=3, input_size=(8, 12), num_classes=2)
    assert preset("DiT-nano/4", **taking(images)).size == (8, 12)


@pytest.mark.parametrize("model", ("DiT-nano/8", DiTConfig(), "U-DiT-S", UDiTConfig()))
def test_an_unknown_field_is_answered_with_the_fields(model):
    with pytest.raises(ValueError, match="has no field classes; its fields are .*num_classes"):
        build(model, classes=10)
