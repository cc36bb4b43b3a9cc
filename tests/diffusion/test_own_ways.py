"""A guide and a sampler that are functions of the caller's own: where they are asked, and what a recorded run says."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from shared import random_model

from dit_lab.diffusion import SAMPLERS, Flow, generate, sample
from dit_lab.inside import TraceError, Trajectory, record

MODEL = random_model()
ASKED = dict(steps=4, cfg_scale=2.0, seed=3)


def usual(cond, uncond, scale):
    return uncond + scale * (cond - uncond)


def straight(process, now, before, ask, noise, eta):
    """DDIM as a learner writes it."""
    a, s = process.levels(now.i - 1)
    return a * now.x0 + s * now.eps


def test_a_guide_of_ones_own_that_mixes_as_usual_changes_no_bit():
    assert torch.equal(generate(MODEL, [1, 2], guide=usual, **ASKED), generate(MODEL, [1, 2], **ASKED))
    channels = dict(cfg_channels=2, cfg_interval=(300, 800))
    expected = generate(MODEL, [1, 2], **channels, **ASKED)
    assert torch.equal(generate(MODEL, [1, 2], guide=usual, **channels, **ASKED), expected)


def test_a_guide_is_asked_where_guidance_runs_with_both_passes_and_the_scale():
    asked = []

    def guide(cond, uncond, scale):
        asked.append((tuple(cond.shape), torch.equal(cond, uncond), scale))
        return uncond

    drawn = generate(MODEL, [1, 2], guide=guide, cfg_interval=(300, 800), **ASKED)
    assert asked == [((2, 3, 8, 12), False, 2.0)] * 2  # of 999, 666, 333 and 0 the two in the middle
    assert not torch.equal(drawn, generate(MODEL, [1, 2], cfg_interval=(300, 800), **ASKED))
    whole = generate(MODEL, [1, 2], guide=lambda cond, uncond, scale: uncond, **ASKED)
    torch.testing.assert_close(whole, generate(MODEL, [5, 5], steps=4, seed=3), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["ddim", "heun", "ddpm"])
def test_a_sampler_that_is_given_as_a_function_walks_as_by_its_name(name):
    expected = generate(MODEL, [1, 2], sampler=name, **ASKED)
    given = lambda *state: SAMPLERS[name](*state)
    assert torch.equal(generate(MODEL, [1, 2], sampler=given, **ASKED), expected)


def test_a_learners_ddim_is_the_librarys_on_a_diffusion_and_on_a_flow():
    torch.testing.assert_close(generate(MODEL, [1], sampler=straight, **ASKED), generate(MODEL, [1], **ASKED))
    flow = random_model(schedule="flow", prediction="velocity", learned_variance=False)
    expected = generate(flow, [1], sampler="euler", process=Flow(), **ASKED)
    torch.testing.assert_close(generate(flow, [1], sampler=straight, **ASKED), expected)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (dict(guide="usual"), "guide must be a function of cond, uncond and scale, not 'usual'"),
        (dict(guide=usual, cfg_scale=1), "at cfg_scale 1 only one is run"),
        (dict(sampler="own"), "there is no sampler 'own'"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(options, told):
    with pytest.raises(ValueError, match=told):
        sample(MODEL, [1], **ASKED | options)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            dict(guide=lambda c, u, s: c[:, :1]),
            r"the guide must give a tensor of \(1, 3, 8, 12\) and gave one of \(1, 1",
        ),
        (dict(guide=lambda c, u, s: None), "the guide must give a tensor .* and gave a NoneType"),
        (dict(sampler=lambda *state: 0.5), "the sampler must give a tensor .* and gave a float"),
        (dict(sampler=lambda p, now, *rest: now.x[:, 0]), r"the sampler must .* and gave one of \(1, 8, 12\)"),
    ],
)
def test_what_gives_something_else_than_a_batch_is_named_at_its_first_step(options, told):
    with pytest.raises(ValueError, match=told):
        next(sample(MODEL, [1], **ASKED | options))


@pytest.mark.parametrize(("name", "function"), [("guide", usual), ("sampler", straight)])
def test_a_recorded_run_says_that_it_was_there_is_kept_and_cannot_be_run_again(name, function, tmp_path):
    run, plain = record(MODEL, [1], **ASKED | {name: function}), record(MODEL, [1], **ASKED)
    assert run.options == plain.options | {name: "own"}
    run.save(tmp_path / "run.safetensors")
    again = Trajectory.load(tmp_path / "run.safetensors")
    assert again.options == run.options and torch.equal(again.x, run.x)
    assert torch.equal(again.attention(MODEL, 1), plain.attention(MODEL, 1))
    with pytest.raises(TraceError, match=f"this run's {name} was a function of its maker's and is not kept"):
        again.edited(MODEL)


def test_the_mix_of_a_guide_that_is_not_kept_has_no_parts_but_its_halves_have():
    run = record(MODEL, [1], guide=usual, **ASKED)
    assert run.guidance(1) is not None
    with pytest.raises(TraceError, match="guided by a function of its maker's"):
        run.contributions(MODEL, 1, half="guided")
    assert run.contributions(MODEL, 1, half="cond").error < 1e-4


def test_a_file_from_before_there_were_guides_opens_and_one_that_names_another_is_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    record(MODEL, [1], **ASKED).save(path)
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["dit_lab"])
    assert about["options"].pop("guide") is None
    save_file(tensors, path, {"dit_lab": json.dumps(about)})
    assert Trajectory.load(path).options["guide"] is None
    for options in {"guide": "mine"}, {"guide": 1}, {"sampler": "mine"}:
        save_file(tensors, path, {"dit_lab": json.dumps(about | {"options": about["options"] | options})})
        with pytest.raises(TraceError, match="the guide must be|there is no sampler 'mine'"):
            Trajectory.load(path)
