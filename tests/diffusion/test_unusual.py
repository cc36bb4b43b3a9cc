"""Unusual ways of walking are those of `karras`, `shifted` and `Rescaled`, and a walk that begins late is told of."""

import re

import pytest

from dit_lab.diffusion import Diffusion, Flow, Rescaled, Unusual, check_walk, karras, late, shifted
from dit_lab.diffusion.unusual import SEEN

DIFFUSION, FLOW = Diffusion.named("linear"), Flow()
PROCESSES = pytest.mark.parametrize("process", [DIFFUSION, FLOW], ids=["diffusion", "flow"])


@PROCESSES
def test_the_usual_walk_takes_the_steps_that_are_asked_for_and_no_guide_of_its_own(process):
    usual = Unusual()
    usual.check(1)
    assert usual.guide is None and usual.spaced(process, 7) == 7
    assert usual.spaced(process, (900, 500.5, 0)) == [900, 500.5, 0]


@PROCESSES
def test_karras_steps_are_as_many_as_are_asked_for(process):
    way = Unusual(karras=True)
    way.check(1)
    assert way.spaced(process, 7) == karras(process, 7) and way.guide is None


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_a_flows_steps_are_moved_by_the_shift(shift):
    way = Unusual(shift=shift)
    way.check(1)
    assert way.spaced(FLOW, 7) == shifted(FLOW, 7, shift)


def test_a_shift_that_is_none_and_one_of_a_diffusion_are_refused_and_not_passed_over():
    with pytest.raises(ValueError, match="shift must be a number above 0"):
        Unusual(shift=0).spaced(FLOW, 7)
    with pytest.raises(ValueError, match="a shift is for flow matching"):
        Unusual(shift=3.0).spaced(DIFFUSION, 7)


@pytest.mark.parametrize("share", [0, 0.7, 1.0])
def test_guidance_is_rescaled_by_the_share_that_is_asked_for_at_any_scale_but_1(share):
    way = Unusual(guidance_rescale=share)
    for scale in (0, 0.5, 4.0):
        way.check(scale)
    assert way.guide == Rescaled(share)
    with pytest.raises(ValueError, match="^--guidance-rescale is for guidance: give a --cfg-scale other than 1$"):
        way.check(1.0)
    with pytest.raises(ValueError, match="must be a number from 0 to 1, not 1.5"):
        Unusual(guidance_rescale=1.5).guide  # noqa: B018


@pytest.mark.parametrize("shift", [0, 3.0])
def test_steps_are_shifted_or_karras_and_not_both(shift):
    with pytest.raises(ValueError, match="^steps are shifted or Karras', not both: leave out --shift or --karras$"):
        Unusual(shift=shift, karras=True).check(1)
    Unusual(karras=True).check(1)


@pytest.mark.parametrize("way", [Unusual(karras=True), Unusual(shift=3.0), Unusual(shift=0)])
def test_timesteps_of_their_own_are_not_spaced_anew(way):
    for timesteps in ([900, 500, 0], (900,), []):
        with pytest.raises(
            ValueError, match="^these steps are timesteps of their own: give a number of --steps, or no"
        ):
            way.spaced(FLOW, timesteps)


def test_one_timestep_is_no_walk_and_several_or_a_number_of_steps_are():
    for steps in (1, 50, (900, 100), (2, 1, 0)):
        check_walk(steps)
    with pytest.raises(ValueError) as refused:
        check_walk((300,))
    assert str(refused.value) == (
        "--steps takes a whole number of steps, or several timesteps; 300 is one timestep, which is no walk but from a "
        "picture (sample --from-picture)"
    )


def begun_at(t):
    """What a flow is told of a walk whose first step is `t` of 1000, of which a picture's factor is `1 - t / 1000`."""
    return late(FLOW, [t, 400.0, 100.0])


def test_a_walk_begins_late_from_where_a_picture_should_be_seen_in_the_noise(monkeypatch):
    edge = 1000 * (1 - SEEN)
    assert begun_at(1000.0) == begun_at(edge + 1) == "" and begun_at(edge - 1)
    monkeypatch.setattr("dit_lab.diffusion.unusual.SEEN", 0.5)  # which is exactly a step's
    assert begun_at(501.0) == "" and begun_at(500.0)
    assert begun_at(500.0) == (
        "the walk begins at t = 500 with noise alone, as is right at t = 1000; there should be 0.50 of a picture in "
        "it: begin nearer t = 1000, or with a picture (sample --from-picture)"
    )


@PROCESSES
def test_a_number_of_steps_begins_where_the_process_does(process):
    assert not any(late(process, steps) for steps in (1, 2, 50)) and not late(process, karras(process, 5))


def test_a_diffusions_walk_begins_late_by_its_own_levels():
    there = re.search(r"there should be (.{4}) of a picture", late(DIFFUSION, [300, 200, 100]))
    assert there[1] == f"{DIFFUSION.alpha_bar[300] ** 0.5:.2f}" and "as is right at t = 999" in there.string
