"""What a config may say: its defaults, its limits, what it hands on to files, and where its blocks are."""

import json
from dataclasses import FrozenInstanceError, replace

import pytest
import torch

from dit_lab.models import Config, DiTConfig, UDiTConfig, config_of, preset
from dit_lab.models.config import MOST, StageShape

SMALL = dict(input_size=(8, 24), in_channels=2, dim=16, heads=2, depth=3, patch_size=4, num_classes=5)


def small(**changes):
    return DiTConfig(**SMALL | changes)


def test_the_limits_are_far_above_any_model_and_are_these():
    assert dict(MOST) == dict(
        side=16_384, in_channels=4096, dim=65_536, heads=1024, num_classes=1_048_576, mlp_ratio=1024, depth=512,
        patch_size=1024, tokens=262_144, table=33_554_432, letters=100,
    )  # fmt: skip


def test_a_config_and_a_stage_stay_what_they_are():
    with pytest.raises(FrozenInstanceError):
        small().dim = 32
    with pytest.raises(FrozenInstanceError):
        small().stages[0].dim = 32


def test_what_is_not_said_is_the_papers_for_latents_of_256_pixels():
    shared = Config()
    assert (shared.input_size, shared.in_channels, shared.num_classes, shared.null_label) == (32, 4, 1000, True)
    assert (shared.dim, shared.heads, shared.mlp_ratio) == (384, 6, 4.0)
    assert (shared.prediction, shared.schedule, shared.block, shared.learned_variance) == (
        "eps", "linear", "adaln_zero", True,
    )  # fmt: skip


@pytest.mark.parametrize("edge", ["in_channels", "dim", "heads", "num_classes"])
def test_the_last_number_within_a_limit_is_taken_and_the_next_is_not(edge):
    most = {"dim": dict(heads=1), "heads": dict(dim=1024, heads=1024)}.get(edge, {})
    assert getattr(Config(**most | {edge: MOST[edge]}), edge) == MOST[edge]
    with pytest.raises(
        ValueError, match=f"^{edge} must be a whole number of at most {MOST[edge]}, not {MOST[edge] + 1}$"
    ):
        Config(**most | {edge: MOST[edge] + 1})


def test_the_smallest_numbers_are_taken_and_below_them_none():
    least = Config(input_size=1, in_channels=1, dim=4, heads=1, num_classes=0)
    assert (least.size, least.labels, least.out_channels) == ((1, 1), 1, 2)
    for name, low in dict(in_channels=1, dim=4, heads=1, num_classes=0).items():
        with pytest.raises(ValueError, match=f"^{name} must be a whole number of at least {low}, not {low - 1}$"):
            replace(least, **{name: low - 1})
        with pytest.raises(ValueError, match=f"^{name} must be a whole number of at least {low}, not {float(low)}$"):
            replace(least, **{name: float(low)})


def test_a_side_has_its_limits_and_there_are_two():
    assert Config(input_size=(MOST["side"], 1)).size == (MOST["side"], 1)
    for size in (MOST["side"] + 1, 1), (1, 0), (1,), (1, 2, 3), "32", (True, 4), 0, -8:
        with pytest.raises(ValueError, match="must be one or two positive whole numbers, of at most 16384$"):
            Config(input_size=size)


def test_a_square_has_one_name_and_an_oblong_its_own():
    for size in (8, 8), [8, 8]:
        assert Config(input_size=size) == Config(input_size=8) and Config(input_size=size).input_size == 8
    assert Config(input_size=[8, 4]).input_size == (8, 4) != Config(input_size=(4, 8)).input_size


def test_the_mlp_has_some_width_and_its_ratio_a_limit():
    for ratio in (1 / 16, 1, MOST["mlp_ratio"]):
        assert small(mlp_ratio=ratio).mlp_ratio == ratio
    for ratio in (1 / 17, MOST["mlp_ratio"] + 1, True, "4", float("nan"), None):
        with pytest.raises(
            ValueError, match="^mlp_ratio must be a number that leaves the MLP some width, of at most 10"
        ):
            small(mlp_ratio=ratio)


@pytest.mark.parametrize("name", ["block", "prediction", "schedule"])
def test_a_name_is_a_text_of_at_most_a_hundred_letters(name):
    assert getattr(Config(**{name: "x" * 100}), name) == "x" * 100
    for value in ("x" * 101, 5, None):
        with pytest.raises(ValueError, match=f"^{name} must be a name, not "):
            Config(**{name: value})


def test_yes_and_no_are_no_numbers():
    for name in "learned_variance", "null_label":
        for value in (1, 0, None, "yes"):
            with pytest.raises(ValueError, match=f"^{name} must be true or false"):
                small(**{name: value})


def test_without_a_null_label_there_is_a_row_a_class_and_there_must_be_classes():
    assert (small().labels, small(null_label=False).labels, small(num_classes=0).labels) == (6, 5, 1)
    with pytest.raises(ValueError, match="^null_label must be true or false, and true in a model without classes, n"):
        small(num_classes=0, null_label=False)


@pytest.mark.parametrize("null", [True, False])
def test_labels_are_checked_to_the_last_row_and_called_by_what_it_is(null):
    config = small(null_label=null)
    config.check_labels(None)
    config.check_labels(torch.tensor([0, config.labels - 1]))
    what = "the null label" if null else "this model has no null label"
    for wrong in -1, config.labels:
        with pytest.raises(
            ValueError, match=rf"^labels must be from 0 to {config.labels - 1} \({what}\), not {wrong}$"
        ):
            config.check_labels(torch.tensor([0, wrong]))
    config.check_labels(torch.empty(3, dtype=torch.long, device="meta"))  # elsewhere they are not read


@pytest.mark.parametrize("null", [True, False])
def test_a_file_says_of_the_null_label_only_where_there_is_none(null):
    config = small(null_label=null)
    fields = config.as_json()
    assert fields["architecture"] == "DiT" and ("null_label" in fields) == (not null)
    assert config_of(json.loads(json.dumps(fields))) == config


def test_with_a_learned_variance_there_are_twice_the_channels():
    assert (small().out_channels, small(learned_variance=False).out_channels) == (4, 2)


def test_a_dits_blocks_are_one_stage_on_one_grid():
    config = small()
    assert config.stages == (StageShape("block", ("0", "1", "2"), 4, 16),)
    assert config.block_names == ["block 0", "block 1", "block 2"] and config.stage_blocks == {"block": range(3)}
    assert config.stage_of(2) == config.stages[0] and config.grid_of(2) == config.grid == (2, 6)
    assert config.grid_of(0, (16, 8)) == (4, 2)


def test_a_udits_blocks_are_counted_through_its_stages():
    config = preset("U-DiT-S", input_size=(8, 16), depths=(1, 2, 1))
    assert isinstance(config, UDiTConfig)
    numbers = [number for blocks in config.stage_blocks.values() for number in blocks]
    assert numbers == list(range(8)) and len({*config.block_names}) == 8  # each of its blocks is two of ours
    assert [config.grid_of(number) for number in numbers] == [(8, 16)] * 2 + [(4, 8)] * 4 + [(8, 16)] * 2
    assert [config.grid_of(number, (16, 16)) for number in (1, 2)] == [(16, 16), (8, 8)]
    assert config.stage_of(7) == config.stages[-1]


def test_a_config_of_neither_kind_has_no_grid():
    for name in "grid", "stages":
        with pytest.raises(NotImplementedError):
            getattr(Config(), name)
