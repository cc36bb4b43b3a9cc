"""The papers' tables as data: they name our presets and blocks, and our own count gives their figures."""

import math
from statistics import correlation

import pytest

from dit_lab.experiments.compute import claim_of_sampling
from dit_lab.experiments.papers import DIT, DIT_BLOCKS, DIT_CORRELATION, UDIT, UDIT_DOWNSAMPLERS, UDIT_LADDER
from dit_lab.experiments.scaling import PAPER
from dit_lab.models import BLOCKS, PRESETS, count, ladder, preset

SAID = {**DIT, **UDIT}


def test_they_are_of_the_presets_the_blocks_and_the_rungs_that_there_are():
    assert {*SAID} == {
        name for name in PRESETS if name.split("/")[0] not in ("toy", "DiT-tiny", "DiT-nano", "U-DiT-tiny")
    }
    assert {*DIT_BLOCKS} == {*BLOCKS} and [*UDIT_LADDER] == [*ladder()]


@pytest.mark.parametrize("name", DIT)
def test_our_count_of_a_dit_is_the_papers(name):
    table = count(preset(name))
    assert table.macs / 1e9 == pytest.approx(DIT[name].gmacs, abs=0.021)
    assert table.trained / 1e6 == pytest.approx(DIT[name].params, abs=0.51)


@pytest.mark.parametrize("block", DIT_BLOCKS)
def test_our_count_of_a_block_is_the_papers(block):
    table = count(preset("DiT-XL/2", block=block))
    assert table.macs / 1e9 == pytest.approx(DIT_BLOCKS[block].gmacs, abs=0.025)
    assert table.trained / 1e6 == pytest.approx(DIT_BLOCKS[block].params, abs=0.51)


@pytest.mark.parametrize("rung", [name for name, (gmacs, _) in UDIT_LADDER.items() if gmacs])
def test_our_count_of_a_rung_is_the_papers(rung):
    assert count(rung).macs / 1e9 == pytest.approx(UDIT_LADDER[rung][0], rel=0.03)


def test_the_tables_agree_with_each_other():
    assert DIT_BLOCKS["adaln_zero"] == DIT["DiT-XL/2"]
    assert UDIT_LADDER["toy/token"][1] == list(UDIT_DOWNSAMPLERS.values())[-1]
    gmacs, fid = zip(*((each.gmacs, each.fid) for each in DIT.values()), strict=True)
    assert round(correlation([math.log(each) for each in gmacs], fid), 2) == DIT_CORRELATION == -0.93
    assert f"{correlation(gmacs, fid):.2f}" in PAPER and f"{DIT_CORRELATION}" in PAPER


def test_the_example_of_sampling_compute_is_told_with_the_papers_numbers():
    """They are 80.7 and 15.2 TMACs a picture, a fifth, for the better FID."""
    assert (
        "DiT-L/2 with 1000 steps, at 80.7 TMACs a picture, has an FID of 25.9; DiT-XL/2 with 128, at 15.2, one of 23.7."
    ) in claim_of_sampling()
