"""Qualities by name: each can be sampled in every process, what is given stays, and what cannot be is refused."""

import pytest
from shared import random_model

from dit_lab.diffusion import QUALITIES, check_own, chosen, generate, how_many, process_of, quality
from dit_lab.diffusion.objectives import PROCESSES, objective
from dit_lab.models import Config


@pytest.mark.parametrize("schedule", PROCESSES)
@pytest.mark.parametrize("name", QUALITIES)
def test_every_quality_samples_every_process(name, schedule):
    model = random_model(**objective(schedule))
    assert generate(model, [1], **quality(name, process_of(model.config))).isfinite().all()


def test_the_paper_samples_250_steps_of_ddpm():
    assert quality("paper", process_of(Config())) == dict(sampler="ddpm", steps=250)


def test_a_flow_takes_eulers_steps_in_the_place_of_ddpms_and_leaves_the_qualities_as_they_are():
    flow = process_of(Config(**objective("flow")))
    assert quality("paper", flow) == dict(sampler="euler", steps=250)
    assert QUALITIES["paper"] == quality("paper", process_of(Config())) == dict(sampler="ddpm", steps=250)


def test_what_is_given_stays_and_none_is_not_given():
    process = process_of(Config())
    assert quality("draft", process, sampler="ddim", steps=9, cfg_interval=(100, 900)) == dict(
        sampler="ddim", steps=9, cfg_interval=(100, 900)
    )
    assert quality("draft", process, sampler=None, steps=None) == quality("draft", process)


def test_what_makes_no_sense_is_refused():
    process = process_of(Config())
    with pytest.raises(ValueError, match="there is no quality 'best'; there are draft, good, paper"):
        quality("best", process)
    with pytest.raises(ValueError, match="with steps give sampler too"):
        quality("good", process, steps=9)
    with pytest.raises(ValueError, match="with sampler give steps too"):
        quality("good", process, sampler="heun")


def test_without_a_quality_it_is_50_steps_of_ddim_or_what_is_given():
    process = process_of(Config())
    assert chosen(None, process, None, None) == dict(sampler="ddim", steps=50)
    assert chosen(None, process, "heun", 9) == dict(sampler="heun", steps=9)
    assert chosen("draft", process, None, None) == quality("draft", process)


@pytest.mark.parametrize("given", [("ddim", None), (None, 50)])
def test_a_quality_beside_a_sampler_or_steps_is_refused_and_neither_ignored(given):
    with pytest.raises(ValueError, match="leave out either it or them"):
        chosen("good", process_of(Config()), *given)


OWN = {"draft": dict(sampler="unipc", steps=[999, 400, 20])}


def test_a_checkpoints_own_way_comes_before_that_for_all_and_what_it_lacks_stays():
    model = random_model()
    process = process_of(model.config)
    assert quality("draft", process, OWN) == chosen("draft", process, None, None, OWN) == OWN["draft"]
    assert quality("good", process, OWN) == quality("good", process)
    assert quality("draft", process, OWN, sampler="ddim", steps=9) == dict(sampler="ddim", steps=9)
    check_own(OWN, process)
    drawn = generate(model, [1], **quality("draft", process, OWN))
    assert drawn.equal(generate(model, [1], sampler="unipc", steps=[999, 400, 20]))


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ([], "must be ways by name, of draft, good, paper"),
        ({"best": OWN["draft"]}, "must be ways by name"),
        ({"draft": 6}, "the quality draft must be a sampler and its steps"),
        ({"draft": dict(sampler="unipc")}, "the quality draft must be a sampler and its steps"),
        ({"draft": dict(sampler="sheep", steps=6)}, "has no sampler of this model: 'sheep'"),
        ({"draft": dict(sampler="unipc", steps=[20, 999])}, "falling timesteps"),
        ({"draft": dict(sampler="unipc", steps=0)}, "steps must be a whole number"),
    ],
)
def test_own_ways_that_cannot_be_walked_are_refused(own, told):
    with pytest.raises(ValueError, match=told):
        check_own(own, process_of(Config()))


def test_an_own_way_of_a_flow_has_no_ancestral_steps():
    with pytest.raises(ValueError, match="has no sampler of this model: 'ddpm'"):
        check_own({"paper": dict(sampler="ddpm", steps=250)}, process_of(Config(**objective("flow"))))


def test_steps_are_counted_as_a_number_and_as_timesteps():
    assert how_many(14) == 14 and how_many([999, 20]) == how_many((999, 20)) == 2


def test_a_checkpoint_may_have_a_way_of_its_own_for_every_quality_and_from_the_last_timestep():
    check_own({name: OWN["draft"] for name in QUALITIES}, process_of(Config()))
    check_own(OWN, process_of(Config(schedule="cosine")))  # where latents begin at 995, and pictures at 999
