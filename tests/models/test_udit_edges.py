"""What a U-DiT's config allows at most, and what it says of the first that is too much."""

import pytest

from dit_lab.models import UDiTConfig
from dit_lab.models.config import MOST

TOLD = "depths must have at most 256 blocks in all, and levels that double dim to at most 65536, not"


def test_there_may_be_as_many_blocks_as_are_said_and_no_more():
    assert UDiTConfig(depths=(1, 254, 1)).depth == MOST["depth"] == 512
    with pytest.raises(ValueError, match=TOLD):
        UDiTConfig(depths=(1, 255, 1))


@pytest.mark.parametrize("levels", [2, 3, 4])
def test_the_widest_level_is_the_one_that_has_a_limit(levels):
    depths, dim = (1,) * (2 * levels - 1), MOST["dim"] // 2 ** (levels - 1)
    config = UDiTConfig(depths=depths, dim=dim)
    assert config.levels == levels and max(stage.dim for stage in config.stages) == MOST["dim"]
    with pytest.raises(ValueError, match=TOLD):
        UDiTConfig(depths=depths, dim=dim + 16)


@pytest.mark.parametrize(
    ("size", "told"),
    [
        ((20, 20), "16 or 24, not 20 x 20"),
        ((3, 40), "8 or 40 or 48, not 3 x 40"),
        (
            (36, 8),
            "8 or 16 or 32 or 40, not 36 x 8",
        ),
    ],
)
def test_a_size_that_cannot_be_halved_is_told_the_nearest_that_can(size, told):
    with pytest.raises(ValueError) as refusal:
        UDiTConfig(input_size=size, depths=(1,) * 5)
    multiples = "multiples of 8 (3 resolutions, halved once more for attention)"
    assert str(refusal.value) == f"this U-DiT takes sides that are {multiples}, such as {told}"
    for side in map(int, told.split(",")[0].split(" or ")):
        assert UDiTConfig(input_size=side, depths=(1,) * 5).size == (side, side)


def test_whole_tokens_are_halved_once_less():
    told = "takes sides that are multiples of 4 .3 resolutions., such as 4 or 8 or 12, not 5 x 8"
    with pytest.raises(ValueError, match=told):
        UDiTConfig(input_size=(5, 8), depths=(1,) * 5, downsample="none")
    assert UDiTConfig(input_size=(12, 4), depths=(1,) * 5, downsample="none").grid == (12, 4)
